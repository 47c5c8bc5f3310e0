"""How steps become text: stop strings end it exactly where they begin, whatever the tokens and what stands between."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.chat.reader import ReplyReader
from octavo.core.channel import Channel
from octavo.core.messages import ToolSpec
from octavo.core.sampling import Sampling
from octavo.core.vocabulary import Vocabulary
from octavo.engine.rules import StopRule
from octavo.engine.types import Request, Step
from octavo.text.chat import FORMATS
from octavo.text.tokenizer import Tokenizer
from tests.chat.models import qwen_tokenizer

LITERAL = "<tool_response>"  # an added token that is no control token: it is shown
TEXT = st.text(alphabet="abå猫 ", min_size=1, max_size=4)


def vocabulary(tokenizer: Tokenizer, tokens: list[int]) -> Vocabulary:
    """Of the tokens that are said only: the others would take a second."""
    spelled = [b""] * (max(tokens, default=0) + 1)
    for token in tokens:
        spelled[token] = tokenizer.token_bytes(token)
    return Vocabulary(tokens=tuple(spelled), special=tokenizer.added_ids)


def read(tokens: list[int], stops: tuple[str, ...], *, piecemeal: bool) -> tuple[str, str, int]:
    """The text and the stop string that a reader makes of tokens, and how many tokens there were before the end."""
    tokenizer = qwen_tokenizer()
    rule = StopRule(stops, vocabulary(tokenizer, tokens))
    request = Request(id="r", tokens=(0,), sampling=Sampling(stop=stops))
    reader, steps = ReplyReader(FORMATS["qwen3"](), tokenizer, request, tools=[ToolSpec(name="f")]), list[Step]()
    for token in tokens:
        rule.accept(token, Channel.ANSWER)
        steps.append(Step(id="r", index=0, token=token, channel=Channel.ANSWER, keep_bytes=rule.keep_bytes,
                          finish="stop" if rule.finished() else None))  # fmt: skip
        if rule.finished():
            break
    else:
        steps.append(Step(id="r", index=0, token=None, channel=Channel.ANSWER, finish="length"))
    if piecemeal:
        for step in steps:
            list(reader.read(step, after_s=0.0))
    else:
        reader.whole(steps)
    return reader.text, reader.stop, sum(step.token is not None for step in steps)


def cut(data: bytes, stops: tuple[str, ...]) -> tuple[str, str] | None:
    """What stands before the first of the stop strings, and which it is."""
    places = [place for stop in stops if (place := data.find(stop.encode())) >= 0]
    if not places:
        return None
    rest = data[min(places) :]
    return data[: min(places)].decode(), next(stop for stop in stops if rest.startswith(stop.encode()))


@settings(max_examples=300)
@given(pieces=st.lists(st.one_of(TEXT, st.just(LITERAL)), max_size=12), stops=st.lists(TEXT, min_size=1, max_size=3),
       bytewise=st.booleans(), piecemeal=st.booleans())  # fmt: skip
def test_the_text_ends_where_the_first_stop_string_begins(pieces: list[str], stops: list[str], bytewise: bool,
                                                          piecemeal: bool):  # fmt: skip
    """For stop strings of one character too, among added tokens, and however the text was cut into tokens."""
    tokenizer = qwen_tokenizer()
    parts = [part for piece in pieces for part in ([piece] if piece == LITERAL or not bytewise else piece)]
    tokens = [token for part in parts for token in tokenizer.encode(part, special=True)]
    text, stop, count = read(tokens, tuple(stops), piecemeal=piecemeal)
    ends = (found for n in range(len(tokens) + 1) if (found := cut(
        b"".join(map(tokenizer.token_bytes, tokens[:n])), tuple(stops))))  # fmt: skip
    assert (text, stop) == next(ends, ("".join(pieces), ""))
    assert count <= len(tokens)


@pytest.mark.parametrize("said, stop, text", [
    (["boat"], "t", "boa"), ([LITERAL, "Answ"], "nsw", f"{LITERAL}A"),
    (["x", LITERAL, "Answ", " ok", " ", "then"], "then", f"x{LITERAL}Answ ok "), (["n", LITERAL, "sw"], "nsw", None),
])  # fmt: skip
def test_no_letter_before_a_stop_string_is_lost(said: list[str], stop: str, text: str | None):
    tokens = [token for piece in said for token in qwen_tokenizer().encode(piece, special=True)]
    wanted = ("".join(said), "") if text is None else (text, stop)  # None: with a token in its midst it is none
    assert read(tokens, (stop,), piecemeal=True)[:2] == wanted
