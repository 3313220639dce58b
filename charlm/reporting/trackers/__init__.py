"""Experiment trackers that training reports to: which there are, and whether what each needs is installed.

The name of a tracker is also that of its module here, of the package that it needs, and of the extra that installs it.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from charlm.errors import UsageError
from charlm.suggestions import name_meant
from charlm.terminal import one_line

TRACKERS = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "MLflow", "trackio": "Trackio"}
"""The class of each tracker."""
NO_TRACKER = "none"


def missing_extra(tracker: str) -> str | None:
    """Return a sentence with the command that installs what a tracker needs; None if it is installed."""
    spec = find_spec(tracker)
    if (
        spec is not None and spec.origin is not None
    ):  # else a folder of that name, such as wandb's of offline runs
        return None
    return (
        f"--report-to {tracker} needs the package {tracker}, which is not installed; install it with: "
        f'pip install "charlm-cli[{tracker}]"'
    )


def chosen_trackers(named: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Parse the named trackers, joined by commas or as a list; empty for `none`, and None if nothing was given.

    Raises UsageError for an unknown one, for one named twice, and for one whose package is missing.
    """
    if named is None:
        return None
    names = tuple(name.strip() for name in (named.split(",") if isinstance(named, str) else named))
    if names in ((), (NO_TRACKER,)):
        return ()
    for name in names:
        if name not in TRACKERS:
            meant = name_meant(name, list(TRACKERS))
            hint = f"; did you mean {meant}?" if meant else ""
            raise UsageError(
                f"--report-to {one_line(name) or repr(name)} is unknown; allowed: {', '.join(TRACKERS)}, or "
                f"{NO_TRACKER} alone{hint}"
            )
        if names.count(name) > 1:
            raise UsageError(f"--report-to names {name} twice; name it once")
        if (sentence := missing_extra(name)) is not None:
            raise UsageError(sentence)
    return names
