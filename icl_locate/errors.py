"""The package's own errors: each says what came, what was expected and what to do."""

__all__ = [
    "CheckpointError",
    "ExecutionError",
    "IclLocateError",
    "MaskError",
    "ModelError",
    "NumericalError",
    "PromptError",
    "ResultError",
    "SandboxError",
    "TaskError",
]


class IclLocateError(ValueError):
    """Base of every error that this package raises for its users' input."""


class PromptError(IclLocateError):
    """Prompts that cannot be built: too few examples, an empty target, a prompt too long."""


class MaskError(IclLocateError):
    """A mask that does not fit: layers or heads out of range, a segment that is not there."""


class ModelError(IclLocateError):
    """A model that cannot be loaded, or whose attention cannot be masked."""


class NumericalError(IclLocateError):
    """A model that gave NaN where numbers were expected."""


class TaskError(IclLocateError):
    """A task that is unknown, or whose file is malformed."""


class ResultError(IclLocateError):
    """A result file that is missing or damaged, or a question that the result cannot answer."""


class CheckpointError(ResultError):
    """A checkpoint of several that could not be loaded or measured.

    Attributes:
        found: what the others gave, an `OverCheckpoints`; ``None`` if there is nothing.
    """

    def __init__(self, message: str, found: object = None) -> None:
        super().__init__(message)
        self.found = found


class ExecutionError(IclLocateError):
    """Units of a run that failed wherever an executor tried them."""


class SandboxError(IclLocateError):
    """Code that cannot be run, or a sandbox that cannot be set up."""
