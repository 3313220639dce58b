"""The session of an n-gram model, which is counted in a single step."""

from dataclasses import replace
from time import perf_counter

from charlm.checkpoint.run_folder import RunFacts
from charlm.checkpoint.snapshot import Snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.ngram.build import fit, spread_chars
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.events import Counted
from charlm.training.held_out import HeldOut
from charlm.training.plan import Plan
from charlm.training.session import Session
from charlm.training.state import read_state


class NgramSession(Session):
    """An n-gram model, counted from a text or read from a checkpoint. Counting is its single step."""

    predictor: NgramPredictor

    def __init__(
        self,
        corpus: Corpus,
        model: ModelConfig,
        training: TrainingConfig,
        plan: Plan,
        run: RunFacts,
        ngram: KneserNey | None = None,
    ) -> None:
        """Without `ngram`, count the training part; the default order is the one that predicts its end best."""
        super().__init__(corpus, model, training, plan, run)
        self.state.step = plan.total_steps
        started, vocabulary = perf_counter(), corpus.vocabulary
        if ngram is None:
            built = fit(
                corpus.train,
                vocabulary.n_symbols,
                model.prior_order,
                memory=training.prior_memory << 20,
                most=training.prior_chars,
                end=vocabulary.end,
            )
            ngram, seconds, chars = built.model, perf_counter() - started, self.chars_per_step
            self.state.seconds = seconds
            self.counted = Counted(step=self.state.step, chars=chars, seconds=seconds, limits=built.limits)
        self.model_config = replace(model, prior=True, prior_order=ngram.order)
        self.predictor, self.ngram = NgramPredictor(ngram, vocabulary), ngram.to_bytes()

    @classmethod
    def resumed(cls, snapshot: Snapshot, corpus: Corpus, plan: Plan) -> "NgramSession":
        """Return the session of a checkpoint; nothing is counted again. Raises CheckpointError."""
        ngram = snapshot.kneser_ney()
        assert ngram is not None, "a checkpoint of an n-gram model is not read without it"
        if ngram.order != snapshot.model_config.prior_order:
            raise CheckpointError("the order of the n-gram model differs from prior_order in config.json")
        session = cls(corpus, snapshot.model_config, snapshot.training_config, plan, snapshot.run, ngram)
        session.state = read_state(snapshot.state)
        return session

    @property
    def chars_per_step(self) -> int:
        """Symbols counted."""
        n = len(self.corpus.train)
        return sum(end - start for start, end in spread_chars(n, self.training_config.prior_chars or n))

    @property
    def chars_read(self) -> int:
        """Symbols counted."""
        return self.chars_per_step

    @property
    def learned(self) -> list[tuple[str, str]]:
        """Symbols counted and size of the model, as rows of a table."""
        assert self.ngram is not None
        word, order = self.corpus.vocabulary.unit_noun, self.model_config.prior_order
        return [
            (f"{word}s counted", f"{self.chars_per_step:,}"),
            ("n-grams", f"{order} {word}s of context, {len(self.ngram) / 1e6:.1f} MB"),
        ]

    def held_out(self, baseline: KneserNey | None = None) -> HeldOut:
        """Return the evaluation on all of the held-out text, without a baseline, which would be n-grams too."""
        rule = self.predictor.in_blocks(self.predictor.rule)
        return HeldOut(self.corpus, self.predictor, None, rule, always_whole=True)
