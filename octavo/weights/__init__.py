"""Files <-> tensors: safetensors and GGUF, the hub and its cache, saving, and what a model needs of a machine."""

from octavo.weights.checkpoint import Checkpoint, open_checkpoint
from octavo.weights.hub import CachedModel, default_model, find_model, list_models, remove_model
from octavo.weights.load import load_weights
from octavo.weights.memory import Needs, check_memory, needs
from octavo.weights.save import save_checkpoint

__all__ = [
    "CachedModel",
    "Checkpoint",
    "Needs",
    "check_memory",
    "default_model",
    "find_model",
    "list_models",
    "load_weights",
    "needs",
    "open_checkpoint",
    "remove_model",
    "save_checkpoint",
]
