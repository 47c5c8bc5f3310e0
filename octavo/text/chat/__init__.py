"""Chat formats: one file each, one table, and `choose_format`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from octavo.text.chat.base import Format
from octavo.text.chat.chatml import ChatMl, Qwen2, SmolLm2
from octavo.text.chat.choose import choose
from octavo.text.chat.llama3 import Llama3, Llama31, Llama32
from octavo.text.chat.qwen2_5 import Qwen25
from octavo.text.chat.qwen3 import Qwen3, Qwen3Instruct, Qwen3Thinking

if TYPE_CHECKING:
    from octavo.text.tokenizer import Tokenizer

# The formats written by hand. A model whose template gives something else is rendered by its template: `JinjaFormat`.
FORMATS: dict[str, type[Format]] = {
    "qwen3": Qwen3,
    "qwen3_thinking": Qwen3Thinking,
    "qwen3_instruct": Qwen3Instruct,
    "qwen2_5": Qwen25,
    "qwen2": Qwen2,
    "smollm2": SmolLm2,
    "chatml": ChatMl,
    "llama3_2": Llama32,
    "llama3_1": Llama31,
    "llama3": Llama3,
}


def choose_format(
    tokenizer: "Tokenizer", *, model_type: str, name: str, generation_config: Mapping[str, Any] = {}
) -> Format:
    """The format that a model speaks.

    With a chat template: the format that renders what the template does, else the template itself. Without one: by the
    tokenizer's tokens, the model type of config.json and the model's name. Raises FormatError for a model that has
    neither, for a template that fails, and for a generation_config.json that is not what it must be.
    """
    return choose(FORMATS, tokenizer, model_type=model_type, name=name, generation_config=generation_config)
