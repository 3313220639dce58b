"""`charlm train --from RUN`: what is taken over from that run, and what is said of it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.console import count, say, text_of, warn
from charlm.cli.loading import leak
from charlm.cli.select import moved_text
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.errors import UsageError
from charlm.settings import settings_of
from charlm.terminal import first_of, one_line

if TYPE_CHECKING:
    from charlm.data.corpus import Corpus
    from charlm.training.finetune import Origin

OF_FILES = ("val_file", "include", "exclude", "field", "encoding", "min_count")
"""Settings of a text that are of its own files, or of what is new in it: they may be other ones."""
OF_SPLIT = ("val", "test", "split")


def told(ctx: Any, settings: Mapping[str, Any]) -> set[str]:
    """The settings that were given, on the command line or elsewhere."""
    return {name for name in settings if ctx.get_parameter_source(name).name != "DEFAULT"}


def origin_of(root: Path, name: str, which: str | None, texts: Sequence[str] | None = None) -> "Origin":
    """The run of that name, at a checkpoint; `texts`, where its text is now. Raises CheckpointError and UsageError."""
    from charlm.checkpoint.run_folder import find  # here: torch is slow to import
    from charlm.training.finetune import Origin

    origin = Origin.of(find(root, name), which, moved_text(texts))
    say(
        f"going on from {one_line(origin.name)}, step {origin.snapshot.step}, trained on {text_of(origin.snapshot.run)}"
    )
    return origin


def take_text_settings(origin: "Origin", settings: dict[str, Any], given: set[str]) -> None:
    """Read the new text as the old one was read, and divide it so. UsageError for what contradicts that."""
    was = origin.text
    for setting in settings_of(TextConfig):
        name, before, value = setting.name, getattr(was, setting.name), settings[setting.name]
        if name in OF_FILES or (name in OF_SPLIT and name in given):
            continue
        if name not in given:
            own = name in OF_SPLIT and settings["val_file"] is not None
            settings[name] = value if own else before
        elif value != before and not (name in ("documents", "separator") and was.documents == "none"):
            raise _refused(origin, setting.option, name, value, before)
    if "documents" in (settings["split"], was.split) and settings["split"] != was.split:
        option = "--split" if "split" in given else "--val-file"
        raise _refused(origin, option, "split", settings["split"], was.split)
    if was.split == "documents" and settings["val"] + settings["test"] < was.val + was.test:
        raise UsageError(
            f"val and test are {settings['val'] + settings['test']:g} together, and were {was.val + was.test:g} in "
            f"{origin.name}: documents that were held out would be trained on; leave them out, or give more"
        )


def take_reading(origin: "Origin", names: Sequence[str], settings: dict[str, Any], given: set[str]) -> None:
    """Read the new files as the old ones were read, where they are of the same kind, and say so."""
    from charlm.data.records import is_record_file  # here: numpy is slow to import
    from charlm.data.sources import find_files

    was, name = origin.text, one_line(origin.name)
    if was.include and "include" not in given and any(map(os.path.isdir, names)):
        settings["include"] = was.include
        say(
            f"reading only files that match {one_line(' or '.join(was.include))}, as {name} did; --include chooses others"
        )
    if was.exclude and "exclude" not in given and any(map(os.path.isdir, names)):
        settings["exclude"] = was.exclude
        say(
            f"leaving out files that match {one_line(' or '.join(was.exclude))}, as {name} did; --exclude chooses others"
        )
    if was.field is None or "field" in given or not names:
        return
    if any(map(is_record_file, find_files(names)[0])):
        settings["field"] = was.field
        say(f"reading the field {one_line(was.field)} of each record, as {name} did; --field chooses another")


def _refused(origin: "Origin", option: str, name: str, value: Any, before: Any) -> UsageError:
    return UsageError(
        f"{name} is {value}, and {before} in {origin.name}, which is gone on from and reads and divides a text so; "
        f"leave {option} out, or train a new run"
    )


def as_before(
    origin: "Origin", model: ModelConfig, training: TrainingConfig, given: set[str]
) -> tuple[ModelConfig, TrainingConfig]:
    """The shape of that run, and how it goes on. UsageError for what was given and would change the shape."""
    from charlm.training.finetune import shape_from, training_from

    return shape_from(origin, model, given), training_from(origin, training, given)


def say_origin(origin: "Origin", corpus: "Corpus") -> None:
    """How the vocabulary grows, what stays held out, and what is counted."""
    old, new, name = origin.snapshot.vocabulary, corpus.vocabulary, one_line(origin.name)
    added = new.differences(old)
    grows = f": {first_of(added)}" if added else ""
    say(
        f"vocabulary: the {count(old.n_symbols)} symbols of {name}, and {count(new.n_symbols - old.n_symbols)} new{grows}"
    )
    if origin.corpus is None:
        warn(
            f"{origin.gone.replace('--text', '--from-text')}; so it cannot be said what is forgotten of it, nor whether what was held out of it "
            "stands in the new text"
        )
    respected = corpus.respected
    if respected is not None and respected.begins:
        say(f"the text begins with that of {name}: what was held out there stays held out")
    if respected is not None and respected.found:
        say(f"{_share_found(origin, respected.found)} are left out of training")
    found = (
        None
        if origin.corpus is None
        else leak(corpus, origin.corpus.train, f"what {name} was trained on", free=False)
    )
    if found:
        warn(found)
    if origin.snapshot.model_config.prior:
        texts = ["this text", *(one_line(str(name)) for name in _labels(origin))]
        say(f"counts: of {' and '.join(texts)}" + ("" if origin.beside else f" alone, {_why(origin)}"))


def _share_found(origin: "Origin", found: int) -> str:
    """How many characters of the new text were kept from training before, and what part of those that is."""
    from charlm.data.holdout import MOST_SEARCHED

    old = origin.corpus
    assert old is not None, "what was found was looked for"
    kept_back = (old.held_out, *([] if old.test is None else [old.test]))
    of = max(1, old.held_out_chars + old.test_chars + sum(old.ends[1:]))
    ends = ", ends of documents counted," if sum(old.ends) else ","
    least = "at least " if any(len(part) > MOST_SEARCHED for part in kept_back) else ""
    return (
        f"{least}{count(found)} characters of the text{ends} {min(100.0, 100 * found / of):.0f} % of what "
        f"{one_line(origin.name)} held out,"
    )


def _labels(origin: "Origin") -> list[str]:
    """What the texts are called that are counted beside the new one."""
    found, run = [], origin.snapshot.run
    for depth in range(max(origin.beside, default=-1) + 1):
        if depth in origin.beside:
            found.append(str(run["corpus"]["label"]))
        run = run.get("from", {})
    return found


def _why(origin: "Origin") -> str:
    """Why nothing is counted beside it."""
    if origin.corpus is None:
        return "since the old one is gone"
    return "since much of it stands in the old one, and what is learned from must not be known by heart"
