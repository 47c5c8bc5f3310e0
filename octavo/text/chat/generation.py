"""generation_config.json -> recommended sampling and the tokens that end a reply."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from octavo.core.errors import FormatError, RequestError
from octavo.core.sampling import Sampling

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class Fields(Struct):
    """The fields of generation_config.json that are read here; null counts as absent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    do_sample: bool | None = None
    eos_token_id: int | list[int] | None = None


class Generation(Struct, frozen=True, kw_only=True):
    """sampling: fields of `Sampling` that the file sets;   end_ids: tokens that end a reply."""

    sampling: Mapping[str, Any] = {}
    end_ids: tuple[int, ...] = ()

    def applied_to(self, card: Sampling) -> Sampling:
        """`card` with the file's fields in place of its own."""
        return msgspec.structs.replace(card, **self.sampling)


def read_generation(config: Mapping[str, Any]) -> Generation:
    """Raises FormatError naming the field that is not what it must be."""
    try:
        fields = msgspec.convert(dict(config), Fields)
    except msgspec.ValidationError as cause:
        raise FormatError(f"generation_config.json: {cause}. Download it again.") from cause
    changes: dict[str, Any] = {name: value for name in SAMPLING if (value := getattr(fields, name)) is not None}
    if fields.do_sample is False:  # greedy, whatever the other fields are left at
        changes = {"temperature": 0.0}
    try:
        msgspec.structs.replace(Sampling(), **changes)
    except RequestError as cause:
        raise FormatError(f"generation_config.json: {cause}") from cause
    given = fields.eos_token_id
    ends = () if given is None else (given,) if isinstance(given, int) else tuple(given)
    return Generation(sampling=changes, end_ids=ends)
