"""Tiny GGUF files of every family and type, written by the `gguf` package with its own table of names."""

from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import torch
import transformers

WIDTH, HEADS, KV_HEADS, HEAD, LAYERS, VOCAB, EXPERTS = 256, 4, 2, 64, 2, 96, 4
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, "Llama"), "qwen2": (gguf.MODEL_ARCH.QWEN2, "Qwen2"),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, "Qwen3"), "qwen3moe": (gguf.MODEL_ARCH.QWEN3MOE, "Qwen3Moe"),
}  # fmt: skip
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 512, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "max_position_embeddings": 128,
    "rope_theta": 1e6, "rms_norm_eps": 1e-5, "initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": None,
}  # fmt: skip
SPARSE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}


def random_model(architecture: str, *, tied: bool, seed: int = 0) -> Any:
    """A model of `transformers` in fp32; norms and biases are random too."""
    torch.manual_seed(seed)
    name = ARCHITECTURES[architecture][1]
    values = SIZES | (SPARSE if architecture == "qwen3moe" else {}) | {"tie_word_embeddings": tied}
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def stored_tensors(architecture: str, model: Any) -> dict[str, np.ndarray]:
    """Name in GGUF -> numbers, in the order and with the layout that llama.cpp's converter gives them."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture][0], LAYERS)
    found: dict[str, np.ndarray] = {}

    def put(official: str, tensor: torch.Tensor) -> None:
        body, _, leaf = official.rpartition(".")
        name = names.get_name(body)
        assert name is not None, official
        found[f"{name}.{leaf}"] = tensor.detach().float().contiguous().numpy()

    tied = model.config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            prefix = name.removesuffix("gate_up_proj")
            put(f"{prefix}gate_proj.weight", gate)
            put(f"{prefix}up_proj.weight", up)
        elif name.endswith("experts.down_proj"):
            put(f"{name}.weight", tensor)
        elif architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = HEADS if ".q_proj." in name else KV_HEADS
            put(name, tensor.unflatten(0, (heads, 2, HEAD // 2)).transpose(1, 2).reshape(tensor.shape))
        else:
            put(name, tensor)
    return found


def quantised(values: np.ndarray, kind: gguf.GGMLQuantizationType, draw: np.random.Generator) -> np.ndarray:
    """Blocks of a type. The package cannot make K types, so theirs are random bytes with sane scales."""
    if kind.name in ("F32", "F16"):
        return values.astype(np.float32 if kind.name == "F32" else np.float16)
    if not kind.name.endswith("_K"):
        return gguf.quants.quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = draw.integers(0, 256, (*values.shape[:-1], values.shape[-1] // block, size), dtype=np.uint8)
    scales = draw.uniform(1e-4, 4e-4, (*raw.shape[:-1], 2)).astype(np.float16).view(np.uint8)
    if kind.name == "Q6_K":
        raw[..., -2:] = scales[..., :2]
    else:
        raw[..., :4] = scales
    return raw.reshape(*values.shape[:-1], -1)


def write_gguf(path: Path, architecture: str, *, kind: str = "F32", tied: bool = False, seed: int = 0,
               extra: dict[str, Any] | None = None, bands: np.ndarray | None = None,
               tokenizer: bool = False) -> Any:  # fmt: skip
    """Write a file; matrices in `kind`, norms, biases and routers in F32. Returns the model it was made of.

    bands   what `rope_freqs.weight` holds
    """
    model = random_model(architecture, tied=tied, seed=seed)
    writer, draw = gguf.GGUFWriter(path, architecture), np.random.default_rng(seed)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(512)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(VOCAB)
    if architecture == "llama":
        writer.add_rope_dimension_count(HEAD)
    if architecture == "qwen3moe":
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(256)
    for key, value in (extra or {}).items():
        add: Any = {float: writer.add_float32, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        add[type(value)](key, value)
    if tokenizer:
        add_tokenizer(writer)
    wanted = gguf.GGMLQuantizationType[kind]
    factors = {} if bands is None else {"rope_freqs.weight": bands}
    for name, values in (stored_tensors(architecture, model) | factors).items():
        plain = values.ndim == 1 or "ffn_gate_inp" in name
        raw = values if plain else quantised(values, wanted, draw)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.F32 if plain else wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """Byte-level BPE of `VOCAB` tokens: letters, two merges, two control tokens."""
    tokens = ["<|a|>", "<|b|>", *(chr(code) for code in range(33, 127))]
    merges = ["a b", "ab c"]
    tokens = [*tokens[: VOCAB - 2], "ab", "abc"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (VOCAB - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and its config: byte-level BPE of 160 tokens and fewer."""
    import json

    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocab = {token: id for id, token in enumerate([*sorted(letters), "ab", "abc", "ca"])}
    made = tokenizers.Tokenizer(models.BPE(vocab, [("a", "b"), ("ab", "c"), ("c", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|a|>"])
    made.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|a|>", "tokenizer_class": "Qwen2Tokenizer", "chat_template": "{{ messages }}",
              "added_tokens_decoder": {"259": {"content": "<|a|>", "special": True}}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
