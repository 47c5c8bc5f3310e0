"""Sessions of the web page: a key is exchanged for a cookie that scripts cannot read and other sites cannot send.

Requests that other sites' pages make are refused by `guard`, whatever they carry.
"""

import secrets
import time
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from octavo.serve.errors import Refusal
from octavo.serve.gateway.keys import digest

COOKIE = "octavo_session"
LASTS_S = 7 * 24 * 3600
MOST = 10_000


class Sessions:
    """Who is logged in; kept in memory, by the hash of the cookie."""

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[str, float]] = {}  # -> id of the key, when it ends

    def open(self, key: str) -> str:
        """A new session of a key: the cookie's value. The oldest goes where there are too many."""
        now_s = time.time()
        self.keys = {h: (k, ends) for h, (k, ends) in self.keys.items() if ends > now_s}
        while len(self.keys) >= MOST:
            del self.keys[next(iter(self.keys))]
        value = secrets.token_urlsafe(32)
        self.keys[digest(value)] = (key, now_s + LASTS_S)
        return value

    def key_of(self, headers: Mapping[str, str]) -> str | None:
        """The id of the key whose session these headers carry; None: they carry none. Raises Refusal."""
        value = cookie(headers)
        if value is None:
            return None
        key, ends = self.keys.get(digest(value), ("", 0.0))
        if ends <= time.time():
            raise Refusal("the session is over: log in again.", kind="authentication_error", code="session_over")
        return key

    def close(self, headers: Mapping[str, str]) -> None:
        """Forget the session that these headers carry."""
        value = cookie(headers)
        if value is not None:
            self.keys.pop(digest(value), None)


def cookie(headers: Mapping[str, str]) -> str | None:
    """The session's cookie."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None


def set_cookie(value: str, *, secure: bool) -> str:
    """The header that gives the browser a session; an empty value takes it away."""
    age = LASTS_S if value else 0
    return f"{COOKIE}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
