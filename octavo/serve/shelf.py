"""Responses that can be asked for again, in memory: of each tenant the ones used last, within so many bytes."""

from collections import Counter, OrderedDict

import msgspec

from octavo.serve.dialects.responses import Kept
from octavo.serve.errors import Refusal
from octavo.serve.gate import Tenant

TENANT_BYTES = 16 << 20
ALL_BYTES = 256 << 20


class Store:
    """The responses of all tenants, packed. What does not fit pushes out what was used longest ago."""

    def __init__(self, *, tenant_bytes: int = TENANT_BYTES, all_bytes: int = ALL_BYTES) -> None:
        self.tenant_bytes, self.all_bytes = tenant_bytes, all_bytes
        self.held: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self.sizes: Counter[str] = Counter()

    def keep(self, owner: str, kept: Kept) -> None:
        """One more, or another of the same id."""
        id, packed = str(kept.response["id"]), msgspec.msgpack.encode(kept)
        self.drop(owner, id)
        self.held[owner, id] = packed
        self.sizes[owner] += len(packed)
        while self.sizes[owner] > self.tenant_bytes:
            self.drop(*next(key for key in self.held if key[0] == owner))
        while self.sizes.total() > self.all_bytes:
            self.drop(*next(iter(self.held)))

    def find(self, owner: str, id: str) -> Kept | None:
        """The response of that id, if the owner has one."""
        packed = self.held.get((owner, id))
        if packed is None:
            return None
        self.held.move_to_end((owner, id))
        return msgspec.msgpack.decode(packed, type=Kept)

    def drop(self, owner: str, id: str) -> bool:
        """Forget one; whether it was there."""
        packed = self.held.pop((owner, id), b"")
        self.sizes[owner] -= len(packed)
        if not self.sizes[owner]:
            del self.sizes[owner]
        return bool(packed)


class TenantShelf:
    """What one tenant sees of a store."""

    def __init__(self, store: Store, tenant: Tenant) -> None:
        self.store, self.owner = store, f"{tenant.workspace}/{tenant.key}"

    def find(self, id: str) -> Kept:
        """A response by its id. Raises Refusal."""
        kept = self.store.find(self.owner, id)
        if kept is None:
            why = "it was not stored, was deleted, or gave way to newer ones"
            raise Refusal(f"there is no response {id!r} here: {why}.", kind="not_found_error")
        return kept

    def keep(self, kept: Kept) -> None:
        """One more."""
        self.store.keep(self.owner, kept)

    def drop(self, id: str) -> bool:
        """Forget one; whether it was there."""
        return self.store.drop(self.owner, id)
