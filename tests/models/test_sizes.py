"""All eight Qwen3 models, built without memory from their official configurations, have their exact size."""

import pytest

from octavo.models import skeleton
from octavo.models.decoder import count_parameters

COMMON = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 40960, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_key_value_heads": 4, "num_experts": 128,
    "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "output_router_logits": False, "router_aux_loss_coef": 0.001, "tie_word_embeddings": False,
}  # fmt: skip


def dense(layers: int, width: int, heads: int, *, inner: int, tied: bool) -> dict:
    return {"model_type": "qwen3", "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "intermediate_size": inner, "tie_word_embeddings": tied, "max_window_layers": layers}  # fmt: skip


def sparse(layers: int, width: int, heads: int, *, inner: int, expert: int) -> dict:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "intermediate_size": inner, "moe_intermediate_size": expert, "max_window_layers": layers} | MOE  # fmt: skip


SUITE = {
    "0.6B": (dense(28, 1024, 16, inner=3072, tied=True), 596_049_920),
    "1.7B": (dense(28, 2048, 16, inner=6144, tied=True), 1_720_574_976),
    "4B": (dense(36, 2560, 32, inner=9728, tied=True), 4_022_468_096),
    "8B": (dense(36, 4096, 32, inner=12288, tied=False), 8_190_735_360),
    "14B": (dense(40, 5120, 40, inner=17408, tied=False), 14_768_307_200),
    "32B": (dense(64, 5120, 64, inner=25600, tied=False), 32_762_123_264),
    "30B-A3B": (sparse(48, 2048, 32, inner=6144, expert=768), 30_532_122_624),
    "235B-A22B": (sparse(94, 4096, 64, inner=12288, expert=1536), 235_093_634_560),
}


@pytest.mark.parametrize("name", SUITE)
def test_exact_parameter_count(name: str):
    values, count = SUITE[name]
    model = skeleton(COMMON | values)
    assert count_parameters(model) == count
    assert all(parameter.is_meta for parameter in model.parameters())
