"""The processes that run one comparison together, as ranks or as a job array, each with its share of the runs."""

from dataclasses import dataclass

from charlm.cli.console import MESSAGES
from charlm.cli.ranks import SILENT, device_of, start_as_asked
from charlm.errors import UsageError
from charlm.experiments.share import Share, share_of
from charlm.place import Place
from charlm.terminal import be_quiet, is_quiet
from charlm.training.request import Messages


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One of these processes, or the only one."""

    share: Share
    is_shared: bool  # whether other processes run the same comparison
    place: Place
    quiet: bool  # whether it was asked to be
    ranks: int | None  # to be started

    @property
    def messages(self) -> Messages:
        """Where it reports what all processes find alike: only the first of several ranks does."""
        return SILENT if self.place.rank else MESSAGES

    def start(self) -> None:
        """Start the ranks that were asked for, unless this is one of them, and exit with their code."""
        start_as_asked(self.ranks, None, {})

    def take_device(self, device: str) -> None:
        """Use the GPU of this rank, if there is one for each. Raises UsageError."""
        if self.place.size > 1:
            device_of(self.place, device)

    def speak(self) -> None:
        """Print messages again as asked for, even on a rank other than the first, to show the results."""
        be_quiet(self.quiet)


def this_worker(share: str | None = None, ranks: int | None = None) -> Worker:
    """Describe this process. Raises UsageError for an invalid share, and RankError."""
    place = Place.of_environment()
    if share is not None and ranks is not None:
        raise UsageError("give either --share or --ranks, not both")
    return Worker(
        share=share_of(share, place),
        is_shared=share is not None or place.size > 1,
        place=place,
        quiet=is_quiet(),
        ranks=ranks,
    )


def check_named(worker: Worker, run: str | None) -> None:
    """Raise UsageError if several processes could not find the same comparison."""
    if run is None and (worker.is_shared or (worker.ranks or 1) > 1):
        raise UsageError("several processes find the same comparison by its name; give one with --run NAME")
