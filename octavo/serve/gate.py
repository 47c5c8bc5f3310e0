"""Who may do how much, and when: what the server asks before it has a job done. `OpenGate` lets everybody in."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from octavo.serve.events import Usage
from octavo.serve.job import Job


class Tenant(Struct, frozen=True, kw_only=True):
    """Who asks.   key   id of the API key, "" without keys;   space   whose cached prompts, files and batches it meets

    batch   a batch of this tenant's asks: it can wait for all others
    """

    key: str = ""
    workspace: str = ""
    space: str = ""
    priority: int = 0
    batch: bool = False

    def within(self, salt: str) -> str:
        """The part of its space that one salt has: no other pair of a space and a salt, free texts both, has it."""
        return f"{len(self.space)}:{self.space}/{salt}"


class Ticket(Protocol):
    """The right to have one job done. `settle` is called exactly once, whatever happens.

    headers   for the response: what is left of the tenant's limits
    patient   whether the job's prompt shall give way to those of others
    """

    headers: Mapping[str, str]
    patient: bool

    def began(self) -> None:
        """Its first token has come; said once or twice."""
        ...

    def settle(self, usage: Usage, *, finish: str) -> None:
        """It is over: what it used, and why it ended ("stop", "length", "tool_calls", "cancelled" or "error")."""
        ...

    async def kept(self) -> None:
        """Wait until what began, or was settled, is on file: what a client has seen is never lost."""
        ...


class Gate(Protocol):
    """Decides who may have what done."""

    def identify(self, headers: Mapping[str, str]) -> Tenant:
        """Who sends these headers (names in lower case). Raises Refusal: authentication_error."""
        ...

    async def enter(self, tenant: Tenant, job: Job, *, dialect: str, request_id: str) -> Ticket:
        """Wait for its turn. Raises Refusal: rate_limit_error, insufficient_quota or overloaded."""
        ...

    def glance(self, tenant: Tenant, model: str) -> Mapping[str, str]:
        """Something that no engine computes, such as tokens counted: one request of the tenant's limits.

        Returns headers that say what is left. Raises Refusal: rate_limit_error or insufficient_quota.
        """
        ...


class OpenTicket:
    """Counts nothing."""

    headers: Mapping[str, str] = {}
    patient = False

    def began(self) -> None:
        """Noted by nobody."""

    def settle(self, usage: Usage, *, finish: str) -> None:
        """Noted by nobody."""

    async def kept(self) -> None:
        """At once: nothing is kept."""


class OpenGate:
    """Everybody may do everything at once: a server on one's own machine, without keys."""

    def identify(self, headers: Mapping[str, str]) -> Tenant:
        """Nobody in particular."""
        return Tenant()

    async def enter(self, tenant: Tenant, job: Job, *, dialect: str, request_id: str) -> Ticket:
        """At once."""
        return OpenTicket()

    def glance(self, tenant: Tenant, model: str) -> Mapping[str, str]:
        """As often as anybody likes."""
        return {}
