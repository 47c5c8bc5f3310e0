"""The error tree. A user sees the message and nothing else, so each says: found what, needed what, do what."""


class OctavoError(Exception):
    """Anything a user can cause or mend. Bugs of ours are `assert`s instead."""


class ConfigError(OctavoError):
    """A config.json, GGUF header or setting that is missing, contradictory or not understood."""


class CheckpointError(OctavoError):
    """Weights that are missing, truncated, of the wrong shape, or of an unknown kind."""


class TokenizerError(OctavoError):
    """Tokenizer files that are missing, broken or of a kind we do not read."""


class FormatError(OctavoError):
    """A conversation that the chat format cannot express, or a template that fails."""


class RequestError(OctavoError):
    """A request outside what can be done: bad sampling values, a bad schema, a prompt without tokens."""


class ContextError(RequestError):
    """A prompt that is longer than the context: a shorter one may do."""


class HubError(OctavoError):
    """A model that cannot be found, reached or downloaded."""


class MemoryNeeded(OctavoError):
    """The machine has less memory or disk than the model needs."""


class KernelError(OctavoError):
    """The CPU kernels cannot be made or used on this machine."""


class SampleError(OctavoError):
    """Something to train on that teaches nothing, or other than what was meant."""


class TaskError(OctavoError):
    """A task or its data that is missing, broken, or asked for what it does not have."""


class TrainingError(OctavoError):
    """A training run that cannot go on: numbers that are not finite, a state of another run, nothing to learn from."""
