"""The findings of `charlm inspect`: one tree of facts, whose fields are the keys of its JSON."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from charlm.config import FEWEST_HELD_OUT, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.overlap import PASSAGE, Overlap, overlap
from charlm.data.text_scan import FileRead, TextScan
from charlm.data.tokenizer import END, text_of, without_ends
from charlm.evaluation.baselines import kneser_ney, xz_size
from charlm.inspection import characters, entropy
from charlm.inspection.characters import Character, LookAlikes, NormalForms
from charlm.inspection.entropy import Entropy
from charlm.strict_json import to_json
from charlm.terminal import percent
from charlm.training.planner import Choice

SCHEMA = 4
MOST_TRAINED = 4_000_000
"""Symbols of the training part that the n-gram baseline is fitted on."""
SCORED_PIECES, SCORED_PIECE = 20, 10_000
"""Number of pieces of a long held-out part that it is scored on, and their length in symbols."""


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """What was read, and how long it is."""

    label: str
    sha256: str
    bytes_read: int
    of_bytes: int | None  # of all files; None if unknown
    read: str  # "whole", or which part
    chars: int
    lines: int  # with an unfinished one at the end
    longest_line: int  # characters, in the sample
    documents: int | None  # None if documents are not kept apart


@dataclass(frozen=True, kw_only=True)
class LongestRepeat:
    """The longest passage that occurs twice without overlap."""

    chars: int
    times: int
    text: str
    lines: tuple[int, int] | None  # of the first and of the last; None unless the sample is the whole text


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of a text in passages of `passage` or more that occur elsewhere."""

    share: float
    word: str  # exactly, about, at least
    passage: int = PASSAGE

    @classmethod
    def of(cls, found: Overlap, scan: TextScan) -> Self:
        """Convert an overlap; a lower bound if a part of the text was left unread."""
        word = "at least" if scan.partial else found.word.strip() or "exactly"
        return cls(share=found.share, word=word)

    def __str__(self) -> str:
        """`12.0 %`, `about 12.0 %`."""
        return f"{self.word.removeprefix('exactly')} {percent(self.share)}".strip()


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Repetition in the text. `repeated`: how much of it occurred earlier in it."""

    longest: LongestRepeat | None
    repeated: Share


@dataclass(frozen=True, kw_only=True)
class EntropyFacts:
    """Entropies of the sample, by its own counts."""

    orders: tuple[Entropy, ...]
    kind: str = "conditional empirical entropy"


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """The parts of the text. `in_training_too`: how much of the held-out part the training part contains."""

    train_chars: int
    held_out_chars: int
    test_chars: int
    left_out_chars: int
    in_training_too: Share


@dataclass(frozen=True)
class TextWarning:
    """A problem, and the option of `charlm train` that solves it or what else helps."""

    code: str  # stable, for JSON
    text: str
    option: str | None = None
    remedy: str = ""  # what the option does, or what else helps


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All findings. Repeats, entropies and words are those of a sample, or of all of a short text."""

    schema: int = SCHEMA
    text: TextFacts
    files: tuple[FileRead, ...]
    newlines: dict[str, int]
    normal_forms: NormalForms
    characters: tuple[Character, ...]
    scripts: dict[str, int]
    unseen: tuple[str, ...]  # code points of invisible characters
    compatible: tuple[str, ...]  # of letters and digits in other widths or fonts
    lookalikes: LookAlikes
    sampled_chars: int
    repeats: Repeats
    entropy: EntropyFacts
    xz_bits_per_char: float | None
    split: SplitFacts
    vocabulary: dict[str, int]
    plan: dict[str, Any]  # what `charlm train` would choose
    ngram: dict[str, Any] | None  # the n-gram baseline; None if nothing is held out
    warnings: tuple[TextWarning, ...] = ()


