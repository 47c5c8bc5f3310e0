"""What an engine's process does with a job before it runs, and how it answers questions."""

from collections.abc import Callable
from typing import Any, cast

from octavo.chat import load
from octavo.chat.local import LocalChat
from octavo.chat.next_turn import Conversation
from octavo.chat.reader import ReplyReader
from octavo.core.errors import OctavoError, RequestError
from octavo.core.sampling import Sampling, overridden
from octavo.engine.rules import Rules
from octavo.engine.types import Request
from octavo.serve import link
from octavo.serve.job import Job
from octavo.serve.tools import calls_of, offered

TOKEN_CHARACTERS = 16  # of a token, on average, at most: four are usual
Compiled = tuple[Request, list[ReplyReader], Conversation | None, Rules | None]


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


def prepared(chat: LocalChat, job: Job) -> tuple[Request, list[ReplyReader], Conversation | None]:
    """A job as the engine is asked to do it, who reads the replies, and what the next turn goes on from.

    Raises RequestError or FormatError for what cannot be done.
    """
    fitting(chat, characters(job))
    if job.prompt is not None:
        sampling = overridden(Sampling(), job.sampling)
        request, readers = chat.prepare_text(job.prompt, sampling=sampling, space=job.space)
        return request, readers, None
    talk = conversation(job)
    sampling = overridden(chat.recommended(talk), job.sampling)
    request, readers = chat.prepare(talk, sampling=sampling, calls=calls_of(chat, job))
    return request, readers, talk


def characters(job: Job) -> int:
    """About how long its prompt will be."""
    texts = [job.prompt] if isinstance(job.prompt, str) else [f"{m.text}{m.thinking or ''}" for m in job.messages]
    return sum(map(len, texts))


def fitting(chat: LocalChat, count: int) -> None:
    """Raise RequestError for so many characters that they are no prompt: to cut megabytes into tokens takes seconds."""
    most = chat.context_tokens * TOKEN_CHARACTERS
    if count > most:
        raise RequestError(f"the prompt has {count:,} characters, at most {most:,} are read for a context of "
                           f"{chat.context_tokens:,} tokens: shorten it.")  # fmt: skip


def compiled(chat: LocalChat, job: Job) -> Compiled:
    """As `prepared`, with its grammars compiled: for a thread that is not the engine's."""
    request, readers, talk = prepared(chat, job)
    return request, readers, talk, chat.engine.compiled(request)


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
    request, _, _ = prepared(chat, _job(about))
    return {"prompt": chat.tokenizer.decode(request.tokens), "tokens": list(request.tokens)}


def count(chat: LocalChat, about: Any) -> int:
    """about: a Job.   The prompt's length in tokens."""
    return len(prepared(chat, _job(about))[0].tokens)


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
    import msgspec

    return msgspec.convert(about, Job)
