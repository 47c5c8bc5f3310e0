"""What an engine's process does with a job before it runs, and how it answers questions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from octavo.chat import load
from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.chat.reader import ReplyReader
from octavo.core.errors import ContextError, OctavoError, RequestError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling, overridden
from octavo.engine.rules import Rules
from octavo.engine.types import Request
from octavo.serve import link
from octavo.serve.job import Job
from octavo.serve.tools import calls_of, offered

TOKEN_CHARACTERS = 16  # of a token, on average, at most: four are usual


class Prepared(NamedTuple):
    """A job as the engine is asked to do it.

    requests   one for each prompt;   readers   of all replies, one prompt's after the other's
    talk       what the next turn goes on from;   rules   of each request, where its grammars are compiled already
    scored     for each prompt whose own log-probabilities are wanted first: who asks for them
    patient    the prompts give way to those of others
    """

    requests: tuple[Request, ...]
    readers: list[ReplyReader]
    talk: Conversation | None = None
    rules: tuple[Rules, ...] = ()
    scored: tuple[Request, ...] = ()
    patient: bool = False


def opened(order: link.Open) -> LocalChat:
    """The model, loaded. Raises OctavoError."""
    chat = load(order.source, offline=order.offline, kind=cast(Any, order.kind), draft=order.draft)
    assert isinstance(chat, LocalChat), "remote models have no process"
    chat.name = order.name
    return chat


def facts(chat: LocalChat) -> dict[str, Any]:
    """What the model can do, for the list of models."""
    form = chat.form
    return {
        "context_tokens": chat.context_tokens, "vocab_size": chat.engine.backend.vocab_size, "format": form.name,
        "thinks": form.thinks, "tools": form.calls_tools, "page_tokens": chat.engine.backend.page_tokens,
        "embedding_width": chat.engine.backend.width,
    }  # fmt: skip


def prepared(chat: LocalChat, job: Job) -> Prepared:
    """A job as the engine is asked to do it. Raises RequestError or FormatError for what cannot be done."""
    fitting(chat, characters(job))
    if job.prompts:
        sampling = overridden(Sampling(), job.sampling)
        each = [
            chat.prepare_text(one, sampling=sampling, space=job.space, first=i * sampling.n)
            for i, one in enumerate(job.prompts)
        ]
        requests, readers = tuple(request for request, _ in each), [reader for _, some in each for reader in some]
        return Prepared(requests, readers, scored=tuple(map(scoring, requests)) if job.scored else (),
                        patient=job.patient)  # fmt: skip
    talk = conversation(job)
    sampling = overridden(chat.recommended(talk), job.sampling)
    request, readers = chat.prepare(talk, sampling=sampling, calls=calls_of(chat, job))
    return Prepared((request,), readers, talk, patient=job.patient)


def scoring(request: Request) -> Request:
    """What asks for the log-probabilities of a request's prompt."""
    sampling = Sampling(max_tokens=0, logprobs=request.sampling.logprobs)
    return Request(id=f"{request.id}-scored", tokens=request.tokens, sampling=sampling, space=request.space)


def characters(job: Job) -> int:
    """About how long its prompt will be."""
    texts = [one for one in job.prompts if isinstance(one, str)]
    tools = offered(job)
    return sum(map(len, texts)) + written(job.messages) + (len(msgspec.json.encode(tools)) if tools else 0)


def written(messages: Sequence[Message]) -> int:
    """Characters of all that is said, thought and called in messages."""
    said = sum(len(m.text) + len(m.thinking or "") for m in messages)
    return said + sum(len(call.name) + len(call.arguments) for m in messages for call in m.tool_calls)


def fitting(chat: LocalChat, count: int) -> None:
    """Raise ContextError for so many characters that they are no prompt: to cut megabytes into tokens takes seconds."""
    most = chat.context_tokens * TOKEN_CHARACTERS
    if count > most:
        raise ContextError(f"the prompt has {count:,} characters, at most {most:,} are read for a context of "
                           f"{chat.context_tokens:,} tokens: shorten it.")  # fmt: skip


def compiled(chat: LocalChat, job: Job) -> Prepared:
    """As `prepared`, with its grammars compiled: for a thread that is not the engine's."""
    found = prepared(chat, job)
    return found._replace(rules=tuple(map(chat.engine.compiled, found.requests)))


def conversation(job: Job) -> Conversation:
    """What the prompt is rendered from. Tools that must not be called are not offered."""
    return Conversation(
        messages=job.messages, tools=offered(job), thinking=job.thinking, space=job.space, resume=job.resume
    )


def answer(chat: LocalChat, question: link.Question) -> link.Answer:
    """The answer to a question, or why there is none."""
    table: dict[str, Callable[[LocalChat, Any], Any]] = {
        "render": render, "count": count, "tokenize": tokenize, "detokenize": detokenize,
    }  # fmt: skip
    if question.what not in table:
        return link.Answer(question.id, None, f"this model has no {question.what}.", "invalid_request_error")
    try:
        return link.Answer(question.id, table[question.what](chat, question.about))
    except (OctavoError, RecursionError) as error:
        return link.Answer(question.id, None, str(error), "invalid_request_error")


def render(chat: LocalChat, about: Any) -> dict[str, Any]:
    """about: a Job.   The prompt as text and as tokens, and nothing is generated."""
    tokens = [id for request in prepared(chat, _job(about)).requests for id in request.tokens]
    return {"prompt": chat.tokenizer.decode(tokens), "tokens": tokens}


def count(chat: LocalChat, about: Any) -> int:
    """about: a Job.   The prompt's length in tokens."""
    return sum(len(request.tokens) for request in prepared(chat, _job(about)).requests)


def tokenize(chat: LocalChat, about: Any) -> list[int]:
    """about: {"text", "special": whether control tokens may be spelled}."""
    fitting(chat, len(about["text"]))
    return chat.tokenizer.encode(about["text"], special=bool(about["special"]))


def detokenize(chat: LocalChat, about: Any) -> str:
    """about: token ids. Raises RequestError for one that the model does not have."""
    size = chat.engine.backend.vocab_size
    outside = [id for id in about if not 0 <= id < size]
    if outside:
        raise RequestError(f"tokens has {outside[0]}, the model has 0..{size - 1}.")
    return chat.tokenizer.decode(about)


def _job(about: Any) -> Job:
    return msgspec.convert(about, Job)
