"""What there is: models with what they can do, and whether the server is well."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.serve.dialects import messages
from octavo.serve.errors import Refusal
from octavo.serve.http import Desk, as_json, id_of, openai_error, refused
from octavo.serve.models import Model


class Listing:
    """The endpoints that only tell."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def all(self, request: Request) -> Response:
        """`/v1/models`."""
        models = list(self.desk.models.all.values())
        if "anthropic-version" in request.headers:
            ends = {"first_id": models[0].name, "last_id": models[-1].name, "has_more": False}
            return as_json({"data": [described_to_anthropic(m) for m in models], **ends})
        return as_json({"object": "list", "data": [described(m) for m in models]})

    async def one(self, request: Request) -> Response:
        """`/v1/models/NAME`."""
        anthropic = "anthropic-version" in request.headers
        try:
            model = self.desk.models.find(request.path_params["name"])
        except Refusal as refusal:
            return refused(refusal, request_id=id_of(request), error=messages.error if anthropic else openai_error)
        return as_json(described_to_anthropic(model) if anthropic else described(model))

    async def live(self, request: Request) -> Response:
        """Whether this process answers."""
        return as_json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether models answer."""
        ready = self.desk.models.ready
        states = {name: model.state for name, model in self.desk.models.all.items()}
        return as_json({"status": "ok" if ready else "not ready", "models": states}, status=200 if ready else 503)


def described(model: Model) -> dict[str, Any]:
    """One model, with what it can do under "capabilities"."""
    return {
        "id": model.name, "object": "model", "created": 0, "owned_by": "octavo", "state": model.state,
        "max_model_len": model.facts.get("context_tokens"), "capabilities": model.facts,
    }  # fmt: skip


def described_to_anthropic(model: Model) -> dict[str, Any]:
    """One model, as Anthropic's clients read it."""
    longest = model.facts.get("context_tokens")
    return {
        "type": "model", "id": model.name, "display_name": model.name, "created_at": "1970-01-01T00:00:00Z",
        "max_input_tokens": longest, "max_tokens": longest, "capabilities": None,
    }  # fmt: skip
