"""`/openapi.json`: what the server takes, told from its routes and from the types that its dialects decode."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from octavo import __version__
from octavo.serve import dialects
from octavo.serve.http import Endpoint, as_json

REFUSALS = {
    "400": "The request cannot be done as it is: the message names the field.", "401": "No key, or a wrong one.",
    "403": "This key, or this web page, may not.", "404": "There is no such model, path or object.",
    "405": "The path does not take this method.", "408": "The body stopped coming.", "409": "Not in this state.",
    "413": "The body is too large.", "415": "The body is of another type than is taken.",
    "421": "The server is not known by this name.", "422": "The request is understood and cannot be done.",
    "429": "Too much for now: see retry-after.", "431": "The head is too large.",
    "500": "A fault of the server's own, noted in its log.", "503": "Too busy, or the model is not ready.",
}  # fmt: skip
ERROR = {
    "type": "object", "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type"],
                             "properties": {"message": {"type": "string"}, "type": {"type": "string"}}}},
}  # fmt: skip


class OpenApi:
    """Answers with the document, made once, when it is first asked for."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.routes = routes
        self.made = b""

    async def answer(self, request: Request) -> Response:
        """`/openapi.json`."""
        self.made = self.made or msgspec.json.encode(document(self.routes))
        return as_json(msgspec.Raw(self.made))


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes; of those that say what they decode, with the schema of their bodies."""
    found = [route for route in routes if isinstance(route, Route)]
    kinds = bodies_of(found)
    schemas, components = msgspec.json.schema_components(kinds.values(), ref_template="#/components/schemas/{name}")
    bodies = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in found:
        path = re.sub(r"\{(\w+)(:\w+)?\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = operation(route, method, body=bodies.get(route.path))
    return {
        "openapi": "3.1.0", "info": {"title": "Octavo", "version": __version__}, "paths": paths,
        "components": {"schemas": {**components, "Error": ERROR},
                       "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }  # fmt: skip


def bodies_of(routes: Sequence[Route]) -> dict[str, Any]:
    """The types of bodies by path: `Request` of a dialect's module, for its path and those beside it that read it."""
    found: dict[str, Any] = {}
    for route in routes:
        at = getattr(route.endpoint, "__self__", None)
        if isinstance(at, Endpoint):
            kind = sys.modules[f"{dialects.__name__}.{at.dialect.name}"].__dict__["Request"]
            found |= {route.path + beside: kind for beside in ("", "/render", "/count_tokens", "/input_tokens")}
    return found


def operation(route: Route, method: str, *, body: Any) -> dict[str, Any]:
    """One method of one path."""
    json, stream = {"application/json": {}}, {"text/event-stream": {}}
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    plain = {"text/plain": {}, "text/html": {}, "application/octet-stream": {}} if body is None else stream
    responses = {code: {"description": text, "content": refusal} for code, text in REFUSALS.items()}
    if route.path.startswith("/health"):
        responses["503"] = {"description": "Not ready.", "content": json}
    made: dict[str, Any] = {
        "summary": (route.endpoint.__doc__ or route.name).strip().splitlines()[0],
        "responses": {"200": {"description": "Done.", "content": {**json, **plain}}, **responses},
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in route.param_convertors
        ],
    }
    if method in ("POST", "PUT", "PATCH"):
        schema = {"type": "object"} if body is None else body
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return made
