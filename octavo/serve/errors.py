"""What a client is told when its request cannot be done: one table of kinds, one exception."""

import math
from collections.abc import Mapping

from octavo.core.errors import OctavoError

STATUS = {  # kind, as OpenAI's API calls it -> HTTP status
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "overloaded": 503,
}
TOO_LONG = "context_length_exceeded"  # the code by which clients know that they must shorten what they send
RETRY_S = {"rate_limit_error": 1.0, "overloaded": 1.0}  # kinds that pass, and when it is worth to try again


class Refusal(OctavoError):
    """A request that is not done.

    kind          a key of STATUS;   param   the field it is about, "" for none;   code   for programs, "" for none
    retry_after_s   when to come again; inf: the client need not try; None: as its kind says, see RETRY_S
    left            headers that say what is left of the limits
    """

    def __init__(self, message: str, *, kind: str = "invalid_request_error", param: str = "", code: str = "",
                 retry_after_s: float | None = None, left: Mapping[str, str] | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.kind, self.param, self.code = kind, param, code
        self.retry_after_s = RETRY_S.get(kind) if retry_after_s is None else retry_after_s
        self.left = left or {}

    @property
    def status(self) -> int:
        """Of the HTTP response."""
        return STATUS[self.kind]

    def headers(self) -> dict[str, str]:
        """When and whether to try again, in all three spellings that clients read; and what is left."""
        if self.retry_after_s is None and self.status not in (429, 503):
            return {}
        if self.retry_after_s is None or math.isinf(self.retry_after_s):
            return {**self.left, "x-should-retry": "false"}
        wait_s = max(0.0, self.retry_after_s)
        return {**self.left, "retry-after": str(int(-(-wait_s // 1))), "retry-after-ms": str(int(wait_s * 1000))}
