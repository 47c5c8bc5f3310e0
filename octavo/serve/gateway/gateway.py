"""The `Gate` with keys: who it is, whether the limits allow it, when it is its turn, and the row that it leaves."""

import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from octavo.serve.errors import Refusal
from octavo.serve.events import Usage
from octavo.serve.gate import Tenant
from octavo.serve.gateway.admission import Admission
from octavo.serve.gateway.fair import Bounds, Claim
from octavo.serve.gateway.keys import Keyring
from octavo.serve.gateway.ledger import Entry, Ledger, Outcome, meters, month_of
from octavo.serve.gateway.limits import Meter, Need, Terms
from octavo.serve.gateway.prices import Price, read_prices
from octavo.serve.gateway.sessions import Sessions
from octavo.serve.gateway.state import Run, State
from octavo.serve.job import Job

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4  # around each, as chat formats have them
REPLY_TOKENS = 512  # of a reply whose length nobody limits, as far as estimates go
MOST_REPLY_TOKENS = 4096  # that an estimate counts: few replies are as long as they may be
INSIDE = "x-octavo-inside"  # header of requests that the server makes of itself: a secret, a key's id, its space


class Options(Struct, frozen=True, kw_only=True):
    """What a user may say of the gateway.   prices   a TOML file; None: all is free"""

    folder: Path
    prices: Path | None = None
    bounds: Bounds = Bounds()


class Gateway:
    """Implements `Gate`.   default   the model that a request without one means"""

    def __init__(self, options: Options, *, default: str) -> None:
        self.prices: Mapping[str, Price] = read_prices(options.prices) if options.prices else {}
        self.state, self.default = State(options.folder), default
        self.db = self.state.connect()
        self.run = Run(self.state)
        self.run.close_the_dead(self.db)
        self.keyring, self.sessions = Keyring(self.db), Sessions()
        self.meters = meters(self.db, month=month_of(time.time()))
        self.ledger = Ledger(self.state, run=self.run.id)
        self.admission = Admission(options.bounds)
        self.secret = secrets.token_urlsafe(32)

    @property
    def open(self) -> bool:
        """Whether nobody needs a key, as there are none."""
        return self.keyring.empty

    def identify(self, headers: Mapping[str, str]) -> Tenant:
        """Whose key these headers hold, as Authorization: Bearer, x-api-key or session. Raises Refusal."""
        inside = headers.get(INSIDE, "").split(" ", 2)
        if len(inside) == 3 and hmac.compare_digest(inside[0].encode(), self.secret.encode()):
            return self._batch(key=inside[1], space=unquote(inside[2]))
        if self.open:
            return Tenant()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        text = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if text:
            return self._tenant(self.keyring.find(text).id)
        key = self.sessions.key_of(headers)
        if key is None:
            raise Refusal("an API key is needed: send it as Authorization: Bearer ok-... or as x-api-key.",
                          kind="authentication_error", code="missing_api_key")  # fmt: skip
        return self._tenant(key)

    def _tenant(self, id: str) -> Tenant:
        key = self.keyring.alive(id)
        return Tenant(key=key.id, workspace=key.workspace, space=key.space, priority=key.terms.priority)

    def _batch(self, *, key: str, space: str) -> Tenant:
        tenant = self._tenant(key) if key else Tenant(space=space)
        return msgspec.structs.replace(tenant, batch=True)

    async def enter(self, tenant: Tenant, job: Job, *, dialect: str, request_id: str) -> "Ticket":
        """Take from the limits, then wait for its turn. Batches count against budgets, not against limits per minute.

        Raises Refusal: rate_limit_error, insufficient_quota or overloaded.
        """
        model, now_s = job.model or self.default, time.time()
        likely, price = estimate(job), self.prices.get(model, Price())
        tokens = likely.prompt_tokens + likely.completion_tokens
        need = Need(tokens, price.micro(likely, batch=tenant.batch))
        terms = self.keyring.alive(tenant.key).terms if tenant.key else Terms()
        if tenant.batch:
            terms = msgspec.structs.replace(terms, limits=Terms().limits, models={})
        meter = self.meters.setdefault(tenant.key, Meter())
        headers = meter.enter(terms, model, need=need, month=month_of(now_s), now_s=time.monotonic())
        claim = Claim(id=request_id, tenant=tenant.space, work=tokens, weight=2.0**tenant.priority,
                      batch=tenant.batch)  # fmt: skip
        ticket = Ticket(self, claim, meter=meter, model=model, need=need, price=price, headers=headers)
        try:
            ticket.patient = await self.admission.enter(model, claim)
        except BaseException:
            meter.undo(model, need=need, month=month_of(time.time()), limited=not tenant.batch)
            raise
        ticket.turn_s = time.monotonic()
        entry = Entry(id=claim.id, time=now_s, key=tenant.key, workspace=tenant.workspace, model=model, dialect=dialect,
                      batch=tenant.batch)  # fmt: skip
        ticket.row = self.ledger.enter(entry)
        return ticket

    def glance(self, tenant: Tenant, model: str) -> Mapping[str, str]:
        """One request of the limits, no tokens, no row. Raises Refusal: rate_limit_error or insufficient_quota."""
        terms = self.keyring.alive(tenant.key).terms if tenant.key else Terms()
        meter, month = self.meters.setdefault(tenant.key, Meter()), month_of(time.time())
        return meter.enter(terms, model, need=Need(), month=month, now_s=time.monotonic())

    def close(self) -> None:
        """Write what is unwritten, and let go of the state folder. Once is enough."""
        self.ledger.close()
        self.run.end()
        self.db.close()


