"""The documentation and the README: every command and every Python example in them is run.

A page is one session: its blocks share a folder, which begins with a few small texts, and run in the order of the page.
Trainings are cut to a few steps. What cannot run here stands under a comment `<!-- needs: ... -->` (a network, a GPU,
a queue, an hour); the options of its commands are still checked, by `--help`.
"""

import contextlib
import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

import charlm
from charlm.cli.main import COMMANDS
from charlm.cli.main import run as main
from charlm.errors import CharlmError
from tests.conftest import TEXT

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")), "README.md"]

STEPS = "2"  # instead of those of a page
NEEDS = re.compile(r"<!-- needs: [\w ,]+ -->\s*$")
SMALL = {"--n-layer": "2", "--n-embd": "16", "--block-size": "16", "--batch-size": "2"}
SHELL = ("|", ">", "&&")


def commands_in(source: str) -> Iterator[list[str]]:
    """The words of each line of a block that is a charlm command: `charlm ...` or `$ charlm ...`."""
    for line in source.replace("\\\n", " ").splitlines():
        if re.match(r"(\$ )?charlm( |$)", line):
            yield shlex.split(line.removeprefix("$ "), comments=True)


def shortened(words: list[str]) -> list[str]:
    """The same command, with a training of a few steps instead of its own."""
    command = words[1] if len(words) > 1 else ""
    trains = command in ("train", "resume") or (command == "compare" and "--vary" in words)
    if not trains or "--help" in words or "--help-all" in words:
        return words
    if "--model ngram" in " ".join(words):  # has no steps
        return words
    budget = next((i for i, word in enumerate(words) if word in ("--time", "--steps")), None)
    if budget is not None:
        words = words[:budget] + words[budget + 2 :]
    added = ["--steps", STEPS]
    if command == "compare" and "model=ngram" not in " ".join(words):  # variants are many
        for option, value in SMALL.items():
            setting = option.removeprefix("--").replace("-", "_")
            if option not in words and not any(word.startswith(f"{setting}=") for word in words):
                added += [option, value]
    end = next((i for i, word in enumerate(words) if word in SHELL), len(words))
    return [*words[:end], *added, *words[end:]]


def output_of(words: list[str]) -> tuple[int, bytes, str]:
    """The exit code, standard output and standard error of a command."""
    sys.argv, before = words, sys.argv
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(perf_counter())
        out.flush()
    finally:
        sys.argv = before
    return code, out.buffer.getvalue(), err.getvalue()  # type: ignore[attr-defined]


def run(words: list[str], example: Example, needs: bool) -> None:
    """Run a command as typed, or only check its options; a redirection into a file is followed."""
    words = shortened(words)
    end = next((i for i, word in enumerate(words) if word in SHELL), len(words))
    target = words[end + 1] if words[end : end + 1] == [">"] else None
    endless = words[1:2] in (["serve"], ["play"])  # which a person ends
    words = [*words[:end], *(["--help"] if needs or endless else [])]
    code, out, err = output_of(words)
    assert code == 0, f"{example.path}:{example.line}: {shlex.join(words)}: {code}\n{err}"
    if target is not None:
        Path(target).write_bytes(out)


def run_block(example: Example) -> None:
    """Every charlm command of a block of shell."""
    needs = bool(NEEDS.search(example.document.text[: example.start]))
    for words in commands_in(example.parsed):
        run(words, example, needs)


SYBIL = Sybil(
    parsers=[
        CodeBlockParser("console", run_block),
        CodeBlockParser("bash", run_block),
        PythonCodeBlockParser(),
    ],
    path="..",
)


def charlm_json(*words: str) -> list[dict[str, Any]]:
    """What a command prints as JSON lines."""
    code, out, err = output_of(["charlm", *words, "--json"])
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def ideas_page() -> str:
    """`docs/ideas.md` as it should stand: what `charlm explain` says of every topic."""
    topics = [topic["topic"] for topic in charlm_json("explain")]
    lines = [
        "# Ideas",
        "",
        "The ideas behind language models that charlm implements, as `charlm explain TOPIC` prints them: what each is, an",
        "example with real numbers, where the code is, and the command that measures its effect on your text. To update this",
        "page, run `python -m tests.test_docs > docs/ideas.md`; a test checks that it is up to date.",
    ]
    for found in (charlm_json("explain", topic)[0] for topic in topics):
        title, _, rest = found["text"].partition("\n")
        example = found["example"]
        lines += ["", f"## {found['topic']}", "", title]
        lines += ["", "```text", rest.strip("\n"), "```"] if rest.strip() else []
        lines += ["", example["says"], "", row(example["header"]), "|---" * len(example["header"]) + "|"]
        lines += [row(cells) for cells in example["rows"]]
        lines += ["", f"Code: `{found['place'].partition(',')[0]}`.", ""]
        lines += (
            ["```bash", found["command"], "```"] if found["command"] else [f"To see it: {found['instead']}."]
        )
    return "\n".join(lines) + "\n"


