"""config.json is read strictly: what is missing, wrong or not understood is one clear error."""

import pytest

from octavo.core.errors import ConfigError
from octavo.models import read_config
from tests.models.test_sizes import COMMON, SUITE

GOOD = COMMON | SUITE["0.6B"][0]
YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt_neox"}, "gpt_neox.*qwen3"),
        ({"model_type": None}, "model_type=None"),
        ({"model_type": ["qwen3"]}, "model_type="),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": "1024"}, "hidden_size='1024'.*int"),
        ({"hidden_size": True}, "hidden_size=True.*int"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000.*1,024"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"head_dim": 127}, "head_width=127 is odd"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"layer_types": ["sliding_attention"]}, "layer_types"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0.0}}, "cannot be"),
        ({"rope_scaling": YARN | {"beta_fast": 1.0, "beta_slow": 32.0}}, "beta_fast above"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}}, "high_freq_factor above"),
        ({"is_causal": False}, "is_causal=False"),
        ({"rope_interleaved": True}, "rope_interleaved=True"),
        ({"use_qk_norm": False}, "use_qk_norm=False"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}}, "mscale=0.7"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_scaling": [4]}, "rope_scaling"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"attn_logit_softcapping": 50.0}, "does not understand.*attn_logit_softcapping"),
    ],
)
def test_what_cannot_be_run_right_is_refused(change: dict, says: str):
    with pytest.raises(ConfigError, match=says):
        read_config(GOOD | change)


def test_both_rope_dialects_read_the_same():
    old = read_config(
        GOOD | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}
    )
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    values = {k: v for k, v in GOOD.items() if k not in ("rope_theta", "rope_scaling")}
    assert old == read_config(values | {"rope_parameters": rope})
    assert old.rope.kind == "yarn" and old.rope.theta == 1e6


def test_zeros_of_yarn_are_its_defaults_as_in_transformers():
    zeros = YARN | {"beta_fast": 0.0, "beta_slow": 0.0, "original_max_position_embeddings": 32768}
    read = read_config(GOOD | {"rope_scaling": zeros})
    assert read == read_config(GOOD | {"rope_scaling": zeros | {"beta_fast": 32.0, "beta_slow": 1.0}})


def test_switched_off_fields_and_notes_are_harmless():
    assert read_config(
        GOOD | {"_name_or_path": "x", "some_new_switch": False, "torch_dtype": "float32"}
    ) == read_config(GOOD)


def test_notes_of_official_models_change_nothing():
    notes = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}}
    llama = COMMON | SUITE["0.6B"][0] | {"model_type": "llama"}
    assert read_config(llama | notes) == read_config(llama)
    assert read_config(GOOD | {"use_qk_norm": True, "is_causal": True}) == read_config(GOOD)