def examine(
    loaded: Loaded, scan: TextScan, choice: Choice, watch: Callable[[str], None] = lambda what: None
) -> Facts:
    """Examine a text that was loaded with a scan; warnings come later. `watch` is told what is being measured.

    Time and memory are bounded whatever its length: the sample has at most two million characters.
    """
    corpus, vocabulary, marks = loaded.corpus, loaded.corpus.vocabulary, scan.marks
    assert marks is not None
    codes = scan.sample.codes()
    sampled = text_of(codes)
    found = characters.list_characters(scan.counts)
    watch("measuring repeats")
    repeated = (
        entropy.repeated_share(codes) if scan.sample.whole else entropy.sampled_repeated_share(corpus.train)
    )
    repeats = Repeats(longest=_longest(codes, sampled, scan), repeated=Share.of(repeated, scan))
    leak = Share.of(overlap(corpus.train, corpus.held_out), scan)
    watch("measuring entropies, xz and the n-gram baseline")
    decision = choice.plan.decisions[-1]
    return Facts(
        text=_text_facts(loaded, scan, sampled, sum(c.count for c in found)),
        files=tuple(scan.files),
        newlines={name.lower(): n for name, n in marks.line_ends.items()},
        normal_forms=characters.normal_forms(found, sampled),
        characters=tuple(found),
        scripts=characters.scripts(found),
        unseen=tuple(c.code_point for c in found if characters.is_invisible(c.char)),
        compatible=tuple(c.code_point for c in characters.compatible(found)),
        lookalikes=characters.find_lookalikes(found, sampled),
        sampled_chars=len(without_ends(sampled)),
        repeats=repeats,
        entropy=EntropyFacts(orders=tuple(entropy.entropies(codes))),
        xz_bits_per_char=_xz_bits(without_ends(sampled)),
        split=SplitFacts(
            train_chars=corpus.train_chars,
            held_out_chars=corpus.held_out_chars,
            test_chars=corpus.test_chars,
            left_out_chars=corpus.left_out_chars,
            in_training_too=leak,
        ),
        vocabulary={
            "chars": len(vocabulary.chars),
            "bytes": len(vocabulary.trained_bytes),
            "symbols": vocabulary.n_symbols,
        },
        plan={
            "seconds": decision["seconds"],
            "timed": decision["timed"],
            "model": choice.model.to_json(),
            "training": choice.training.to_json(),
            "members": to_json(choice.plan.members),
        },
        ngram=_baseline(corpus),
    )


def _text_facts(loaded: Loaded, scan: TextScan, sampled: str, chars: int) -> TextFacts:
    marks, corpus = scan.marks, loaded.corpus
    assert marks is not None
    unfinished = sampled.rstrip(END)[-1:] not in ("\n", "\r")
    lines = sampled.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return TextFacts(
        label=loaded.label,
        sha256=corpus.sha256,
        bytes_read=scan.bytes_read,
        of_bytes=scan.total_bytes,
        read=scan.manner or "whole",
        chars=chars,
        lines=sum(marks.line_ends.values()) + unfinished,
        longest_line=max(len(without_ends(line)) for line in lines),
        documents=sum(corpus.ends) if corpus.vocabulary.has_end else None,
    )


def _longest(codes: "np.ndarray[Any, Any]", sampled: str, scan: TextScan) -> LongestRepeat | None:
    found = entropy.longest_repeat(codes)
    if found is None:
        return None
    lines = None
    if scan.sample.whole and not scan.partial:
        before = sampled[: found.first], sampled[: found.last]
        first, last = (t.count("\n") + t.count("\r") - t.count("\r\n") + 1 for t in before)
        lines = first, last
    text = sampled[found.first : found.first + found.length]
    return LongestRepeat(chars=found.length, times=found.times, text=text, lines=lines)


def _xz_bits(text: str) -> float | None:
    """Return the bits per character under xz; None for too short a text, or if this Python lacks xz."""
    if len(text) < FEWEST_HELD_OUT:
        return None  # the format's own bytes would dominate
    try:
        return xz_size(text.encode()) * 8 / len(text)
    except ImportError:
        return None


def _baseline(corpus: Corpus) -> dict[str, Any] | None:
    """Fit Kneser-Ney on the training part and score it on the held-out part, or on pieces of a long one.

    For short parts the same as `charlm eval` reports. None if nothing is held out.
    """
    held_out = corpus.held_out
    if len(held_out) > SCORED_PIECES * SCORED_PIECE:
        starts = np.linspace(0, len(held_out) - SCORED_PIECE, SCORED_PIECES).astype(int).tolist()
        held_out = np.concatenate([held_out[start : start + SCORED_PIECE] for start in starts])
    text = corpus.vocabulary.decode(held_out, END)
    if not without_ends(text):
        return None
    memory = TrainingConfig().prior_memory << 20
    most = MOST_TRAINED if len(corpus.train) > MOST_TRAINED else None
    found = kneser_ney(corpus.vocabulary, corpus.train, text, memory=memory, most=most)
    return {"bits_per_char": found.bits_per_char, "order": found.order, "limits": found.limits}