def row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@pytest.fixture
def folder(elsewhere: Path) -> Path:
    """A folder with the texts that the pages name."""
    poems = TEXT.splitlines(keepends=True)
    texts = {
        "corpus.txt": TEXT,
        "tinyshakespeare.txt": TEXT,
        "text8": TEXT,
        "data/tinyshakespeare.txt": TEXT,
        "data/text8": TEXT,
        "data/enwik8": TEXT,
        "chapter.txt": TEXT[:400],
        "new.txt": TEXT.replace("ducks", "geese"),
        "validation.txt": TEXT[:500],
        "chapters.txt": "* * *\n".join([TEXT[:400]] * 10),
        "settings.toml": "n_layer = 1\n",
        "candidates.txt": "one day\noen day\n\nfar away\nfra away\n",
        "openings.txt": "The sea\nOne day\n",
        "novels/one.txt": TEXT,
        "novels/two.txt": TEXT.replace("ducks", "hens"),
        "latin1.txt": TEXT,
        "posts/one.jsonl": "".join(
            json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(poems)
        ),
        "items.csv": "id,condition,sentence\n"
        + "".join(f'{i},a,"{line.strip()}"\n' for i, line in enumerate(poems[:20])),
    }
    texts |= {f"poems/poem{i}.txt": "".join(poems[5 * i : 5 * i + 5]) for i in range(12)}
    texts |= {"poems/drafts/old.md": "A draft.\n"}
    for name, text in texts.items():
        path = elsewhere / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text, "utf-8")
    (elsewhere / "log.gz").write_bytes(gzip.compress(TEXT.encode()))
    shutil.copytree(ROOT / "data", elsewhere / "data", dirs_exist_ok=True)
    return elsewhere


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python examples train for a few steps, whatever they say."""
    for name in ("train", "train_events"):
        original = getattr(charlm, name)

        def short(*texts: Any, original: Callable[..., Any] = original, **settings: Any) -> Any:
            settings.pop("time", None)
            return original(*texts, **settings | {"steps": int(STEPS)})

        monkeypatch.setattr(charlm, name, short)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_type_works(
    page: str, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), "utf-8"))
    path = ROOT / page
    if "```python" in path.read_text("utf-8"):
        request.getfixturevalue("few_steps")
    document = SYBIL.parse(path)
    for example in document.examples():
        example.evaluate()


def test_a_command_that_fails_fails_its_page(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("# A page\n\n```console\n$ charlm train corpus.txt --no-such-option\n```\n", "utf-8")
    with pytest.raises(AssertionError, match="no-such-option"):
        next(SYBIL.parse(page).examples()).evaluate()
    page.write_text(
        "<!-- needs: a GPU -->\n\n```bash\ncharlm train corpus.txt --steps 9 --no-such\n```\n", "utf-8"
    )
    with pytest.raises(AssertionError, match="no-such"):
        next(SYBIL.parse(page).examples()).evaluate()


def test_the_pages_name_every_command() -> None:
    page = (DOCS / "commands.md").read_text("utf-8")
    assert set(COMMANDS) <= set(re.findall(r"`charlm (\w+)", page))


def test_every_page_is_in_the_navigation() -> None:
    navigation = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert navigation == {page.removeprefix("docs/") for page in PAGES if page != "README.md"}


def test_the_page_of_ideas_is_fresh() -> None:
    number = re.compile(r"-?\d+(?:\.\d+)?e-\d+|-?\d+\.\d+")
    kept, made = (DOCS / "ideas.md").read_text("utf-8"), ideas_page()
    assert number.sub("X", kept) == number.sub("X", made), (
        "make it again: python -m tests.test_docs > docs/ideas.md"
    )
    numbers = [list(map(float, number.findall(text))) for text in (kept, made)]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-4)  # another processor rounds otherwise


def test_the_exit_codes_are_those_of_the_errors() -> None:
    page = (DOCS / "commands.md").read_text("utf-8")
    codes = {error.exit_code for error in CharlmError.__subclasses__()} - {130}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}


def documented_keys(section: str) -> set[str]:
    """The keys in the first column of the table of a section of `docs/json.md`."""
    text = (DOCS / "json.md").read_text("utf-8").split(f"## charlm {section}")[1].split("\n## ")[0]
    return {key for row in re.findall(r"^\| (`[^|]*) \|", text, re.M) for key in re.findall(r"`(\w+)`", row)}


def test_the_keys_of_the_json_are_those_documented(folder: Path) -> None:
    assert output_of(["charlm", "train", "corpus.txt", "--steps", STEPS])[0] == 0
    assert documented_keys("eval --json") == set(charlm_json("eval")[0]) - {"schema"}
    code, out, err = output_of(
        ["charlm", "surprisal", "chapter.txt", "--by", "line", "--groups", "blank-line", "--format", "jsonl"]
    )
    assert code == 0, err
    assert documented_keys("surprisal --format jsonl") == set(json.loads(out.splitlines()[0]))
    assert documented_keys("inspect --json") == set(charlm_json("inspect", "corpus.txt")[0]) - {"schema"}
    info = set(charlm_json("info")[0])
    assert documented_keys("runs --json") <= info
    assert set(charlm_json("runs")[0]) - {"schema"} <= documented_keys("runs --json") | {"text"}


@pytest.mark.skipif(shutil.which("zensical") is None, reason="the extra `docs` is not installed")
def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    for name in ("mkdocs.yml", "SECURITY.md", "CHANGELOG.md", "benchmarks/NOTES.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["zensical", "build", "--strict"], cwd=tmp_path, check=True, capture_output=True)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for page in pages:
        assert not re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?https?:[^>]*", page.read_text("utf-8")
        )


if __name__ == "__main__":
    print(ideas_page(), end="")
