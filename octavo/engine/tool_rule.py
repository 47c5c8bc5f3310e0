"""Calls between the tokens that open and close them: their bodies match a grammar, and so does what stands around them.

Where a format has no such tokens, calls are the answer itself, and `GrammarRule` holds it to them.
"""

from collections.abc import Iterable, Sequence
from copy import copy

import llguidance
import numpy as np
from numpy.typing import NDArray

from octavo.core.channel import Channel, Markers
from octavo.core.errors import RequestError
from octavo.engine.grammar import GrammarRule, Grammars, answer_lark, json_lark, quoted
from octavo.engine.limits import first_line, follow
from octavo.engine.rules import allow, forbid
from octavo.engine.types import CallForm, Calls, Request, Rule, vocabulary_of


def answer_rules(request: Request, grammars: Grammars, *, may_think: bool) -> list[Rule]:
    """What holds the answer and the calls of a request. may_think: the model may open a thinking before its answer.

    Raises RequestError for a grammar that cannot be compiled, saying why; of a call, naming its function.
    """
    s, m, calls, vocabulary = request.sampling, request.markers, request.calls, vocabulary_of(request)
    shaped = s.schema is not None or s.regex is not None or bool(s.choice)
    tagged = calls is not None and m.tool_open is not None and m.tool_close is not None
    text, rules = "", list[Rule]()
    if calls is not None and tagged:
        body = _matcher(f"start: call\n{calls_lark(calls.forms)}", request, grammars)
        rules.append(ToolRule(body, m, calls, may_think=may_think, end=vocabulary.end,
                              vocab_size=len(vocabulary.tokens)))  # fmt: skip
        text = "" if calls.required or not shaped else f"start: answer\n{answer_lark(s)}"
    elif calls is not None:
        answer = "" if calls.required else answer_lark(s) if shaped else _other_text(calls.forms)
        text = f"start: call {'| answer' if answer else ''}\n{calls_lark(calls.forms)}{answer}"
    elif shaped:
        text = f"start: answer\n{answer_lark(s)}"
    if text:
        matcher = _matcher(text, request, grammars)
        rules.append(GrammarRule(matcher, m, may_think=may_think, may_call=tagged, end=vocabulary.end,
                                 vocab_size=len(vocabulary.tokens)))  # fmt: skip
    return rules


def calls_lark(forms: Sequence[CallForm]) -> str:
    """The rule `call` of a grammar in Lark's language."""
    lines = ["call: " + " | ".join(f"call{i}" for i in range(len(forms)))]
    for i, form in enumerate(forms):
        lines.append(f"call{i}: {quoted(form.before)} args{i} {quoted(form.after)}")
        lines.append(f"args{i}: {json_lark(form.schema)}")
    return "\n".join(lines) + "\n"


def _other_text(forms: Sequence[CallForm]) -> str:
    """The rule `answer`: text that cannot be mistaken for the beginning of a call."""
    first = "".join(f"\\x{ord(letter):02x}" for letter in sorted({form.before[0] for form in forms}))
    return f'answer: "" | /[^{first}\\s](.|\\n)*/'


def _matcher(text: str, request: Request, grammars: Grammars) -> llguidance.LLMatcher:
    """The grammar's matcher. Raises RequestError naming the function whose schema is at fault."""
    vocabulary = vocabulary_of(request)
    try:
        return grammars.matcher(text, vocabulary)
    except RequestError:
        for form in request.calls.forms if request.calls is not None else ():
            problem = llguidance.LLMatcher.validate_grammar("start: " + json_lark(form.schema))
            if problem:
                raise RequestError(f"the parameters of the tool {form.name!r} cannot be used: {first_line(problem)}. "
                                   f"Simplify them.") from None  # fmt: skip
        raise


