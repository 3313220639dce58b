"""`charlm doctor`: check this machine, or every file of a run."""

import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import print_json, say, table, working
from charlm.cli.options import ROOT, AsJson, Checkpoints, RunOption, Threads, one_run
from charlm.errors import CheckpointError, ResourceError
from charlm.terminal import colour

if TYPE_CHECKING:
    from charlm.inspection.health import Examination, Machine

EXAMPLES = """Examples:
  charlm doctor                check this machine and whether charlm can write
  charlm doctor poems          verify every file of a run
  charlm doctor poems --json   as JSON

CHARLM_NATIVE=0 switches the compiled kernels off; v4bf16, v4, v3, v2 or
baseline chooses those of one instruction set.

Exit codes: 4 if a run is damaged, 6 if a folder cannot be written."""

SAMPLE = "é→日🦆"
"""Sample by which to tell whether a console can display all text."""


def command(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Run to verify. [default: check the machine]")
    ] = None,
    run_option: RunOption = None,
    threads: Threads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """Check this machine or, with RUN, every file of a run.

    For a run, it shows any damage and the step from which the run can resume. This command changes nothing.
    """
    from charlm.inspection import health as doctor  # here: torch is slow to import
    from charlm.threads import use_threads

    root, run = checkpoints, one_run(run, run_option)
    use_threads(threads)
    if run is None:
        _show_machine(doctor.machine(root), as_json)
        return
    from charlm.checkpoint.run_folder import find_run

    say(f"verifying {run}")
    with working("verifying", " checkpoints") as watch:
        found = doctor.examine(find_run(root, run), watch)
    if as_json:
        print_json({"schema": 1, "healthy": found.healthy, **asdict(found)})
    else:
        _show_run(found)
    if not found.healthy:
        raise typer.Exit(CheckpointError.exit_code)


def software() -> list[tuple[str, str]]:
    """Return versions, and which kernels run each part that has compiled ones."""
    import torch  # here: it is slow to import

    from charlm.native.library import statuses

    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    kernels = [(part.purpose, str(part)) for part in statuses()]
    return [("Python", python), ("torch", str(torch.__version__)), *kernels]


def _show_machine(found: "Machine", as_json: bool) -> None:
    terminal = _terminal()
    if as_json:
        print_json({"schema": 1, **asdict(found), "terminal": terminal})
    else:
        rows = [("charlm", found.charlm), *software()]
        rows.append(("device", f"{found.device}, threads {found.threads}"))
        allowed = ", ".join(f"{name} {n}" for name, n in found.cpus.items())
        rows.append(("CPUs", f"{min(found.cpus.values())} may be used ({allowed})"))
        rows.append(
            ("bf16", "supported by the processor" if found.bf16 else "not supported; charlm uses fp32")
        )
        rows += [(place.what, _place(place)) for place in found.places]
        rows.append(("standard output", _stream(terminal)))
        table(rows)
    if any(place.problem for place in found.places):
        raise typer.Exit(ResourceError.exit_code)


def _place(place: Any) -> str:
    if place.problem:
        return f"{place.path}: cannot be written ({place.problem})"
    return f"{place.path}: {place.free_bytes / 1e9:,.1f} GB free, can be written"


def _terminal() -> dict[str, Any]:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        SAMPLE.encode(encoding)
        shows_all = True
    except (UnicodeEncodeError, LookupError):
        shows_all = False
    return {
        "encoding": encoding,
        "is_terminal": sys.stdout.isatty(),
        "colour": colour(sys.stdout),
        "shows_all": shows_all,
    }


def _stream(terminal: dict[str, Any]) -> str:
    kind = "a terminal" if terminal["is_terminal"] else "not a terminal"
    shown = "all characters" if terminal["shows_all"] else "characters that it cannot show appear as escapes"
    return f"{kind}, {terminal['encoding']}: {shown}"


def _show_run(found: "Examination") -> None:
    rows = [("run", found.run)]
    for step in sorted({file.step for file in found.files}):
        of_step = [file for file in found.files if file.step == step]
        damaged = [f"{file.name}: {file.problem}" for file in of_step if file.problem]
        whole = f"{len(of_step)} files, all intact"
        rows.append((f"step {step}", "; ".join(damaged) or whole))
    rows += [("", problem) for problem in found.problems]
    if found.resumes_from is None:
        rows.append(("resume", "not possible"))
    else:
        rows.append(("resume", f"from step {found.resumes_from}"))
    table(rows)
