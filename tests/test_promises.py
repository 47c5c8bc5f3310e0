"""To add X, touch only Y: a dummy of each is added from outside the package, and run end to end."""

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from bench.laws import tiny_model
from octavo.chat.local import LocalChat
from octavo.cli import main
from octavo.core.channel import Channel
from octavo.core.chat import complete
from octavo.core.messages import Message
from octavo.core.sampling import Sampling
from octavo.engine.engine import Engine, tokens_of
from octavo.engine.rules import allow
from octavo.engine.torch_backend import TorchBackend
from octavo.engine.types import Request
from octavo.models import ARCHITECTURES, Family, skeleton
from octavo.models.qwen3 import qwen3
from octavo.nn import linear
from octavo.serve import app
from octavo.serve.job import Job
from octavo.serve.link import Open
from octavo.serve.models import Models
from octavo.serve.stream import Collected
from octavo.serve.wire import Asked
from octavo.text.chat import FORMATS, choose_format
from octavo.text.chat.chatml import ChatMl
from octavo.weights import load_weights, open_checkpoint, save_checkpoint
from tests.chat.models import nonsense, smollm2
from tests.engine.hash_backend import HashBackend
from tests.serve.mini import mini_random

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": False,
}  # fmt: skip


def test_a_model_family_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Qwen3 under another name: saved, opened, run."""
    monkeypatch.setitem(ARCHITECTURES, "dummy", Family(qwen3))
    model = tiny_model(vocab_size=64)
    config = TINY | {"model_type": "dummy", "num_hidden_layers": 2, "num_attention_heads": 4,
                     "max_position_embeddings": 4096}  # fmt: skip
    save_checkpoint(tmp_path / "m", model=model, config=config)
    again = skeleton(config)
    load_weights(open_checkpoint(tmp_path / "m"), again, dtype=torch.float32)
    request = Request(id="r", tokens=(1, 2, 3), sampling=Sampling(temperature=0, max_tokens=9))
    said = [tokens_of(Engine(TorchBackend(m, cache_bytes=1 << 20)).generate(request)) for m in (model, again)]
    assert said[0] == said[1] and len(said[0]) == 9


class Shouting(ChatMl):
    """ChatML with another system text."""

    name = "shouting"
    default_system = "SHOUT."


def test_a_chat_format_is_a_file_and_one_line(monkeypatch: pytest.MonkeyPatch):
    """A model whose template renders what the new format does gets it, and chats with it."""
    chat = nonsense()
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nSHOUT.<|im_end|>\n{% endif %}{% for m in messages %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    monkeypatch.setattr(chat.tokenizer, "chat_template", template)
    assert choose_format(chat.tokenizer, model_type="qwen3", name="x").name != "shouting"
    monkeypatch.setitem(FORMATS, "shouting", Shouting)
    form = choose_format(chat.tokenizer, model_type="qwen3", name="x")
    assert form.name == "shouting"
    talk = LocalChat(name="x", engine=chat.engine, tokenizer=chat.tokenizer, form=form)
    end = complete(talk, [Message(role="user", content="hi")], sampling=Sampling(max_tokens=3, seed=1))[0]
    assert end.usage.prompt_tokens == len(form.render([Message(role="user", content="hi")]).tokens(chat.tokenizer))


class OnlyEven:
    """Allows even tokens; ends after five."""

    def __init__(self) -> None:
        self.count = 0

    def forced(self, at: Channel):
        return ()

    def allowed(self, at: Channel):
        mask = np.zeros(2, dtype=np.int32)
        for token in range(0, 64, 2):
            allow(mask, token)
        return mask

    def accept(self, token: int, channel: Channel) -> None:
        self.count += 1

    def finished(self) -> bool:
        return self.count == 5

    def clone(self) -> "OnlyEven":
        copy = OnlyEven()
        copy.count = self.count
        return copy


def test_a_decoding_constraint_is_a_class():
    request = Request(id="r", tokens=(1,), sampling=Sampling(seed=1, n=2), rules=(OnlyEven(),))
    steps = Engine(HashBackend()).generate(request)
    for index in range(2):
        said = tokens_of(steps, index=index)
        assert len(said) == 5 and not any(token % 2 for token in said)


def test_a_backend_is_a_class():
    """The hash model of the engine's laws is one, written outside."""
    steps = Engine(HashBackend()).generate(Request(id="r", tokens=(1,), sampling=Sampling(temperature=0, max_tokens=4)))
    assert len(tokens_of(steps)) == 4


def test_a_packed_linear_is_a_class_and_one_line(monkeypatch: pytest.MonkeyPatch):
    class Doubled(nn.Module):
        def __init__(self, weight_ND: torch.Tensor, bias_N: torch.Tensor | None) -> None:
            super().__init__()
            self.weight_ND = weight_ND.double()

        def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
            return F.linear(x_TD.double(), self.weight_ND).float()

    monkeypatch.setitem(linear.KINDS, "doubled", (Doubled, torch.float32))
    weight, x = torch.randn(8, 4), torch.randn(3, 4)
    torch.testing.assert_close(linear.pack(weight, None, kind="doubled")(x), F.linear(x, weight))


def test_a_sampling_setting_reaches_the_sampler():
    """One of them, end to end: a bias that decides."""
    end = complete(smollm2(), [Message(role="user", content="hi")],
                   sampling=Sampling(temperature=0, max_tokens=3, logit_bias={500: 1e4}))[0]  # fmt: skip
    assert end.tokens == (500, 500, 500)


def test_a_verb_is_a_file_and_one_line(monkeypatch: pytest.MonkeyPatch):
    def greet(name: str) -> None:
        """Say hello."""
        print(f"hello {name}")

    monkeypatch.setitem(main.VERBS, "greet", greet)
    assert CliRunner().invoke(main.app(), ["greet", "you"]).output == "hello you\n"


def shout(body: bytes) -> Asked:
    """Plain text in, plain text out, loudly."""
    job = Job(model="mini", messages=(Message(role="user", content=body.decode()),), sampling={"max_tokens": 4})
    return Asked(job, stream=False, writer=lambda head: Loud())


class Loud:
    def write(self, batch: object) -> bytes:
        raise AssertionError("it never streams")

    def whole(self, collected: Collected) -> dict[str, str]:
        return {"LOUD": collected.replies[0].text.upper() + "!"}


def test_an_api_dialect_is_a_file_and_one_line(monkeypatch: pytest.MonkeyPatch):
    new = app.Dialect("shout", "/v1/shout", shout, app.openai_error)
    monkeypatch.setattr(app, "DIALECTS", (*app.DIALECTS, new))
    server = app.application(Models([Open(str(mini_random()), "mini")]))
    with TestClient(server, base_url="http://localhost") as client:
        answer = client.post("/v1/shout", content=b"Hello")
    assert answer.status_code == 200 and answer.json()["LOUD"].endswith("!")
