"""The automaton that gives every token its channel. Its start state is read from the rendered prompt's tokens."""

from collections.abc import Sequence
from copy import copy

from octavo.core.channel import Channel, Markers


class Automaton:
    """Walks along one reply.

    at         channel of the next token, unless that token is itself a border
    reasoned   whether the running turn has had a thinking block, in the prompt or in the reply
    """

    def __init__(self, prompt: Sequence[int], markers: Markers) -> None:
        """Read the start state from the prompt's last turn."""
        self.markers, self.at, self.reasoned, self.gap_left = markers, Channel.ANSWER, False, list[int]()
        for token in running_turn(prompt, markers):
            self.step(token)

    def step(self, token: int) -> Channel:
        """The channel of `token`, the next one; the automaton moves on."""
        m = self.markers
        if self.gap_left and token == self.gap_left[0]:
            del self.gap_left[0]
            self.at = Channel.CLOSING if self.gap_left else Channel.ANSWER
            return Channel.CLOSING
        if self.gap_left:  # the model went on without the whole gap
            self.gap_left, self.at = [], Channel.ANSWER
        if token == m.think_close and self.at is Channel.THINKING:
            self.gap_left = list(m.gap)
            self.at = Channel.CLOSING if self.gap_left else Channel.ANSWER
            return Channel.CLOSING
        if token == m.think_open and self.at is Channel.ANSWER:
            self.at, self.reasoned = Channel.THINKING, True
            return Channel.THINKING
        if token == m.tool_open and self.at is Channel.ANSWER:  # a call within thinking is thinking: it may go on
            self.at = Channel.TOOL
            return Channel.TOOL
        if token == m.tool_close and self.at is Channel.TOOL:
            self.at = Channel.ANSWER
            return Channel.TOOL
        return self.at

    def clone(self) -> "Automaton":
        """An independent copy in the same state."""
        other = copy(self)
        other.gap_left = list(self.gap_left)
        return other


def running_turn(prompt: Sequence[int], markers: Markers) -> Sequence[int]:
    """The prompt's tokens from the last turn's opening on; all of them where the format has no such token."""
    if markers.turn_open is None:
        return prompt
    for place in range(len(prompt) - 1, -1, -1):
        if prompt[place] == markers.turn_open:
            return prompt[place:]
    return prompt


def start_channel(prompt: Sequence[int], markers: Markers) -> Channel:
    """The channel that the first token of the reply has, unless it is itself a border."""
    return Automaton(prompt, markers).at
