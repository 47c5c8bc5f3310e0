"""How much is drafted for whom. Exact by construction: the target's own sampler has the last word on every token.

A forward pass reads the model's weights once for all of its rows. A lone reply fills one row; drafted tokens fill some
more, whose logits are right for as long as the target chooses what was drafted.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass

from octavo.engine.drafts import Ask, Drafter, NgramDrafter
from octavo.engine.sequence import Sequence
from octavo.engine.types import Plan

PASS_ROWS = 8  # rows that drafts may fill a pass up to: with bf16 the kernels take 1.25 times the time of one, w4 1.7
PROBE = 4  # tokens of a draft for a reply whose last ones failed: of a look-up, only a match of four tokens gives them
ALLOWANCE = 0.01  # what failing drafts may cost, in passes per token: a third of the 3 % that speculation may take
MEMORY = 0.8  # weight of past drafts beside the newest: the last five or so count


ROW_COST = 0.05  # 7 rows more for 0.25 passes, with a margin; the CPU backend says what it is for its weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculation:
    """How an engine speculates.

    drafter      makes the engine's drafter
    token_cost   what one drafted token costs, in passes of the target over one row: its row (see ROW_COST), and its
                 share of a draft model's work, where there is one
    """

    drafter: Callable[[], Drafter] = NgramDrafter
    token_cost: float = ROW_COST


class Pace:
    """How long the next draft of one reply should be.

    An account bounds what failing drafts may cost. Its unit is what one pass costs one reply. It is credited ALLOWANCE
    with each token and 1 with each drafted one that came true, and pays for all drafts: token_cost for each token and
    each reply in the pass, for all of them wait. Within it, the length with the most expected tokens per unit of time
    is taken; where that is none, sometimes a probe. It starts with one probe and holds three full drafts.
    """

    def __init__(self, *, token_cost: float, seen: int) -> None:
        """seen: length of the reply so far, prompt included."""
        self.token_cost, self.cost, self.seen = token_cost, token_cost, seen
        self.credit, self.limit = PROBE * token_cost, 3 * (PASS_ROWS - 1) * token_cost
        self.accepted, self.tried = 1.0, 2.0  # as if one of two had come true

    def bounds(self, length: int, *, replies: int) -> tuple[int, int]:
        """The fewest and the most tokens to draft for the reply, now of this length; most = 0: none.

        replies   in the pass, this one included
        """
        self.credit = min(self.limit, self.credit + ALLOWANCE * (length - self.seen))
        self.seen, self.cost = length, self.token_cost * replies
        rate = self.accepted / self.tried
        best = max(range(PASS_ROWS), key=lambda n: sum(rate**i for i in range(n + 1)) / (1 + n * self.cost))
        least, most = (1, best) if best else (PROBE, PROBE)
        while most and self.credit < most * self.cost:
            most -= 1
        return (least, most) if most >= least else (0, 0)

    def learn(self, *, drafted: int, accepted: int) -> None:
        """The draft was verified."""
        tried = min(drafted, accepted + 1)  # what follows a token that failed was not put to the test
        self.accepted = self.accepted * MEMORY + accepted
        self.tried = self.tried * MEMORY + tried
        self.credit = min(self.limit, self.credit + accepted - drafted * self.cost)


class Speculator:
    """Asks the drafter on behalf of replies that have room in a pass, and keeps their paces."""

    def __init__(self, speculation: Speculation, *, step_tokens: int) -> None:
        """step_tokens: tokens of one forward pass at most."""
        self.speculation, self.drafter = speculation, speculation.drafter()
        self.rows = min(PASS_ROWS, step_tokens)
        self.paces: dict[Sequence, Pace] = {}
        self.drafted = self.accepted = 0

    def propose(self, plan: Plan, sequences: Items[Sequence]) -> dict[Sequence, tuple[int, ...]]:
        """Drafts for replies of which the plan computes one token; the pass has PASS_ROWS rows at most then."""
        room = self.rows - sum(len(chunk.tokens) for chunk in plan.chunks)
        if room <= 0:
            return {}
        wishes = list[tuple[Sequence, int, int]]()
        for chunk, sequence in zip(plan.chunks, sequences, strict=True):
            if chunk.rows == "last" and len(chunk.tokens) == 1:
                length = len(sequence.tokens)
                pace = self.paces.setdefault(sequence, Pace(token_cost=self.speculation.token_cost, seen=length))
                least, most = pace.bounds(length, replies=len(sequences))
                wishes.append((sequence, least, min(most, sequence.limit - length - 1)))
        return self._ask([wish for wish in wishes if wish[2] >= max(1, wish[1])], room)

    def _ask(self, wishes: list[tuple[Sequence, int, int]], room: int) -> dict[Sequence, tuple[int, ...]]:
        asks, asked = list[Ask](), list[Sequence]()
        for i, (sequence, least, most) in enumerate(wishes):
            most = min(most, -(-room // (len(wishes) - i)))  # an even share of what is left
            if most >= least:
                space = sequence.request.space
                asks.append(Ask(reply=sequence, tokens=sequence.tokens, least=least, most=most, space=space))
                asked.append(sequence)
                room -= most
        drafts = self.drafter.propose(asks) if asks else []
        return {sequence: draft for sequence, draft in zip(asked, drafts, strict=True) if draft}

    def learn(self, sequence: Sequence, *, drafted: int, accepted: int) -> None:
        """A reply's draft was verified."""
        self.drafted += drafted
        self.accepted += accepted
        self.paces[sequence].learn(drafted=drafted, accepted=accepted)

    def forget(self, sequence: Sequence) -> None:
        """The reply is at its end."""
        self.paces.pop(sequence, None)
        self.drafter.forget(sequence)
