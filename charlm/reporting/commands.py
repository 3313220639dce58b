"""Build shell commands to show to the user: the one that reproduces a run, and those that continue with it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from charlm.checkpoint.run_folder import RunFacts, RunFolder, folder_words
from charlm.config import ModelConfig, TrainingConfig, acts
from charlm.data.addresses import is_address
from charlm.data.corpus import Corpus
from charlm.data.text_config import TextConfig
from charlm.settings import Setting, settings_of
from charlm.terminal import command_line
from charlm.training.plan import PLAN_FILE, THREADS, Plan
from charlm.training.plan_from import OF_THE_MACHINE

INHERITED = ("val", "test", "split", "ngram_embedding_lr")
"""Settings that a run with `--from` inherits unless they are given."""


def option_words(setting: Setting, value: Any) -> list[str]:
    """Return a setting as it is typed: `--prior`, `--no-prior`, `--n-layer 4`, once for each of several values."""
    if setting.type is bool:
        return [setting.option if value else f"--no-{setting.option[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for each in values for word in (setting.option, str(each))]


def train_command(
    paths: Sequence[str],
    words: Sequence[str],
    configs: tuple[ModelConfig, TrainingConfig, TextConfig],
    also: Sequence[str] = (),
) -> str:
    """Return the command `charlm train` on these files, with these words and every setting that is not its default.

    `also`: settings to give even at their default. A file whose name begins with a dash comes after `--`.
    """
    options = list(words)
    for config in configs:
        for setting in settings_of(type(config)):
            value = getattr(config, setting.name)
            acting = isinstance(config, TextConfig) or acts(configs[0].model, setting.name)
            if acting and value is not None and (value != setting.default or setting.name in also):
                options += option_words(setting, value)
    dashed = any(path.startswith("-") and path != "-" for path in paths)
    return command_line(["charlm", "train", *([*options, "--", *paths] if dashed else [*paths, *options])])


def repeat_command(
    run: RunFolder, facts: RunFacts, model: ModelConfig, training: TrainingConfig, plan: Plan
) -> str:
    """Return the command that trains the same weights again, whatever was timed; `facts` are those of `run.json`.

    Files below the working directory are named relative to it, others by their absolute path.
    """
    text = facts.text
    if text.val_file is not None:
        text = replace(text, val_file=relative(text.val_file))
    words: list[str] = []
    parent = facts.parent
    if not model.is_ngram:
        words += ["--steps", str(plan.total_steps)]
        schedule = str(plan.schedule)
        training = replace(
            training, schedule=schedule, eval_every=plan.eval_every, eval_chars=plan.eval_chars
        )
    if plan.is_staged:
        words = ["--plan-from", run.path.name if not folder_words(run) else str(run.path / PLAN_FILE)]
        own = {name: getattr(training, name) for name in OF_THE_MACHINE} | {THREADS: plan.most_threads}
        model, training = ModelConfig(), TrainingConfig(**own)
    if parent is not None:
        training = replace(training, members=None)  # these follow from the other run
    for option, other in (("--from", parent), ("--teacher", facts.teacher)):
        words += [] if other is None else [option, other.run, "--checkpoint", str(other.step)]
    words += folder_words(run)
    paths = [relative(path) for path in facts.corpus.sources]
    return train_command(paths, words, (model, training, text), INHERITED if parent is not None else ())


def why_not_repeatable(finished: object, returns: int, plan: Plan) -> str | None:
    """Return why no single command reproduces a run; None if one does."""
    if finished not in ("done", "early"):
        return "available once the run is finished"
    if returns:
        return "no command can, because training returned to an earlier checkpoint"
    if plan.extended_at is not None:
        return f"no single command can, because the run was extended after step {plan.extended_at}"
    return None


def text_words(sources: Sequence[str], corpus: Corpus) -> list[str]:
    """Return the option that names the text of a run, if it is neither in the cache nor where it was read."""
    if corpus.uncached is None or all(
        is_address(source) or (source != "-" and os.path.exists(source)) for source in sources
    ):
        return []
    return ["--text", "FILE"]


def relative(path: str) -> str:
    """Return a path below the working directory relative to it, any other unchanged."""
    if not os.path.isabs(path):
        return path
    try:
        short = os.path.relpath(path)
    except (ValueError, OSError):  # another drive, or a folder that is gone
        return path
    return path if short.startswith("..") else short
