"""The models of `bench.cpu`: shapes of Qwen3 with random weights, in every layout that Octavo and its rivals read.

The 0.6B (or a tiny one) is written once in the official layout (bf16 safetensors, tokenizer.json), and everything else
is made from it by each rival's own tools: GGUF in BF16, quantised by llama.cpp itself, and OpenVINO's export. Of larger
shapes there is one GGUF in Q4_0 whose blocks are random: their speed is what is measured, and bf16 would not fit on the
disk.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.first_light import SHAPE, write_shape
from octavo.models import skeleton
from octavo.models.cost import Cost, cost

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": SHAPE | {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                     "intermediate_size": 512, "max_window_layers": 2},  # to try the harness itself
    "0.6b": SHAPE,
    "4b": SHAPE | {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728,
                   "max_window_layers": 36},
    "8b": SHAPE | {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 12288,
                   "max_window_layers": 36, "tie_word_embeddings": False},
    "30b-a3b": SHAPE | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
                        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4,
                        "intermediate_size": 6144, "max_window_layers": 48, "tie_word_embeddings": False,
                        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
                        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
}  # fmt: skip
WHOLE = ("tiny", "0.6b")  # written in the official layout; of the others there is a GGUF alone
QUANTS = {"q4_0": ("q4_0", False), "q4_0-pure": ("q4_0", True), "q8_0": ("q8_0", False)}  # file -> type, all tensors
# What a block of 32 weights takes: Q4_0 has 16 bytes of weights and an fp16 scale.
Q4_BLOCK, Q4_BLOCK_BYTES = 32, 18


class Tensor(NamedTuple):
    """A tensor of a GGUF file: its name there, its name in the checkpoint, (outputs, inputs) or (width,)."""

    name: str
    source: str
    shape: tuple[int, ...]


def reads(config: dict[str, Any]) -> Cost:
    """What a token of such a model costs."""
    return cost(skeleton(config).config)


def prepared(folder: Path, *, name: str, file: str, rivals: Path) -> Path:
    """The file or folder that a contender reads, made if it is not there yet (minutes, the first time).

    file   official, bf16.gguf, q4_0.gguf, q4_0-pure.gguf, q8_0.gguf, int4 or int8 (OpenVINO)
    """
    target = folder / f"qwen3-{name}" / file
    if target.exists():
        return target
    print(f"making {target} ...", file=sys.stderr, flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"part-{file}")
    if file == "official":
        write_shape(part, SHAPES[name])
        write_tokenizer(part)
    elif name not in WHOLE:
        assert file == "q4_0-pure.gguf", f"{name} exists in Q4_0 only: {file} was asked for"
        write_random_gguf(part, SHAPES[name])
    else:
        official = prepared(folder, name=name, file="official", rivals=rivals)
        if file == "bf16.gguf":
            write_gguf(part, official, SHAPES[name])
        elif file.endswith(".gguf"):
            plain = prepared(folder, name=name, file="bf16.gguf", rivals=rivals)
            call(rivals, "-m", "bench.rivals.quantise", str(plain), str(part), *map(str, QUANTS[file[:-5]]))
        else:
            export = "from optimum.commands.optimum_cli import main; main()"
            call(rivals, "-c", export, "export", "openvino", "-m", str(official), "--task",
                 "text-generation-with-past", "--weight-format", file, str(part))  # fmt: skip
    part.rename(target)
    return target


def call(rivals: Path, *arguments: str) -> None:
    """Run the rivals' Python; what it says goes to stderr."""
    subprocess.run([str(rivals / "bin" / "python"), *arguments], check=True, stdout=sys.stderr)


def write_tokenizer(folder: Path) -> None:
    """Qwen's own tokenizer where its rank file is at hand, else one of as many tokens without a merge."""
    ranks = Path("../shared/data/tokenizer/qwen.tiktoken")
    if ranks.exists():
        from octavo.text.tokenizer import Tokenizer

        Tokenizer.from_tiktoken(ranks).save(folder)
        return
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = letters + [f"{a}{b}{c}" for a in letters for b in letters for c in letters[:3]]
    tokenizer = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names[:151_643])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )


def tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    """All tensors of a Qwen3 as GGUF has them."""
    width, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield Tensor("token_embd.weight", "model.embed_tokens.weight", (config["vocab_size"], width))
    yield Tensor("output_norm.weight", "model.norm.weight", (width,))
    if not config["tie_word_embeddings"]:
        yield Tensor("output.weight", "lm_head.weight", (config["vocab_size"], width))
    for i in range(config["num_hidden_layers"]):
        own = [
            ("attn_norm", "input_layernorm", (width,)), ("ffn_norm", "post_attention_layernorm", (width,)),
            ("attn_q_norm", "self_attn.q_norm", (head,)), ("attn_k_norm", "self_attn.k_norm", (head,)),
            ("attn_q", "self_attn.q_proj", (queries, width)), ("attn_k", "self_attn.k_proj", (keys, width)),
            ("attn_v", "self_attn.v_proj", (keys, width)), ("attn_output", "self_attn.o_proj", (width, queries)),
            *feed_forward(config),
        ]  # fmt: skip
        for name, source, shape in own:
            yield Tensor(f"blk.{i}.{name}.weight", f"model.layers.{i}.{source}.weight", shape)


def feed_forward(config: dict[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """One layer's MLP, or its router and experts (which the checkpoint has one by one, so without a source here)."""
    width = config["hidden_size"]
    if "num_experts" not in config:
        inner = config["intermediate_size"]
        return [("ffn_gate", "mlp.gate_proj", (inner, width)), ("ffn_up", "mlp.up_proj", (inner, width)),
                ("ffn_down", "mlp.down_proj", (width, inner))]  # fmt: skip
    experts, inner = config["num_experts"], config["moe_intermediate_size"]
    return [("ffn_gate_inp", "mlp.gate", (experts, width)), ("ffn_gate_exps", "", (experts, inner, width)),
            ("ffn_up_exps", "", (experts, inner, width)), ("ffn_down_exps", "", (experts, width, inner))]  # fmt: skip


def write_gguf(path: Path, official: Path, config: dict[str, Any]) -> None:
    """A model in BF16, from its safetensors."""
    import torch
    from safetensors import safe_open

    with safe_open(official / "model.safetensors", "pt") as file:

        def read(tensor: Tensor) -> NDArray[Any]:
            values = file.get_tensor(tensor.source)
            return values.float().numpy() if values.dim() == 1 else values.view(torch.uint8).numpy()

        write(path, config, large="BF16", read=read)


def write_random_gguf(path: Path, config: dict[str, Any]) -> None:
    """Any shape in Q4_0 with random blocks of a sane size; router and norms in F32. All of it, the head too."""
    random = np.random.default_rng(0)

    def read(tensor: Tensor) -> NDArray[Any]:
        if len(tensor.shape) == 1:
            return np.ones(tensor.shape, np.float32)
        if "ffn_gate_inp" in tensor.name:
            return random.normal(0, 0.02, tensor.shape).astype(np.float32)
        blocks = random.integers(0, 256, (*tensor.shape[:-1], tensor.shape[-1] // Q4_BLOCK, Q4_BLOCK_BYTES), np.uint8)
        blocks[..., :2] = np.frombuffer(np.float16(0.005).tobytes(), np.uint8)
        return blocks.reshape(*tensor.shape[:-1], -1)

    write(path, config, large="Q4_0", read=read)


def write(path: Path, config: dict[str, Any], *, large: str, read: Any) -> None:
    """A GGUF without vocabulary, tensor by tensor. large: type of all that has more than one axis and is no router."""
    import gguf

    moe = "num_experts" in config
    writer = gguf.GGUFWriter(path, "qwen3moe" if moe else "qwen3", use_temp_file=False)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    if moe:
        writer.add_expert_count(config["num_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    kind = gguf.GGMLQuantizationType[large]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    for tensor in tensors(config):
        plain = len(tensor.shape) == 1 or "ffn_gate_inp" in tensor.name
        shape = tensor.shape if plain else (*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
        dtype = np.dtype(np.float32 if plain else np.uint8)
        size = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(tensor.name, shape, dtype, size, None if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors(config):
        writer.write_tensor_data(read(tensor))
    writer.close()
