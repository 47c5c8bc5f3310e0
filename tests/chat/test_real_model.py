"""The small real model through the whole stack: it equals `transformers`, remembers, stops, streams, and shares."""

from threading import Thread

import pytest

from bench.smollm2 import PROMPTS, TOKENS, differences
from octavo.core.chat import complete
from octavo.core.deltas import Finished, TextDelta
from octavo.core.errors import RequestError
from octavo.core.messages import Message
from octavo.core.sampling import Sampling
from octavo.weights import open_checkpoint
from tests.chat.models import smollm2, smollm2_file

GREEDY = Sampling(temperature=0, max_tokens=60)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def say(text: str, sampling: Sampling = GREEDY) -> Finished:
    return complete(smollm2(), [user(text)], sampling=sampling)[0]


@pytest.mark.slow
def test_greedy_continuations_equal_transformers_on_the_same_file():
    found = differences(open_checkpoint(smollm2_file()), count=len(PROMPTS), kind="plain")
    assert len(found) == 20 and all(agreed == TOKENS for agreed in found.values()), found


def test_it_knows_a_capital_and_remembers_the_first_turn():
    chat = smollm2()
    first = [user("What is the capital of France?")]
    answer = complete(chat, first, sampling=GREEDY)[0]
    assert "Paris" in answer.message.text and answer.reason == "stop"
    second = [*first, answer.message, user("Which city did you just name? Answer with its name only.")]
    again = complete(chat, second, sampling=GREEDY)[0]
    assert "Paris" in again.message.text
    assert again.usage.cached_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens - 1  # all computed


def test_deltas_join_to_the_message_and_the_tokens_spell_it():
    chat = smollm2()
    deltas = list(chat.stream([user("Count from one to five.")], sampling=GREEDY))
    end = deltas[-1]
    assert isinstance(end, Finished)
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == end.message.text
    assert chat.tokenizer.decode(end.tokens, skip_special=True).strip() == end.message.text.strip()
    assert end.usage.completion_tokens == len(end.tokens) and end.usage.thinking_tokens == 0


@pytest.mark.parametrize(
    "stop", [("is",), ("Paris",), ("capital", "France"), ("s P",), ("never said",), ("t",), ("z", "P")]
)
def test_a_stop_string_ends_the_answer_before_it(stop: tuple[str, ...]):
    whole = say("What is the capital of France?").message.text
    found = say("What is the capital of France?", Sampling(temperature=0, max_tokens=60, stop=stop)).message.text
    places = [place for text in stop if (place := whole.find(text)) >= 0]
    assert found == (whole[: min(places)] if places else whole)


def test_a_stopped_reply_keeps_what_was_said_and_frees_its_pages():
    chat = smollm2()
    reply = chat.stream([user("Tell me a long story about the sea.")], sampling=Sampling(temperature=0))
    text, end = "", None
    for delta in reply:
        if isinstance(delta, TextDelta):
            text += delta.text
            if len(text) > 40:
                reply.cancel()
        end = delta
    assert isinstance(end, Finished) and end.reason == "cancelled" and end.message.text == text and len(text) > 40
    assert chat.engine.pool.unused == chat.engine.pool.size and not chat.engine.busy


def test_a_reply_that_nobody_reads_to_its_end_frees_its_pages():
    chat = smollm2()
    for delta in chat.stream([user("Tell me a long story about the sea.")], sampling=Sampling(temperature=0)):
        if isinstance(delta, TextDelta):
            break
    assert chat.engine.pool.unused == chat.engine.pool.size and not chat.engine.busy and not chat.inboxes


def test_a_reply_that_nobody_reads_at_all_is_forgotten():
    chat = smollm2()
    reply = chat.stream([user("Tell me a long story about the sea.")], sampling=Sampling(temperature=0))
    assert chat.engine.busy and chat.inboxes
    del reply
    assert not chat.engine.busy and not chat.inboxes and chat.engine.pool.unused == chat.engine.pool.size


def test_replies_at_the_same_time_are_those_one_after_the_other():
    questions = ["Name a colour.", "What is two plus two?", "Who wrote Hamlet?", "Is water wet?"]
    sampling = Sampling(temperature=0, max_tokens=24)
    wanted, found = [say(q, sampling).message for q in questions], dict[str, Message]()

    def ask(question: str) -> None:
        found[question] = say(question, sampling).message

    threads = [Thread(target=ask, args=(question,)) for question in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[question] for question in questions] == wanted


def test_several_replies_come_with_their_index_and_a_seed_repeats_them():
    sampling = Sampling(temperature=1.2, top_k=20, seed=1, n=3, max_tokens=12)
    first, again = (complete(smollm2(), [user("Invent a name.")], sampling=sampling) for _ in range(2))
    assert [end.index for end in first] == [0, 1, 2] and len({end.message.text for end in first}) > 1
    assert [end.tokens for end in first] == [end.tokens for end in again]


def test_what_the_model_cannot_do_is_said_before_anything_else():
    for sampling, words in ((Sampling(regex="(["), "grammar"), (Sampling(logit_bias={10**6: 1.0}), "token 1000000")):
        with pytest.raises(RequestError, match=words):
            smollm2().stream([user("hello")], sampling=sampling)
    with pytest.raises(RequestError, match="shorten"):
        smollm2().stream([user("hello " * 20_000)], sampling=GREEDY)
    assert not smollm2().engine.busy