class Ticket:
    """Implements `gate.Ticket`.   turn_s   when its turn came"""

    def __init__(self, gateway: Gateway, claim: Claim, *, meter: Meter, model: str, need: Need, price: Price,
                 headers: Mapping[str, str]) -> None:  # fmt: skip
        self.gateway, self.claim, self.meter, self.model = gateway, claim, meter, model
        self.need, self.price, self.headers = need, price, headers
        self.came_s = self.turn_s = time.monotonic()
        self.first_s: float | None = None
        self.row, self.patient = 0, False

    def began(self) -> None:
        """Its first token has come."""
        if self.first_s is None:
            self.first_s = time.monotonic()
            self.gateway.admission.began(self.model, self.claim.id)

    def settle(self, usage: Usage, *, finish: str) -> None:
        """Put the estimate right, write the row, let the next one in."""
        tokens = usage.prompt_tokens + usage.completion_tokens
        micro = self.price.micro(usage, batch=self.claim.batch)
        self.meter.settle(self.model, need=self.need, used=Need(tokens, micro), month=month_of(time.time()),
                          limited=not self.claim.batch)  # fmt: skip
        self.gateway.admission.ended(self.model, self.claim.id, work=tokens)
        self.row = self.gateway.ledger.settle(self.claim.id, Outcome(
            usage=usage, micro=micro, finish=finish, wait_ms=self._ms(self.turn_s),
            first_ms=None if self.first_s is None else self._ms(self.first_s), total_ms=self._ms(time.monotonic()),
        ))  # fmt: skip

    async def kept(self) -> None:
        """Until its row is in the database as it is now."""
        await self.gateway.ledger.kept(self.row)

    def _ms(self, at_s: float) -> float:
        return round((at_s - self.came_s) * 1e3, 3)


def estimate(job: Job) -> Usage:
    """What a job will use, as far as one can say before its prompt is rendered: a token is four bytes."""
    texts = [one for one in job.prompts if isinstance(one, str)]
    texts += [m.text + (m.thinking or "") for m in job.messages]
    texts += [call.arguments for m in job.messages for call in m.tool_calls]
    tools = len(msgspec.json.encode(job.tools)) if job.tools else 0
    known = sum(len(one) for one in job.prompts if not isinstance(one, str)) + MESSAGE_TOKENS * len(job.messages)
    prompt = (sum(len(text.encode()) for text in texts) + tools) // BYTES_PER_TOKEN + known + 1
    most = job.sampling.get("max_tokens")
    reply = REPLY_TOKENS if most is None else min(most, MOST_REPLY_TOKENS)
    return Usage(prompt_tokens=prompt, completion_tokens=reply * job.replies)
