"""What a reply must and must not do: end, stop thinking in time, spell what was asked for.

Each rule is a pure state machine over tokens (`octavo.engine.types.Rule`); `Rules` runs all of a reply's as one.
"""

from collections.abc import Sequence
from copy import copy
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from octavo.core.channel import Channel, Markers
from octavo.core.vocabulary import Vocabulary
from octavo.engine.channels import Automaton
from octavo.engine.types import Rule

ThinkingStop = Literal["natural", "budget", "user"]


class EndRule:
    """Ends the reply at one of the format's end tokens."""

    def __init__(self, end: Sequence[int]) -> None:
        self.end, self.ended = frozenset(end), False

    def forced(self, at: Channel) -> tuple[int, ...]:
        """None ever."""
        return ()

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """All."""
        return None

    def accept(self, token: int, channel: Channel) -> None:
        """Look for an end token."""
        self.ended = self.ended or token in self.end

    def finished(self) -> bool:
        """Whether there was one."""
        return self.ended

    def clone(self) -> "EndRule":
        """An independent copy."""
        return copy(self)


class StopRule:
    """Ends the reply where its answer spells one of the stop strings.

    keep_bytes   bytes of the answer before the stop string; None until one was found
    """

    def __init__(self, stop: Sequence[str], vocabulary: Vocabulary) -> None:
        self.stops, self.vocabulary = [text.encode() for text in stop], vocabulary
        self.reach = max(len(text) for text in self.stops) - 1
        self.tail, self.before = b"", 0
        self.keep_bytes: int | None = None

    def forced(self, at: Channel) -> tuple[int, ...]:
        """None ever."""
        return ()

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """All."""
        return None

    def accept(self, token: int, channel: Channel) -> None:
        """Look for a stop string that ends within this token; the one that begins first counts.

        It is whole: no thinking, call or added token stands within it.
        """
        if self.keep_bytes is not None:
            return
        if channel is not Channel.ANSWER or token in self.vocabulary.special:
            self.tail, self.before = b"", self.before + len(self.tail)
            return
        text = self.tail + self.vocabulary.tokens[token]
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.keep_bytes = self.before + min(found)
        kept = len(text) - min(self.reach, len(text))
        self.tail, self.before = text[kept:], self.before + kept

    def finished(self) -> bool:
        """Whether a stop string was found."""
        return self.keep_bytes is not None

    def clone(self) -> "StopRule":
        """An independent copy."""
        return copy(self)


class BudgetRule:
    """Closes the thinking when its budget is used up, or when the user says so, by the format's early-stop text.

    spent   thinking tokens so far, over all thinking of the reply;   stop   how the last thinking ended
    With nothing left to spend, no thinking is opened again.
    """

    stop: ThinkingStop | None

    def __init__(self, markers: Markers, *, budget: int | None, vocab_size: int) -> None:
        self.markers, self.budget, self.vocab_size = markers, budget, vocab_size
        close = () if markers.think_close is None else (markers.think_close, *markers.gap)
        self.early_stop = markers.early_stop or close
        self.spent, self.stop, self.asked, self.closing = 0, None, False, 0
        self.mask: NDArray[np.int32] | None = None
        if budget is not None:
            self._unopened()  # now, so that all clones share one

    @property
    def over(self) -> bool:
        """Whether there is nothing left to spend."""
        return self.asked or (self.budget is not None and self.spent >= self.budget)

    def end_now(self) -> None:
        """The user's wish: no more thinking."""
        self.asked = True

    def forced(self, at: Channel) -> tuple[int, ...]:
        """What is left of the early-stop text, once it was begun or is due."""
        if self.closing or (at is Channel.THINKING and self.over):
            return self.early_stop[self.closing :]
        return ()

    def allowed(self, at: Channel) -> NDArray[np.int32] | None:
        """All but the token that opens a thinking for which nothing is left."""
        if not self.over or self.markers.think_open is None:
            return None
        return self._unopened() if self.mask is None else self.mask

    def _unopened(self) -> NDArray[np.int32]:
        self.mask = np.full((self.vocab_size + 31) // 32, -1, dtype=np.int32)
        if self.markers.think_open is not None:
            forbid(self.mask, self.markers.think_open)
        return self.mask

    def close(self) -> None:
        """One more token of the early-stop text, which was forced."""
        if not self.closing:
            self.stop = "user" if self.asked else "budget"
        self.closing = (self.closing + 1) % len(self.early_stop)

    def accept(self, token: int, channel: Channel) -> None:
        """Count a token that is none of the early-stop text."""
        if channel is Channel.THINKING:
            self.spent += 1
        elif token == self.markers.think_close and self.spent and self.stop is None:
            self.stop = "natural"

    def finished(self) -> bool:
        """Never."""
        return False

    def clone(self) -> "BudgetRule":
        """An independent copy."""
        return copy(self)


class Rules:
    """The rules of one reply and its automaton, as one.   binding   those that may force or forbid something"""

    def __init__(self, automaton: Automaton, budget: BudgetRule, others: Sequence[Rule]) -> None:
        self.automaton, self.budget, self.others = automaton, budget, list(others)
        self.binding = [rule for rule in others if not isinstance(rule, EndRule | StopRule)]

    @property
    def at(self) -> Channel:
        """The channel that rules are told: from the end of a thinking on the answer's, as the gap may be left out.

        Rules that want the gap force it; where the prompt ends before it, nobody does.
        """
        return Channel.ANSWER if self.automaton.at is Channel.CLOSING else self.automaton.at

    def forced(self) -> tuple[int, ...]:
        """What the first rule that forces anything forces."""
        at = self.at
        if tokens := self.budget.forced(at):
            return tokens
        for rule in self.binding:
            if tokens := rule.forced(at):
                return tokens
        return ()

    def allowed(self) -> NDArray[np.int32] | None:
        """What every rule allows."""
        at = self.at
        found = self.budget.allowed(at)
        for rule in self.binding:
            mask = rule.allowed(at)
            found = mask if found is None else found if mask is None else found & mask
        return found

    def accept(self, token: int) -> Channel:
        """One token more; its channel: closing throughout a forced early stop, else what the automaton says."""
        closing = self.budget.forced(self.automaton.at)
        channel = self.automaton.step(token)
        if closing:
            channel = Channel.CLOSING
            self.budget.close()
        else:
            self.budget.accept(token, channel)
        for rule in self.others:
            rule.accept(token, channel)
        return channel

    def finished(self) -> bool:
        """Whether any rule ends the reply."""
        return any([rule.finished() for rule in self.others])  # the budget never does

    @property
    def keep_bytes(self) -> int | None:
        """Of the answer, where a stop string was found."""
        return next((rule.keep_bytes for rule in self.others if isinstance(rule, StopRule)), None)

    def clone(self) -> "Rules":
        """An independent copy in the same state."""
        budget = self.budget.clone()
        return Rules(self.automaton.clone(), budget, [rule.clone() for rule in self.others])


def forbid(mask: NDArray[np.int32], token: int) -> None:
    """Clear a token's bit."""
    mask.view(np.uint32)[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)


def allow(mask: NDArray[np.int32], token: int) -> None:
    """Set a token's bit."""
    mask.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
