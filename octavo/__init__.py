"""Octavo: the whole open-model system around Qwen3 as one package. `octavo.load(...)` gives a `Chat`."""

__version__ = "0.1.0"


def load(model: str | None = None, *, offline: bool = False):
    """Open a model as a `Chat`; see `octavo.chat.load`. Imported late, so that `import octavo` stays instant."""
    from octavo.chat import load as load_chat

    return load_chat(model, offline=offline)
