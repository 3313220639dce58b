"""Sentences for the user about a text, a model, its plan and a fine-tuning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from charlm.config import FEWEST_HELD_OUT, NGRAM, ModelConfig, TrainingConfig
from charlm.native.library import status
from charlm.terminal import first_of, one_line

if TYPE_CHECKING:  # NumPy and torch are slow to import
    from charlm.checkpoint.run_folder import RunFacts
    from charlm.data.corpus import Corpus
    from charlm.data.shards import TextIds
    from charlm.data.tokenizer import Vocabulary
    from charlm.training.events import Evaluated, Planned
    from charlm.training.finetune import Parent
    from charlm.training.plan import Plan
    from charlm.training.planner import Choice
    from charlm.training.request import Messages

MIN_LEAK_SHARE = 0.01


def several(n: int, thing: str) -> str:
    """Return a number with its noun: `1 layer`, `4 layers`."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def text_name(run: "RunFacts") -> str:
    """Name the text of a run, by `run.json`: its label and the beginning of its SHA-256."""
    return one_line(f"{run.corpus.label}, SHA-256 {run.corpus.sha256[:16]}")


def describe_text(corpus: "Corpus") -> str:
    """Describe size, vocabulary and split of a text."""
    vocabulary = corpus.vocabulary
    few = (
        "; too little held-out text for a reliable score"
        if 0 < corpus.held_out_chars < FEWEST_HELD_OUT
        else ""
    )
    none = "; no held-out text, so training runs without evaluations" if corpus.held_out_chars == 0 else few
    test = f", {corpus.test_chars:,} in the test set" if corpus.test_chars else ""
    gaps = f", {corpus.left_out_chars:,} left out between them" if corpus.left_out_chars else ""
    documents = f" in {sum(corpus.ends):,} documents" if vocabulary.has_end else ""
    return (
        f"{corpus.chars:,} characters{_symbols_read(corpus)}{documents}, {_distinct(vocabulary)}: "
        f"{corpus.train_chars:,} to train on, {corpus.held_out_chars:,} held out{test}{gaps}{none}"
    )


def _symbols_read(corpus: "Corpus") -> str:
    """State the number of ids, if the units are not characters."""
    if corpus.vocabulary.units == "chars":
        return ""
    ids = sum(len(part) for part in (corpus.train, corpus.held_out, corpus.test))
    kept = ", excluding left-out text" if corpus.left_out_chars else ""
    return f" as {ids - sum(corpus.ends):,} bytes{kept}"


def _distinct(vocabulary: "Vocabulary") -> str:
    n_bytes = len(vocabulary.trained_bytes)
    if vocabulary.units == "bytes":
        return f"{n_bytes} distinct"
    kept = f"{len(vocabulary.chars)} distinct characters"
    return kept + ("; rarer ones are encoded as bytes" if n_bytes else "")


