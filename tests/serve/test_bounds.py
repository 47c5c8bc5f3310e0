"""What asks for too much is refused, and the refusal itself can be told."""

import json
from typing import Any

import pytest

from octavo.serve.bounds import bounded_schema
from octavo.serve.dialects import chat, completions
from octavo.serve.errors import Refusal

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PLAIN: dict[str, Any] = {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize("more", [
    {"logit_bias": {"9" * 5000: 1}}, {"structured_outputs": {"choice": 5}}, {"structured_outputs": {"choice": True}},
    {"structured_outputs": {"choice": "yes"}}, {"structured_outputs": {"choice": 0}},
])  # fmt: skip
def test_what_is_no_token_and_no_list_of_choices_is_refused(more: dict[str, Any]):
    for decode, body in ((chat.decode, CHAT), (completions.decode, PLAIN)):
        with pytest.raises(Refusal):
            decode(json.dumps({**body, **more}).encode())


@pytest.mark.parametrize("values", [
    [1 + i / 997 for i in range(600)], [10**4200 + 1], [1e308, 1e-308], [7, 11, 10**4000],
])  # fmt: skip
def test_multiples_with_endless_states_are_refused_in_few_words(values: list[float]):
    schema = {"type": "object", "properties": {f"p{i}": {"multipleOf": value} for i, value in enumerate(values)}}
    with pytest.raises(Refusal, match="multipleOf") as refused:
        bounded_schema("schema", schema)
    assert len(str(refused.value)) < 200
