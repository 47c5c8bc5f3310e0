"""Octavo: the whole open-model system around Qwen3 as one package. `octavo.load(...)` gives a `Chat`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo.core.chat import Chat

__version__ = "0.4.0"


def load(model: str | None = None, *, offline: bool = False) -> "Chat":
    """Open a model: a path, "org/name", an endpoint's address; None: the best one here. See `octavo.chat.load`.

    Raises OctavoError. The rest of the package is imported only now, so that `import octavo` stays instant.
    """
    from octavo.chat import load as load_chat

    return load_chat(model, offline=offline)
