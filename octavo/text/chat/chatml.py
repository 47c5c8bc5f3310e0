"""ChatML: turns between `<|im_start|>role` and `<|im_end|>`. Plain, or with the system text of SmolLM2 or Qwen2."""

from collections.abc import Iterable, Iterator, Sequence

from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Sampling, Thinking
from octavo.text.chat.base import Span, TurnFormat, own

OPEN, CLOSE = "<|im_start|>", "<|im_end|>"


def turn(role: str, content: str) -> Iterator[Span]:
    """One turn that the model did not write."""
    yield own(f"{OPEN}{role}\n")
    yield Span(content)
    yield own(f"{CLOSE}\n")


class ChatMlFamily(TurnFormat):
    """What all formats with ChatML's turns have in common."""

    turn_open, ends, after_end = OPEN, (CLOSE, "<|endoftext|>"), "\n"

    def _opening(self, thinking: Thinking) -> tuple[Span, ...]:
        return (own(f"{OPEN}assistant\n"),)


class ChatMl(ChatMlFamily):
    """Plain ChatML, without tools and thinking: messages as they are."""

    name = "chatml"
    default_system: str | None = None
    sampling = Sampling(temperature=0.7, top_p=0.9)

    def _turns(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: Thinking) -> Iterator[Span]:
        if self.default_system is not None and messages[0].role != "system":
            yield from turn("system", self.default_system)
        yield from self._given(messages)

    def _given(self, messages: Sequence[Message]) -> Iterable[Span]:
        for message in messages:
            if message.role == "assistant":
                trained = not message.thinking  # a reply whose thinking is left out is not what the model wrote
                yield own(f"{OPEN}assistant\n")
                yield Span(message.text, trained=trained)
                yield own(CLOSE, trained=trained)
                yield own("\n")
            else:
                yield from turn(message.role, message.text)

    def _card(self, thinking_on: bool) -> Sampling:
        return self.sampling


class SmolLm2(ChatMl):
    """SmolLM2-Instruct. Source: chat_template of its GGUF; sampling: model card."""

    name = "smollm2"
    default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    sampling = Sampling(temperature=0.2, top_p=0.9)


class Qwen2(ChatMl):
    """Qwen1.5 and Qwen2. Source: chat_template and generation_config.json of Qwen2-7B-Instruct."""

    name = "qwen2"
    default_system = "You are a helpful assistant."
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
