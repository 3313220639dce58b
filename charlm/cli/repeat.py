"""Commands to paste into a shell: the one that makes a run again, and those that go on with it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.console import checkpoints_root
from charlm.config import ModelConfig, TextConfig, TrainingConfig, acts
from charlm.settings import Setting, settings_of
from charlm.terminal import command_line

FROM_THE_OTHER_RUN = ("val", "test", "split", "ngram_embedding_lr")
"""Settings that a run with `--from` takes over from the other run unless told."""


def typed_command() -> str:
    """What was typed to start this process."""
    return command_line(["charlm", *sys.argv[1:]])


def option_words(setting: Setting, value: Any) -> list[str]:
    """A setting as it is typed: `--prior`, `--no-prior`, `--n-layer 4`, once for each of several values."""
    if setting.type is bool:
        return [setting.option if value else f"--no-{setting.option[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for each in values for word in (setting.option, str(each))]


def train_command(
    names: Sequence[str],
    words: Sequence[str],
    configs: tuple[ModelConfig, TrainingConfig, TextConfig],
    also: Sequence[str] = (),
) -> str:
    """`charlm train` on these files, with these words, and every setting that is not what it is by default.

    `also` names settings that are given even so. A file whose name begins with a dash comes after `--`.
    """
    options = list(words)
    for config in configs:
        for setting in settings_of(type(config)):
            value = getattr(config, setting.name)
            acting = isinstance(config, TextConfig) or acts(configs[0].model, setting.name)
            if acting and value is not None and (value != setting.default or setting.name in also):
                options += option_words(setting, value)
    dashed = any(name.startswith("-") and name != "-" for name in names)
    files = [*options, "--", *names] if dashed else [*names, *options]
    return command_line(["charlm", "train", *files])


def repeat_command(
    run: RunFolder, facts: Any, model: ModelConfig, training: TrainingConfig, plan: Any
) -> str:
    """The command that gives a run's weights again, whatever was timed; `facts` are those of `run.json`.

    Files in the present folder are named from here, others by their whole path.
    """
    text = TextConfig.from_json(facts["text"])
    if text.val_file is not None:
        text = replace(text, val_file=_from_here(text.val_file))
    words: list[str] = []
    origin = facts.get("from")
    if not model.is_ngram:
        words += ["--steps", str(plan.total_steps)]
        training = replace(
            training, schedule=str(plan.schedule), eval_every=plan.eval_every, eval_chars=plan.eval_chars
        )
    if origin is not None:
        words += ["--from", str(origin["run"]), "--checkpoint", str(origin["step"])]
    words += root_words(run)
    also = FROM_THE_OTHER_RUN if origin is not None else ()
    names = [_from_here(str(name)) for name in facts["corpus"]["sources"]]
    return train_command(names, words, (model, training, text), also)


def why_not_repeatable(finished: object, returns: int, plan: Any) -> str | None:
    """Why no single command makes a run again; None where one does."""
    if finished not in ("done", "early"):
        return "once it is finished"
    if returns:
        return "not by a command, since it went back to a save on its way"
    if plan.extended_at is not None:
        return f"not by one command, since it was trained further after step {plan.extended_at}"
    return None


def run_command(command: str, run: RunFolder, *words: str) -> str:
    """`charlm COMMAND` on a run, with further words."""
    return command_line(["charlm", command, *run_words(run, option=command in ("sample", "eval")), *words])


def run_words(run: RunFolder, *, option: bool) -> list[str]:
    """The words that name a run, as an option or an argument, and its folder where that is not the usual one."""
    name = run.path.name
    named = [f"--run={name}"] if name.startswith("-") else ["--run", name] if option else [name]
    return [*named, *root_words(run)]


def root_words(run: RunFolder) -> list[str]:
    """The option that finds a run, where its folder is not where runs are looked for."""
    usual = checkpoints_root(os.environ.get("CHARLM_CHECKPOINTS"))
    return [] if run.path.parent == usual else ["--checkpoints", str(run.path.parent)]


def _from_here(path: str) -> str:
    """A path below the present folder from there, any other as it is."""
    if not os.path.isabs(path):
        return path
    try:
        short = os.path.relpath(path)
    except (ValueError, OSError):  # another drive, or a folder that is gone
        return path
    return path if short.startswith("..") else short
