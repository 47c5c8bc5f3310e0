"""Qwen2.5: like Qwen3 Instruct, with a system text of its own. Source: chat_template of Qwen2.5-7B-Instruct."""

from octavo.core.sampling import Sampling
from octavo.text.chat.base import canonical_json
from octavo.text.chat.hermes import HermesFamily


class Qwen25(HermesFamily):
    """Qwen2.5 Instruct and Coder. Sampling: generation_config.json of Qwen2.5-7B-Instruct."""

    name = "qwen2_5"
    default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

    def _shown_arguments(self, text: str) -> str:
        return canonical_json(text)

    def _card(self, thinking_on: bool) -> Sampling:
        return Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
