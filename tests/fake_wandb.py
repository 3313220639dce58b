"""Stands in for wandb where it is not installed, or is to fail: the calls that charlm makes, noted as lines of JSON.

`FAKE_CALLS` names the file; `FAKE_TROUBLE` what goes wrong: at `init` or `log` something is raised, the process `exit`s,
or nothing `hang`s ever on.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any


def note(call: str, **facts: object) -> None:
    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps({"call": call, **facts}) + "\n")


def trouble(at: str) -> None:
    wanted = os.environ.get("FAKE_TROUBLE")
    if wanted == at:
        raise RuntimeError("no connection\nto the server")
    if at == "log" and wanted == "exit":
        os._exit(9)
    while at == "log" and wanted == "hang":
        time.sleep(0.1)


class Settings:
    def __init__(self, **settings: object) -> None:
        self.silent, self.console = settings["silent"], settings["console"]


class Html:
    def __init__(self, data: str) -> None:
        self.data = data


class Artifact:
    def __init__(self, name: str, type: str) -> None:  # noqa: A002
        self.name, self.type = name, type

    def add_file(self, path: str) -> None:
        with open(path) as file:
            self.text = file.read()


class Config(dict[str, Any]):
    def update(self, values: Mapping[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        note("config", values=values, allowed=allow_val_change)


class Run:
    url, dir = None, os.path.join("wandb", "offline-run-1", "files")

    def __init__(self, id: str) -> None:  # noqa: A002
        self.id, self.config = id, Config()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        trouble("log")
        shown = {name: value.data if isinstance(value, Html) else value for name, value in values.items()}
        note("log", step=step, values=shown)

    def log_artifact(self, artifact: Artifact) -> None:
        note("artifact", name=artifact.name, type=artifact.type, html="<html" in artifact.text)

    def finish(self, exit_code: int) -> None:
        note("finish", exit_code=exit_code)


def init(
    *,
    project: str | None = None,
    name: str | None = None,
    id: str = "made-up",  # noqa: A002
    resume: str,
    config: Mapping[str, Any],
    allow_val_change: bool,
    settings: Settings,
) -> Run:
    print("what wandb prints")
    trouble("init")
    note("init", project=project, name=name, id=id, resume=resume, config=config, silent=settings.silent)
    return Run(id)
