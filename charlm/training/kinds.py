"""What a run can be of, a transformer or counts alone: to each its session and its trainer."""

from collections.abc import Sequence
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot
from charlm.counts.kneser_ney import KneserNey
from charlm.text.corpus import Corpus
from charlm.text.vocabulary import Ids
from charlm.training.counts_session import CountsSession
from charlm.training.counts_trainer import CountsTrainer
from charlm.training.loop import Trainer
from charlm.training.pace import Pace
from charlm.training.plan import Choice, Plan
from charlm.training.session import Session

AnySession = Session | CountsSession
"""A run in memory: those who show, keep and score it use only what both have."""


def new_session(
    corpus: Corpus, choice: Choice, run: dict[str, Any], beside: Sequence[Ids] = ()
) -> AnySession:
    """The session of a new run, at its beginning; `beside`: texts of before that it counts too."""
    if choice.model.counts_alone:
        return CountsSession.counted(corpus, choice.model, choice.training, choice.plan, run)
    return Session(corpus, choice.model, choice.training, choice.plan, run, beside)


def resumed_session(snapshot: Snapshot, corpus: Corpus, plan: Plan, beside: Sequence[Ids] = ()) -> AnySession:
    """The session that a checkpoint was taken of. Raises CheckpointError where it cannot go on exactly."""
    if snapshot.model_config.counts_alone:
        return CountsSession.resumed(snapshot, corpus, plan)
    return Session.resumed(snapshot, corpus, plan, beside)


def trainer_of(
    session: AnySession, run: RunFolder, pace: Pace | None = None, baseline: KneserNey | None = None
) -> Trainer | CountsTrainer:
    """What carries a session to its end; counts keep no pace, since there is nothing to time.

    `baseline`: n-gram counts to compare each evaluation with; by default those the model starts from.
    """
    if isinstance(session, CountsSession):
        return CountsTrainer(session, run)
    return Trainer(session, run, pace, baseline)
