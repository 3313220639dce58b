"""The errors that users see: one sentence each, with an exit code per kind."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as Python or torch reports it."""
    said = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said


class CharlmError(Exception):
    """An error the user can act on; the message says what was got, what is allowed, what to do."""

    exit_code = 1


class UsageError(CharlmError):
    """An invalid option, run name or configuration."""

    exit_code = 2


class TextError(CharlmError):
    """A text that cannot be read, or that nothing can be learned from."""

    exit_code = 3


class CheckpointError(CharlmError):
    """A run or checkpoint that is missing, damaged, in use, or made from something else."""

    exit_code = 4


class DivergedError(CharlmError):
    """Training diverged again after every attempt to go back."""

    exit_code = 5


class ResourceError(CharlmError):
    """The disk or the memory is full."""

    exit_code = 6


class RankError(CharlmError):
    """Another process that trains the same run has ended, cannot be reached, or has something else installed."""

    exit_code = 7


class ToldElsewhere(CharlmError):  # noqa: N818  the error is another rank's
    """An error that also ends rank 0, which reports it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("rank 0 says why")
        self.exit_code = exit_code


class Interrupted(CharlmError):  # noqa: N818  no error, and named for what it is
    """A signal outside of training, where there is nothing to save; 130 is Ctrl-C's exit code."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