class ToolRule:
    """Holds calls to what they may be; where they are required, lets the model do nothing else once it has thought.

    So too within thinking that is not closed, whose calls count; once it is closed, they were only thought of.
    """

    def __init__(self, body: llguidance.LLMatcher, markers: Markers, calls: Calls, *, may_think: bool, end: int,
                 vocab_size: int) -> None:  # fmt: skip
        """body: a matcher at the start of a call. markers: with tool_open and tool_close."""
        assert markers.tool_open is not None and markers.tool_close is not None
        self.body, self.vocab_size = body, vocab_size
        self.open, self.close, self.ends = markers.tool_open, markers.tool_close, markers.end
        self.required, self.parallel = calls.required, calls.parallel
        self.gap, self.think_close = markers.gap, markers.think_close
        self.opens = markers.think_open if may_think else None
        self.never = {end, *markers.end, self.open, self.close}  # though a call's text may spell it: it is a border
        self.never |= {id for id in (markers.think_open, markers.think_close) if id is not None}
        self.next_call = (*calls.between, self.open)  # what leads from one call to the next
        self.gap_left: tuple[int, ...] = ()
        self.call: llguidance.LLMatcher | None = None
        self.made, self.towards = 0, 0  # calls that are whole; tokens of `next_call` that were said

    def forced(self, at: Channel) -> tuple[int, ...]:
        """What must come: the gap after a thinking, the first call, the end of one, the rest of a way to the next."""
        if self.call is not None:
            return (self.close,) if self.call.is_stopped() else ()
        if self.gap_left or at is not Channel.ANSWER:
            return self.gap_left
        if self.made and (self.towards or not self.parallel):
            return self.next_call[self.towards :] if self.towards else self.ends[:1]
        return (self.open,) if self.required and not self.made and self.opens is None else ()

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """Within a call what its grammar allows; after one, another or the end; before the first, what is required."""
        if self.call is not None:
            return self._body(self.call)
        if at is Channel.TOOL:  # a call that the prompt began
            return None
        if at is not Channel.ANSWER:
            if self.required:
                return self._all_but((self.open, *self.ends))
            return self._all_but((self.open,)) if self.made and not self.parallel else None
        if self.made:
            return self._only((self.next_call[0], *self.ends))
        return self._only((self.open, self.opens)) if self.required else None

    def accept(self, token: int, channel: Channel) -> None:
        """Follow the thinking, the calls, and what stands between them."""
        if channel is Channel.CLOSING:
            begins = token == self.think_close and not self.gap_left
            self.gap_left = (self.gap if begins else self.gap_left[1:]) if self.required else ()
            self.call, self.made, self.towards = None, 0, 0
        elif channel is Channel.ANSWER:
            self.towards += bool(self.made and token == self.next_call[self.towards])
        else:
            self._follow(token)
        self.opens = self.opens if channel is Channel.CLOSING else None

    def _follow(self, token: int) -> None:
        if self.call is None:
            self.call, self.towards = self.body.deep_copy() if token == self.open else None, 0
        elif token == self.close:
            self.call, self.made = None, self.made + 1
        else:
            follow(self.call, token)

    def finished(self) -> bool:
        """Whether nothing can follow: the one call was made, and no token ends a reply."""
        return bool(self.made) and not self.parallel and not self.ends

    def clone(self) -> "ToolRule":
        """An independent copy."""
        other = copy(self)
        other.call = None if self.call is None else self.call.deep_copy()
        return other

    def _body(self, call: llguidance.LLMatcher) -> NDArray[np.int32]:
        mask = np.zeros((self.vocab_size + 31) // 32, dtype=np.int32)
        call.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if call.is_error():
            raise RequestError(f"the grammar of a call failed: {first_line(call.get_error())}. Simplify its schema.")
        for id in self.never:
            forbid(mask, id)
        if call.is_accepting():
            allow(mask, self.close)
        return mask

    def _only(self, tokens: Iterable[int | None]) -> NDArray[np.int32]:
        mask = np.zeros((self.vocab_size + 31) // 32, dtype=np.int32)
        for id in tokens:
            if id is not None:
                allow(mask, id)
        return mask

    def _all_but(self, tokens: Iterable[int]) -> NDArray[np.int32]:
        mask = np.full((self.vocab_size + 31) // 32, -1, dtype=np.int32)
        for id in tokens:
            forbid(mask, id)
        return mask
