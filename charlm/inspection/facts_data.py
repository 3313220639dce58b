"""What was found in a text as plain values, of schema 2: keys that stay, numbers that are not rounded."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from charlm.data.overlap import PASSAGE, Overlap
from charlm.inspection import measured
from charlm.inspection.characters import Character
from charlm.inspection.entropy import KIND
from charlm.inspection.facts import Examination
from charlm.inspection.warnings import Finding

SCHEMA = 2


def plain(found: Examination, warnings: Sequence[Finding]) -> dict[str, Any]:
    """An examination and its findings; the README says what each key means."""
    return {
        "schema": SCHEMA,
        "text": _text(found),
        "files": [asdict(file) for file in found.look.files],
        "newlines": _newlines(found),
        "normal_forms": {**asdict(found.normal_forms), "mixed": found.normal_forms.mixed},
        "characters": [_character(c) for c in found.characters],
        "scripts": found.scripts,
        "unseen": [c.code_point for c in found.characters if c.unseen],
        "compatible": [c.code_point for c in found.compatible],
        "lookalikes": {
            "marks": [[_character(c) for c in row] for row in found.alike],
            "words": found.mixed_words.count,
            "examples": list(found.mixed_words.words),
            "letters": [_character(c) for c in found.mixed_words.letters],
        },
        "sampled_chars": found.sampled_chars,
        "repeats": _repeats(found),
        "entropy": {"kind": KIND, "orders": [asdict(entropy) for entropy in found.entropies]},
        "xz_bits_per_char": found.xz_bits_per_char,
        "split": _split(found),
        "vocabulary": _vocabulary(found),
        "plan": _plan(found),
        "counts": None if found.counts is None else _stick(found),
        "expected": _expected(found),
        "warnings": [asdict(warning) for warning in warnings],
    }


def _text(found: Examination) -> dict[str, Any]:
    look, corpus = found.look, found.loaded.corpus
    return {
        "label": found.loaded.label,
        "sha256": corpus.sha256,
        "bytes_read": look.bytes_read,
        "of_bytes": look.total_bytes,
        "read": look.manner or "whole",
        "chars": found.chars,
        "lines": found.lines,
        "longest_line": found.longest_line,
        "documents": sum(corpus.ends) if corpus.vocabulary.has_end else None,
    }


def _newlines(found: Examination) -> dict[str, int]:
    marks = found.look.marks
    assert marks is not None
    return {"lf": marks.feeds - marks.crlf, "crlf": marks.crlf, "cr": marks.returns - marks.crlf}


def _character(character: Character) -> dict[str, Any]:
    return {
        "char": character.char,
        "code_point": character.code_point,
        "name": character.name,
        "count": character.count,
    }


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "share": overlap.share,
        "word": overlap.word.strip() or "exactly",
        "passage": PASSAGE,
    }


def _repeats(found: Examination) -> dict[str, Any]:
    longest = found.longest
    return {
        "longest": longest and {"chars": longest.length, "times": longest.times, "text": found.longest_text},
        "repeated": _overlap(found.repeated),
    }


def _split(found: Examination) -> dict[str, Any]:
    corpus = found.loaded.corpus
    return {
        "train_chars": corpus.train_chars,
        "held_out_chars": corpus.held_out_chars,
        "test_chars": corpus.test_chars,
        "left_out_chars": corpus.left_out_chars,
        "in_training_too": _overlap(found.leak),
        "shift_bits_per_char": found.shift,
    }


def _vocabulary(found: Examination) -> dict[str, int]:
    vocabulary = found.loaded.corpus.vocabulary
    return {
        "chars": len(vocabulary.chars),
        "bytes": len(vocabulary.trained_bytes),
        "symbols": vocabulary.n_symbols,
    }


def _plan(found: Examination) -> dict[str, Any]:
    choice = found.choice
    decision = choice.plan.decisions[-1]
    return {
        "seconds": decision["seconds"],
        "gflops": decision["gflops"],
        "model": choice.model.to_json(),
        "training": choice.training.to_json(),
    }


def _stick(found: Examination) -> dict[str, Any]:
    assert found.counts is not None
    return {
        "bits_per_char": found.counts.bits_per_char,
        "order": found.counts.order,
        "limits": found.counts.limits,
    }


def _expected(found: Examination) -> dict[str, Any]:
    return {
        "rows": [
            {"seconds": row.seconds, "bits_per_char": [row.low, row.high], "trainings": row.trainings}
            for row in found.expected
        ],
        "measured_on": [
            {"text": text.name, "language": text.language, "train_chars": text.train_chars}
            for text in measured.TEXTS
        ],
        "machine": measured.MACHINE,
        "unlike": list(found.unlike),
    }
