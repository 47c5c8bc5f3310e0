"""What the next turn's prompt begins with, whatever is said in it."""

from msgspec import Struct
from msgspec.structs import replace

from octavo.core.errors import FormatError
from octavo.core.messages import Message, ToolSpec
from octavo.core.sampling import Thinking
from octavo.engine.pages import common
from octavo.text.chat.base import Format
from octavo.text.tokenizer import Tokenizer

# A token that what is said would merge with is none of the common beginning: one begins a word, the other a line.
SAID = ("a", "\n")


class Conversation(Struct, frozen=True, kw_only=True):
    """What a prompt is rendered from.

    space    whose cached prompts it may meet, see `Request`
    resume   the reply goes on with the last message, an assistant's
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    thinking: Thinking = Thinking()
    space: str = ""
    resume: bool = False

    def saying(self, message: Message) -> "Conversation":
        """With one more message, or with more of the last one."""
        if self.resume:
            begun = self.messages[-1]
            whole = replace(message, content=begun.text + message.text, thinking=begun.thinking)
            return replace(self, messages=(*self.messages[:-1], whole), resume=False)
        return replace(self, messages=(*self.messages, message))

    def tokens(self, form: Format, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The prompt for the next reply. Raises FormatError where the format cannot express the conversation."""
        render = form.resume if self.resume else form.render
        return render(self.messages, tools=self.tools, thinking=self.thinking).tokens(tokenizer)

    def history(self, form: Format, tokenizer: Tokenizer) -> tuple[int, ...]:
        """What all prompts have in common that go on from here: the history as the format renders it next turn.

        Next comes a tool's result where the last message calls for one, else the user. Empty where the format cannot
        go on. Next turn's mode matters only to formats that write it into the history; there it is taken to stay.
        """
        calls = self.messages[-1].tool_calls
        role, id = ("tool", calls[0].id) if calls else ("user", "")
        try:
            one, other = (
                self.saying(Message(role=role, content=text, tool_call_id=id)).tokens(form, tokenizer) for text in SAID
            )
        except FormatError:
            return ()
        return one[: common(one, other)]
