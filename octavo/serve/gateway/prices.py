"""What tokens cost, from a TOML file: `[models."NAME"]` with prompt, cached and output, per million tokens."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from octavo.core.errors import ConfigError
from octavo.serve.events import Usage

BATCH_SHARE = 0.5


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a million tokens; so of one, in millionths.   cached   prompt tokens that were known; None: as any other"""

    prompt: float = 0.0
    cached: float | None = None
    output: float = 0.0

    def micro(self, usage: Usage, *, batch: bool = False) -> int:
        """The price of a request, in millionths of the currency."""
        fresh, cached = usage.prompt_tokens - usage.cached_tokens, self.prompt if self.cached is None else self.cached
        whole = fresh * self.prompt + usage.cached_tokens * cached + usage.completion_tokens * self.output
        return round(whole * (BATCH_SHARE if batch else 1))


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    currency: str = ""  # for people
    models: dict[str, Price] = {}


def read_prices(path: Path) -> Mapping[str, Price]:
    """Model -> price. Raises ConfigError for a file that is none."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except (OSError, ValueError, msgspec.ValidationError) as cause:
        raise ConfigError(f'{path}: {cause}. Prices are TOML: [models."NAME"] with prompt, cached and output, per '
                          f"million tokens.") from cause  # fmt: skip
    return found.models
