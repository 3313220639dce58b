"""`charlm explain`: explain the ideas in the code, each with a computed example."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.console import print_json, table
from charlm.cli.options import AsJson, Threads

if TYPE_CHECKING:
    from charlm.explain.topics import Explanation

EXAMPLES = """Examples:
  charlm explain             list the topics
  charlm explain rotary      the idea, its formula and source, real numbers, the code
  charlm explain --json      as JSON"""

SCHEMA = 1


def command(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="What to explain. [default: list the topics]")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Explain an idea that the model uses, with a computed example.

    Each topic has the formula, the source, an example, the place in the code, and a command to try."""
    from charlm.explain.topics import TOPICS, explain, first_line  # here: torch is slow to import
    from charlm.threads import use_threads

    if topic is not None:
        use_threads(threads)
        found = explain(topic)
        if as_json:
            print_json({"schema": SCHEMA, **asdict(found)})
        else:
            _print(found)
    elif as_json:
        for name in TOPICS:
            print_json({"schema": SCHEMA, "topic": name, "text": first_line(name)})
    else:
        table([(name, first_line(name)) for name in TOPICS], header=("topic", "what it is"))


def _print(found: "Explanation") -> None:
    example = found.example
    print(found.text)
    print(f"\n{example.says}\n")
    columns = list(zip(*example.rows, strict=True))
    numbers = [i for i, column in enumerate(columns) if all(_is_number(cell) for cell in column if cell)]
    table(example.rows, header=example.header, numbers=numbers)
    print()
    table(
        [("code", found.place), ("compare", found.command) if found.command else ("try", found.instead or "")]
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