def joined(parts: Sequence[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def kinds_of(plan: "Plan") -> tuple[str, ...]:
    """Return the kinds of the members of a run, the n-gram model last."""
    trained = tuple(member.kind for member in plan.members)
    return (*trained, *[NGRAM] * any(NGRAM in (m.training.members or "").split(",") for m in plan.members))


def member_in_training(plan: "Plan", member: int) -> str:
    """Name a member: `member 2 of 2, no-prior`; empty if the run trains a single transformer."""
    n = len(plan.members)
    return f"member {member} of {n}, {plan.members[member - 1].kind}" if 1 < n >= member else ""


def resized(event: "Planned", was: ModelConfig, plan: "Plan", number: int) -> str:
    """Explain why the training of a member restarts, and with which size; `was`: the abandoned model."""
    facts, now = event.decision, plan.members[number]
    slower = facts["step_seconds"] / facts["expected_step_seconds"]
    found = f"take {slower:.1f} times as long" if slower > 1 else f"are {1 / slower:.1f} times as fast"
    sizes = [(m.n_layer or 0) * (m.n_embd or 0) ** 2 for m in (was, now.model)]
    what = "model" if sizes[0] == sizes[1] else f"{'smaller' if sizes[1] < sizes[0] else 'larger'} model"
    size = f"{several(now.model.n_layer or 0, 'layer')} x {now.model.n_embd}"
    size += f", blocks of {now.model.block_size}, batches of {now.training.batch_size}"
    return f"steps {found} as expected; training begins again with a {what}, {size}"


def other_threads(event: "Planned") -> str:
    """Explain how many threads the run uses from now on, and why."""
    facts = event.decision
    seconds, before = facts["step_seconds_on_trial"], facts["step_seconds"]
    number = several(facts["threads"], "thread")
    return f"from now on with {number} instead of {facts['threads_before']}: steps are {before / seconds:.1f} times as fast"


def evaluated_model(plan: "Plan", event: "Evaluated") -> str:
    """Name the evaluated model, the mixture or one member; empty for a run with a single model."""
    if event.mixed:
        return f"mixture of {joined(event.mixed)}"
    n = len(plan.members)
    if len(kinds_of(plan)) < 2 or event.member > n:
        return ""
    return f"{plan.members[event.member - 1].kind} alone" + f" (member {event.member} of {n})" * (n > 1)


def describe_model(choice: "Choice", vocabulary: "Vocabulary") -> str:
    """Describe each member: its size, its settings other than the defaults, and how it is trained."""
    word, m = vocabulary.unit_noun, choice.model
    if m.is_ngram:
        chosen = f"the order in {word}s that best predicts the end of the training part"
        return f"n-gram model of {'' if m.prior_order is None else several(m.prior_order, word)}{chosen * (m.prior_order is None)}"
    kinds = kinds_of(choice.plan)
    said = [_transformer(member.model, member.training, vocabulary) for member in choice.plan.members]
    if len(kinds) == 1:
        return said[0]
    said += ["the n-gram model itself"] * (NGRAM in kinds)
    return "mixture of " + joined([f"{kind} ({each})" for kind, each in zip(kinds, said, strict=True)])


def describe_choice(choice: "Choice", vocabulary: "Vocabulary", also: str = "") -> str:
    """Describe what is trained, for which budget it was chosen, and which text is reserved for calibration."""
    said = f"{describe_model(choice, vocabulary)}, chosen {choice.why}{also}"
    if not choice.training.reserved_chars:
        return said
    words = ["temperature", "weights"] if len(kinds_of(choice.plan)) > 1 else ["the temperature"]
    words += ["the strength of recent n-grams"] * bool(choice.training.recent_chars)
    learned = f"{joined(words)} {'are' if len(words) > 1 else 'is'}"
    reserved = several(choice.training.reserved_chars, vocabulary.unit_noun)
    return (
        f"{said}; on {reserved} at the end of the training text, which no model trains on, {learned} learned"
    )


def _transformer(m: ModelConfig, t: TrainingConfig, vocabulary: "Vocabulary") -> str:
    """Describe a transformer: its size, its settings other than the defaults, and how it is trained."""
    word = vocabulary.unit_noun
    blocks = f"blocks of {m.block_size}" + ("" if word == "character" else f" {word}s")
    return (
        f"{several(m.n_layer or 0, 'layer')} of width {m.n_embd}, {_special(m, word)}{blocks}, batches of "
        f"{t.batch_size}, learning rate {t.learning_rate:g}, dropout {m.dropout:g}, {t.precision}"
        + (", compiled" if t.compile == "on" else _slower(m))
    )


def _slower(m: ModelConfig) -> str:
    """State why the training kernels are not used, for a model that they support."""
    found = status()
    return f", in torch, which is slower: {found.reason}" if m.has_kernels and found.clone is None else ""


def _special(m: ModelConfig, word: str) -> str:
    """Describe the heads, and each setting of the architecture that is not the default."""
    default = ModelConfig(mixer=m.mixer).completed().position
    parts = [
        (m.attends, several(m.n_head or 1, "head")),
        (m.mixer != ModelConfig().mixer, m.mixer.replace(",", " and ")),
        (m.position != default, f"{m.position} positions"),
        (m.window is not None, f"window {m.window}"),
        (m.n_kv_head, f"{m.n_kv_head} key-value heads"),
        (m.locality, "locality"),
        ((m.ngram_embeddings or 1) > 1, f"embeddings of up to {m.ngram_embeddings} {word}s"),
        (m.prior, f"n-gram prior of {m.prior_order} {word}s"),
    ]
    return "".join(f"{part}, " for wanted, part in parts if wanted)


def leak_warning(
    corpus: "Corpus",
    train: "TextIds | None" = None,
    where: str = "the training part",
    *,
    splittable: bool = True,
) -> str | None:
    """Return a warning if at least 1 % of the held-out text also occurs in the training part, or in `train`.

    `splittable`: whether the user may choose another split.
    """
    from charlm.data.overlap import PASSAGE, overlap

    found = overlap(corpus.train if train is None else train, corpus.held_out)
    if found.share < MIN_LEAK_SHARE:
        return None
    return (
        f"{found.word}{100 * found.share:.0f} % of the held-out text also occurs in {where}, in passages of at least "
        f"{PASSAGE} {corpus.vocabulary.unit_noun}s, so its score will be too good; hold out another text with "
        "--val-file" + (", or whole documents with --split documents" if splittable else "")
    )


def report_origin(origin: "Parent", corpus: "Corpus", messages: "Messages") -> None:
    """Report how fine-tuning extends the vocabulary, what stays held out, and what the prior counts."""
    old, new, name = origin.snapshot.vocabulary, corpus.vocabulary, one_line(origin.name)
    added = new.differences(old)
    messages.say(
        f"vocabulary: the {old.n_symbols:,} symbols of {name}, plus {new.n_symbols - old.n_symbols:,} new"
        + (f": {first_of(added)}" if added else "")
    )
    if origin.corpus is None:
        messages.warn(
            f"{origin.gone.replace('--text', '--from-text')}; without that text, charlm cannot measure "
            "forgetting or check whether its held-out part occurs in the new text"
        )
    inherited = corpus.inherited_split
    if inherited is not None and inherited.begins:
        messages.say(f"the text begins with that of {name}: its held-out part stays held out")
    if inherited is not None and inherited.found:
        messages.say(f"{_held_out_found(origin, inherited.found)} are left out of training")
    if origin.corpus is not None:
        leak = leak_warning(corpus, origin.corpus.train, f"the training part of {name}", splittable=False)
        if leak:
            messages.warn(leak)
    if origin.snapshot.model_config.prior:
        if origin.counted:
            texts = f"this text and {one_line(origin.snapshot.run.corpus.label)}"
        elif origin.corpus is None:
            texts = "this text alone, because the old text is missing"
        else:
            texts = (
                "this text alone, because much of it also occurs in the old text; n-grams from both would be "
                "overconfident"
            )
        messages.say(f"the n-gram prior is built from {texts}")


def _held_out_found(origin: "Parent", found: int) -> str:
    """State how many characters of the new text the old run held out, and their share of its held-out text."""
    from charlm.data.holdout import MOST_SEARCHED

    old = origin.corpus
    assert old is not None, "what was found was looked for"
    kept_back = (old.held_out, old.test)
    of = max(1, old.held_out_chars + old.test_chars + sum(old.ends[1:]))
    ends = ", ends of documents counted," if sum(old.ends) else ","
    least = "at least " if any(len(part) > MOST_SEARCHED for part in kept_back) else ""
    share = min(100.0, 100 * found / of)
    return f"{least}{found:,} characters of the text{ends} {share:.0f} % of what {one_line(origin.name)} held out,"
