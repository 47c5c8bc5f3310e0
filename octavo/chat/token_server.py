"""Servers that go on from tokens: OpenAI-compatible `completions` that give token ids and their log-probabilities.

The field `return_token_ids` is vLLM's; `octavo serve` has it too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import msgspec
from msgspec import Struct

from octavo.chat.openai_wire import reason
from octavo.chat.remote import TIMEOUT, headers_for
from octavo.core.errors import HubError, RequestError
from octavo.core.sampling import Sampling

SEEDS = 1 << 62  # what all servers take
NEVER = -100.0  # logit bias
SENT = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


class Said(NamedTuple):
    """A piece of a reply.   logprobs   nats, of each token;   ends: the server takes it for the reply's end"""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    ends: bool


class _Logprobs(Struct):
    token_logprobs: list[float | None]


class _Choice(Struct):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice]


class TokenServer:
    """One server.   name   of its model"""

    def __init__(self, address: str) -> None:
        """address   that ends in /v1, the model after a #. Raises HubError."""
        url, _, self.name = address.partition("#")
        if not self.name or not url.startswith(("http://", "https://")):
            raise HubError(f"{address!r:.200} does not say where which model is: write http://HOST:PORT/v1#NAME.")
        try:
            self.client = httpx.Client(base_url=url.rstrip("/") + "/", timeout=TIMEOUT, headers=headers_for(url),
                                       limits=httpx.Limits(max_connections=None))  # fmt: skip
            self.client.base_url.host.encode("idna")  # as the first connection will
        except (httpx.InvalidURL, UnicodeError) as cause:
            raise HubError(f"{address!r:.200} is no address ({cause}): write http://HOST:PORT/v1#NAME.") from cause

    def ask(self, tokens: Sequence[int], sampling: Sampling, *, most: int, seed: int, n: int = 1,
            never: int | None = None) -> list[Said]:  # fmt: skip
        """n continuations of at most so many tokens.   never   a token that must not come

        Raises HubError, RequestError.
        """
        options = {name: getattr(sampling, name) for name in SENT}
        bias = dict(sampling.logit_bias) | ({} if never is None else {never: NEVER})
        body = {"model": self.name, "prompt": list(tokens), "max_tokens": most, "n": n, "seed": seed % SEEDS,
                "logprobs": 0, "return_token_ids": True, **options}  # fmt: skip
        if bias:
            body["logit_bias"] = {str(token): value for token, value in bias.items()}
        try:
            choices = msgspec.json.decode(self._post("completions", body), type=_Completion).choices
        except msgspec.DecodeError as cause:
            raise HubError(f"{self.client.base_url} answers with something else than completions: {cause}.") from cause
        if len(choices) != n:
            raise HubError(
                f"{self.client.base_url} gave {len(choices)} replies, {n} were asked for: use another server."
            )
        return [self._said(choice) for choice in choices]

    def _said(self, choice: _Choice) -> Said:
        tokens = choice.token_ids
        logprobs = [] if choice.logprobs is None else [x for x in choice.logprobs.token_logprobs if x is not None]
        if not tokens or len(tokens) != len(logprobs):
            raise HubError(
                f"{self.client.base_url} gave {len(tokens or ())} token ids and {len(logprobs)} log-probabilities of a "
                f"reply: RL needs both of every token. Ask one that knows return_token_ids: `octavo serve`."
            )
        return Said(tokens, logprobs, choice.finish_reason == "stop")

    def reload(self, path: str, body: Mapping[str, Any], *, folder: Path) -> None:
        """Have the weights read again.   path   {model} stands for the name;   body   {folder} for the folder

        Raises HubError, RequestError.
        """
        where = str(self.client.base_url.join(path.replace("{model}", self.name)))
        self._post(where, _placed(body, str(folder.resolve())))

    def _post(self, path: str, body: Mapping[str, Any]) -> bytes:
        try:
            answer = self.client.post(path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as cause:
            raise HubError(f"{self.client.base_url} cannot be reached ({cause}): start it, and give the command "
                                f"again; the run goes on where it was.") from cause  # fmt: skip
        if answer.is_error:
            raise RequestError(f"{answer.url} refused ({answer.status_code}): {reason(answer.content)}")
        return answer.content


def _placed(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {key: _placed(one, folder) for key, one in cast(dict[str, Any], value).items()}
    return value.replace("{folder}", folder) if isinstance(value, str) else value
