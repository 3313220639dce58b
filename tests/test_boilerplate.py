"""Project Gutenberg's header and licence are named, measured and, on request, left out: exactly, and only they."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data import boilerplate, decoding, stream
from charlm.data.boilerplate import LICENCE, Boilerplate, strip_boilerplate
from charlm.data.load import load
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from tests.conftest import Result


def strip_text(text: str) -> str:
    return "".join(block.text for block in strip_boilerplate([Block(text.encode(), text)], Boilerplate()))


def tale(lines: int) -> str:
    return "".join(f"Line {i} of the tale, {'on and on ' * (i % 3)}to its end.\n" for i in range(lines))


BODY = tale(60)
HEAD = (
    "The Project Gutenberg eBook of A Tale\n    \nThis ebook is for the use of anyone anywhere\n\nTitle: A Tale\n\n"
    "Credits: Project Gutenberg volunteers\n\n"
)
LICENCE_TEXT = (
    "".join(
        f"1.A.{i}. Project Gutenberg is a trademark.\nProject Gutenberg-tm works {i}.\n" for i in range(200)
    )
    + "Most people start at our website\nto learn how to subscribe to our email newsletter to hear about new eBooks.\n\n"
)
PRINT = "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this here?\nProject Gutenberg asks.\n"
OLD_HEAD = (
    f"**The Project Gutenberg Etext of A Tale, by X**\n\nInformation about Project Gutenberg (one page)\n\n{PRINT}"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n"
)


def book(start: str, end: str, head: str = HEAD) -> str:
    return f"{head}{start}\n{BODY}{end}\n{LICENCE_TEXT}"


MODERN = book(
    "*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***", "*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***"
)
BOOKS = {
    "modern": (MODERN, BODY),
    "with THIS, without spaces": (
        book(
            "***START OF THIS PROJECT GUTENBERG EBOOK A TALE***",
            "***END OF THIS PROJECT GUTENBERG EBOOK A TALE***",
        ),
        BODY,
    ),
    "a title of two lines": (
        book(
            "*** START OF THE PROJECT GUTENBERG EBOOK A TALE OF\nA LONG NAME ***",
            "*** END OF THE PROJECT GUTENBERG EBOOK A TALE OF\nA LONG NAME ***",
        ),
        BODY,
    ),
    "a line before the marker of the end": (
        book(
            "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***",
            "End of the Project Gutenberg EBook of A Tale\n\n***",
        ),
        BODY,
    ),
    "old": (f"{OLD_HEAD}{BODY}End of the Project Gutenberg Etext of A Tale, by X\n\n", BODY),
    "newer small print": (
        OLD_HEAD.replace(
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93",
            "*END THE SMALL PRINT! FOR EBOOKS*Ver.02/11/02",
        )
        + f"{BODY}End of Project Gutenberg's A Tale, by X\n",
        BODY,
    ),
    "small print at the end": (f"{BODY}{PRINT}*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*END*\n", BODY),
    "German": (
        book(
            "*** START OF THIS PROJECT GUTENBERG EBOOK EINE ***",
            "Ende dieses Projekt Gutenberg Etextes Eine\n",
        ),
        BODY,
    ),
    "French": (
        book("*** START OF THE PROJECT GUTENBERG EBOOK, UN ***", "Fin de Project Gutenberg's Un, par X"),
        BODY,
    ),
    "two books in a file": (MODERN + MODERN.replace("TALE", "BOOK"), BODY + BODY),
    "another text after the licence": (MODERN + tale(4000), BODY + "\n" + tale(4000)),
    "another text before the header": (tale(2000) + MODERN, tale(2000) + BODY),
    "a text about Project Gutenberg": (
        "I like Project Gutenberg.\nThe Project Gutenberg eBook of Faust is fine.\n" + BODY,
        "I like Project Gutenberg.\nThe Project Gutenberg eBook of Faust is fine.\n" + BODY,
    ),
    "no book of theirs": (BODY, BODY),
    **{
        f"a marker {name}": (book(f"{start}", start.replace("START", "END")), BODY)
        for name, start in {
            "broken before GUTENBERG": "*** START OF THE PROJECT\nGUTENBERG EBOOK A TALE ***",
            "broken before PROJECT": "*** START OF THE\nPROJECT GUTENBERG EBOOK A TALE ***",
            "with five stars and two spaces": "*****  START OF THE  PROJECT  GUTENBERG EBOOK A TALE *****",
            "with a space that does not break": "*** START OF THE PROJECT\u00a0GUTENBERG EBOOK A TALE ***",
            "after a form feed": "\f*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***",
            "with a title of 500 characters": f"*** START OF THE PROJECT GUTENBERG EBOOK {'A TALE ' * 70}***",
            "without stars": "START OF THE PROJECT GUTENBERG EBOOK A TALE",
        }.items()
    },
    "a licence on lines of a paragraph each": (
        MODERN.replace("to learn how", f"{'and so on ' * 30}to learn how") + "\n" + tale(4000),
        BODY + "\n\n" + tale(4000),
    ),
    "another text right after the last marker": (
        f"{HEAD}*** START OF THE PROJECT GUTENBERG EBOOK ***\n{BODY}*** END OF THE PROJECT GUTENBERG EBOOK ***\n{tale(100)}",
        BODY + tale(100),
    ),
    "an essay on its end": (
        2 * (essay := f"{BODY}End of Project Gutenberg's first years.\n{tale(100)}"),
        2 * essay,
    ),
    "an essay in words of a marker": (
        2 * (essay := f"{BODY}End of the Project Gutenberg Etext era\n{BODY}"),
        2 * essay,
    ),
}


@settings(max_examples=12)
@given(
    name=st.sampled_from(sorted(BOOKS)),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.integers(1, 40_000),
)
def test_what_is_left_is_exactly_the_book_in_blocks_of_any_size(name: str, newline: str, size: int) -> None:
    text, wanted = (part.replace("\n", newline) for part in BOOKS[name])
    if newline == "\r" and name == "a title of two lines":
        return
    size = max(size, len(text) // 4000)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    blocks = [Block(piece.encode(), piece) for piece in pieces]
    tally, watch = Boilerplate(), Boilerplate()
    assert "".join(block.text for block in strip_boilerplate(blocks, tally)) == wanted
    assert list(watch.count_in(blocks)) == blocks
    assert tally.chars == watch.chars == len(text) - len(wanted)
    assert watch.files == (text != wanted)


def test_each_form_in_memory() -> None:
    for name, (text, wanted) in BOOKS.items():
        assert strip_text(text) == wanted, name


def test_markers_without_number_take_no_more_time_each() -> None:
    line = "*** START OF THE PROJECT GUTENBERG EBOOK ***\n"
    assert strip_text(line * 100_000) == ""
    endless = "*** START OF THE PROJECT GUTENBERG" + "*** " * 500_000
    assert strip_text(endless) == endless
    assert len(strip_text("*** END OF THE PROJECT GUTENBERG EBOOK ***\n" + "x" * LICENCE * 4)) > LICENCE * 4


def test_commands_name_it_measure_it_and_leave_it_out_on_request(charlm: Callable[..., Result]) -> None:
    text, body = (part.replace("\n", "\r\n") for part in (MODERN, BODY))
    Path("book.txt").write_bytes(("\ufeff" + text).encode())
    n = len(text) - len(body)
    for _ in range(2):  # the second time from what is known of the file
        done = charlm("train", "book.txt", "--dry-run", "--steps", "2")
        assert f"contains Project Gutenberg's header and licence: {n:,} characters" in done.err
        assert "and 100 % of the held-out part. --strip gutenberg leaves them out." in done.err
    done = charlm("train", "book.txt", "--model", "ngram", "--strip", "gutenberg")
    assert f"licence left out: {n:,} characters." in done.err and done.code == 0
    done = charlm("eval", "book.txt", "--json")
    assert json.loads(done.out)["chars"] == len(body)
    assert done.err.count("licence left out") == 1
    assert f"({n:,} characters), as in the run's text" in done.err
    done = charlm("compress", "book.txt", "-o", "book.clm")
    assert "header and licence, which the run leaves out (--strip), compress less" in done.err
    for options, is_found in (((), True), (("--strip", "gutenberg"), False)):
        found = json.loads(charlm("inspect", "book.txt", *options, "--json").out)["warnings"]
        texts = [each["text"] for each in found if each["code"] == "boilerplate"]
        assert bool(texts) == is_found and all("of the held-out part" in each for each in texts)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ducks.txt", "book.txt", "--strip", "gutenberg", "--dry-run"], 0, "in 1 of 2 files"),
        (["ducks.txt", "--strip", "gutenberg", "--dry-run"], 0, "found no header or licence"),
        (["ducks.txt", "--strip", "gutenberg", "--field", "x"], 2, "--strip gutenberg has no effect"),
        (["--strip", "gutenberg"], 2, "--strip "),
        (["ducks.txt", "--val-file", "book.txt", "--dry-run"], 0, "of the held-out part"),
        (["book.txt", "--split", "blocks", "--dry-run"], 0, "of the held-out part"),
    ],
)
def test_where_it_acts_and_where_not_is_said(
    charlm: Callable[..., Result], words: list[str], code: int, said: str
) -> None:
    Path("book.txt").write_text(MODERN)
    done = charlm("train", *words)
    assert done.code == code and said in done.err, done.err


def test_each_file_of_a_folder_is_stripped_however_it_is_read(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1", "2"):
        Path(name).write_text(MODERN)
    wanted = load(["1", "2"], TextConfig(strip="gutenberg", val=0.0)).corpus.training_text()
    assert wanted == BODY + BODY
    monkeypatch.setattr(decoding, "HEAD", 64)
    monkeypatch.setattr(stream, "PIECE", 100)
    monkeypatch.setattr(decoding, "PIECE", 100)
    monkeypatch.setattr(boilerplate, "_EDGE", 16)
    corpus = load(["1", "2"], TextConfig(strip="gutenberg", val=0.0, documents="file")).corpus
    assert corpus.training_text().replace("\ud800", "") == wanted
