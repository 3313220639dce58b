"""A text and a model in a sentence, before they are trained on and trained."""

from dataclasses import replace
from typing import Any

from charlm.cli.console import count
from charlm.config import FEWEST_HELD_OUT, ModelConfig


def about_text(loaded: Any) -> str:
    """How much text there is, of how many different characters, and how it is divided."""
    corpus = loaded.corpus
    vocabulary = corpus.vocabulary
    few = "; too few held out to mean much" if 0 < corpus.held_out_chars < FEWEST_HELD_OUT else ""
    none = "; nothing held out, so nothing will be evaluated" if corpus.held_out_chars == 0 else few
    test = f", {count(corpus.test_chars)} kept for the test" if corpus.test_chars else ""
    gaps = f", {count(corpus.left_out_chars)} left out between them" if corpus.left_out_chars else ""
    documents = f" in {count(sum(corpus.ends))} documents" if vocabulary.has_end else ""
    return (
        f"{count(corpus.chars)} characters{_as_symbols(corpus)}{documents}, {_kept(vocabulary)}: "
        f"{count(corpus.train_chars)} to train on, {count(corpus.held_out_chars)} held out{test}{gaps}{none}"
    )


def _as_symbols(corpus: Any) -> str:
    """How many symbols those characters are read as, where symbols are something else."""
    if corpus.vocabulary.units == "chars":
        return ""
    ids = sum(len(part) for part in (corpus.train, corpus.held_out, corpus.test) if part is not None)
    read = ", of those that are in a part" if corpus.left_out_chars else ""
    return f" as {count(ids - sum(corpus.ends))} bytes{read}"


def _kept(vocabulary: Any) -> str:
    """The different symbols that there are."""
    n_bytes = len(vocabulary.trained_bytes)
    if vocabulary.units == "bytes":
        return f"{n_bytes} different"
    kept = f"{len(vocabulary.chars)} different kept"
    return kept + (f" and {n_bytes} byte{'s' * (n_bytes > 1)} to spell rare ones with" if n_bytes else "")


def several(n: int, thing: str) -> str:
    """`1 layer`, `4 layers`."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def about_model(choice: Any, vocabulary: Any) -> str:
    """The size of a model and how it is trained; of its kind, what is not as it always is."""
    from charlm.ngram.grams import Packing  # here: NumPy is slow to import

    m, t, word = choice.model, choice.training, vocabulary.word
    if m.prior_order is not None:  # of many different symbols only few fit a key
        fits = Packing(vocabulary.n_symbols).highest_order
        m = replace(m, prior_order=min(m.prior_order, fits))
    if m.is_ngram:
        chosen = f"as many {word}s as predict the end of the training part best"
        most = f"{several(m.prior_order, word)} of context" if m.prior_order is not None else chosen
        return f"counts alone, {most}"
    return (
        f"{several(m.n_layer, 'layer')} of width {m.n_embd}, {_kind(m, word)}blocks of {m.block_size}{_in_words(word)}, batches of "
        f"{t.batch_size}, learning rate {t.learning_rate:g}, dropout {m.dropout:g}, {t.precision}"
        + (", compiled" if t.compile == "on" else "")
    )


def _in_words(word: str) -> str:
    """Of what blocks are, where it is not what they always are."""
    return "" if word == "character" else f" {word}s"


def _kind(model: ModelConfig, word: str) -> str:
    """What of the model is not as it always is, and its heads, where it has any."""
    usual = ModelConfig()
    words = [several(model.n_head or 1, "head")] if model.attends else []
    words += [model.mixer.replace(",", " and ")] if model.mixer != usual.mixer else []
    default = ModelConfig(mixer=model.mixer).completed().position
    words += [f"{model.position} positions"] if model.position != default else []
    words += [f"window {model.window}"] if model.window is not None else []
    words += [f"{model.n_kv_head} heads of keys and values"] if model.n_kv_head else []
    words += ["locality"] if model.locality else []
    words += (
        [f"vectors for up to {model.ngram_embeddings} {word}s together"]
        if (model.ngram_embeddings or 1) > 1
        else []
    )
    words += [f"on counts of {model.prior_order} {word}s"] if model.prior else []
    return "".join(word + ", " for word in words)
