"""A batch while it runs: counted without reading all of it again, cancelled once."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from octavo.serve.gateway import runner as runners
from octavo.serve.gateway.batches import Batch, Owned
from octavo.serve.gateway.files import Files
from octavo.serve.gateway.gateway import Gateway, Options
from octavo.serve.gateway.runner import Runner
from tests.serve.gateway.desk import jsonl


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """A server that says something."""
    await asyncio.sleep(0.001)
    body = json.dumps({"said": "hi"}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"1")]})
    await send({"type": "http.response.body", "body": body})


def started(folder: Path, count: int) -> tuple[Gateway, Runner, Owned]:
    gateway = Gateway(Options(folder=folder), default="m")
    runner = Runner(gateway, Files(gateway.state))
    (gateway.state.files / "file-in").write_bytes(jsonl(count))
    owned = Owned(Batch(id="batch_1", endpoint="/v1/chat/completions", input_file_id="file-in"), "o", "")
    runner.shelf.add(owned)
    runner.begin(answering)
    return gateway, runner, owned


def test_the_lines_that_are_done_are_read_a_few_times_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked = list[str]()
    real = runners.Shelf.done_lines

    def counting(self: runners.Shelf, id: str) -> dict[int, bool]:
        looked.append(id)
        return real(self, id)

    async def run() -> None:
        _, runner, _ = made = started(tmp_path, 200)
        await asyncio.wait(list(runner.tasks.values()))
        batch = runner.shelf.find("batch_1", owner="o").batch
        assert batch.status == "completed" and batch.request_counts.completed == batch.request_counts.total == 200
        made[0].close()

    monkeypatch.setattr(runners.Shelf, "done_lines", counting)
    asyncio.run(run())
    assert 1 <= len(looked) <= 4


def test_two_who_cancel_at_once_cancel_once(tmp_path: Path):
    async def run() -> None:
        gateway, runner, _ = started(tmp_path, 2000)
        while not runner.shelf.done_lines("batch_1"):
            await asyncio.sleep(0.005)
        began, real = list[str](), runner.start

        def start(owned: Owned) -> None:
            began.append(owned.batch.status)
            real(owned)

        runner.start = start
        found = [runner.shelf.find("batch_1", owner="o") for _ in range(2)]
        said = await asyncio.gather(*(runner.cancel(one) for one in found))
        assert [one.status for one in said] == ["cancelling"] * 2 and began == ["cancelling"]
        await asyncio.wait(list(runner.tasks.values()))
        batch = runner.shelf.find("batch_1", owner="o").batch
        lines = (gateway.state.files / str(batch.output_file_id)).read_bytes().splitlines()
        assert batch.status == "cancelled" and batch.request_counts.completed == len(lines) > 0
        gateway.close()

    asyncio.run(run())
