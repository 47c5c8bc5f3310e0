"""A model or an address -> `Chat`: format and engine in this process, or any OpenAI-compatible endpoint."""

from octavo.chat.loading import load

__all__ = ["load"]
