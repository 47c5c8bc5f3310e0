"""What there is: models with what they can do, and whether the server is well."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from octavo.serve.errors import Refusal
from octavo.serve.http import Desk, as_json, refused
from octavo.serve.models import Model


class Listing:
    """The endpoints that only tell."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def all(self, request: Request) -> Response:
        """`/v1/models`."""
        models = list(self.desk.models.all.values())
        return as_json({"object": "list", "data": [described(m) for m in models]})

    async def one(self, request: Request) -> Response:
        """`/v1/models/NAME`."""
        try:
            return as_json(described(self.desk.models.find(request.path_params["name"])))
        except Refusal as refusal:
            return refused(refusal, request_id="")

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
