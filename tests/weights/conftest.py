"""A hub cache of its own for each test, and a hub that serves one model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from octavo.weights import hub, transfer
from tests.weights.hub_server import NAME, HubServer, files_of, serving


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, the network switched on, and nothing that came with the install."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PACKAGED", "no_such_package")
    monkeypatch.setattr(hub, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(transfer.time, "sleep", lambda _s: None)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving(HubServer({NAME: files_of(tmp_path / "made", layers=4)})) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", running.url)
        yield running
