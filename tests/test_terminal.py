"""Nothing foreign steers the terminal, and nothing printed ends a run."""

import io
import re
import sys
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cli.console import fail, say, warn
from charlm.terminal import colour, first_of, one_line, plain_streams, visible

ANY_CHARACTER = st.characters(exclude_categories=())  # surrogates too
ANY_TEXT = st.text(
    ANY_CHARACTER | st.sampled_from("\x1b\r\x9b\x7f\u202e\u2066\u2028\ufeff\U000e0041\ud800\n\t")
)
ESCAPE = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}")


def hidden() -> list[int]:
    """Every code point that has to be spelled out, listed apart from the code that does it."""
    ranges = [(0, 8), (0x0B, 0x1F), (0x7F, 0x9F), (0x200E, 0x200F), (0x202A, 0x202E)]
    ranges += [(0x2066, 0x2069), (0x2028, 0x2029), (0xE0000, 0xE007F), (0xFFF9, 0xFFFB)]
    ranges += [(0x61C, 0x61C), (0xFEFF, 0xFEFF), (0xD800, 0xDFFF)]
    return [code for first, last in ranges for code in range(first, last + 1)]


def test_exactly_the_listed_code_points_are_spelled_out() -> None:
    spelled = set(hidden())
    for code in range(sys.maxunicode + 1):
        shown = visible(chr(code))
        if code in spelled:
            assert ESCAPE.fullmatch(shown) and int(shown[2:], 16) == code
        else:
            assert shown == chr(code)


@given(st.lists(ANY_TEXT), st.integers(0, 9), st.integers(0, 60))
def test_the_first_of_many_are_shown_and_none_is_cut(parts: list[str], most: int, limit: int) -> None:
    shown = first_of(parts, most, limit)
    line = [one_line(part, 10**9) for part in parts]
    fitting = [n for n in range(min(most, len(parts)) + 1) if len("".join(line[:n])) <= limit]
    n = max(fitting)
    assert shown == "".join(line[:n]) + "..." * (n < len(parts))


def test_every_control_character_is_covered_by_the_list() -> None:
    controls = {c for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) == "Cc"}
    assert controls - set(hidden()) == {ord("\n"), ord("\t")}


@pytest.mark.parametrize(
    "text", ["👩\u200d👩\u200d👧", "❤\ufe0f", "می\u200cخواهم", "a\u00a0b", "\u3000詩", "é", "שלום"]
)
def test_what_scripts_and_emoji_need_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("tell", [say, warn, fail])
def test_whatever_is_told_is_filtered(
    tell: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever tells something need not have thought of it."""
    tell("".join(map(chr, set(hidden()) - set(range(0xD800, 0xE000)))) + "\x1b[2J")
    assert not set(hidden()) & set(map(ord, capsys.readouterr().err))


@given(st.lists(ANY_TEXT), st.booleans())
def test_filtering_in_pieces_equals_filtering_whole(pieces: list[str], dim: bool) -> None:
    assert "".join(visible(p, dim=dim) for p in pieces) == visible("".join(pieces), dim=dim)


@given(ANY_TEXT)
def test_dim_only_adds_its_own_two_sequences(text: str) -> None:
    dimmed = visible(text, dim=True)
    assert re.sub("\x1b\\[2m(.*?)\x1b\\[22m", r"\1", dimmed) == visible(text)
    assert "\x1b" not in dimmed.replace("\x1b[2m", "").replace("\x1b[22m", "")


@given(ANY_TEXT, st.integers(1, 60))
def test_one_line_is_one_visible_line_within_the_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit and visible(line) == line
    assert not set(line) & set("\n\t\r")


def test_one_line_keeps_both_ends() -> None:
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line("0123456789", 10) == "0123456789"
    assert one_line("0123456789X", 10) == "01234…789X"
    assert one_line("0123456789X", 1) == "…"


class Screen(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_console_keeps_its_encoding_and_shows_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Screen(raw, encoding="cp1252"))
    plain_streams()
    print("é→\ud800", end="", flush=True)
    assert raw.getvalue() == b"\xe9\\u2192\\ud800"


def test_a_pipe_gets_utf8_and_its_newlines(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\r\n")  # as on Windows
    monkeypatch.setattr(sys, "stdout", stream)
    plain_streams()
    print("é\r\n→\udcff", end="\n", flush=True)
    assert raw.getvalue() == b"\xc3\xa9\r\n\xe2\x86\x92\\udcff\n"


def test_standard_error_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    plain_streams()
    print("é", end="", file=sys.stderr, flush=True)
    assert raw.getvalue() == b"\\xe9"


def closed() -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO())
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, io.StringIO(), object(), closed()])
def test_odd_streams_are_left_alone(monkeypatch: pytest.MonkeyPatch, stream: object) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    plain_streams()
    assert not colour(stream)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm"}, True),
    ],
)
def test_colour_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TERM", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colour(Screen(io.BytesIO())) is coloured
    assert colour(io.TextIOWrapper(io.BytesIO())) is False
