"""`charlm sample`, `eval`, `compress` and `decompress` on runs of every kind."""

import json
import math
from pathlib import Path

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, bring, data, refused, rows

TRAIN = ("train", "ducks.txt", "--steps", "4")
KINDS = {
    "prior": (*TRAIN, *TOY, "--prior"),
    "plain": (*TRAIN, *TOY, "--plain", "--test", "0.1"),
    "ngram": ("train", "ducks.txt", "--model", "ngram", "--threads", "1"),
    "lines": (*TRAIN, *TOY, "--documents", "line", "--no-prior"),
    "bytes": (*TRAIN, *TOY, "--units", "bytes"),
    "recurrent": (*TRAIN, "--mixer", "recurrent", "--n-layer", "1", "--n-embd", "16", "--block-size", "16"),
}
EVAL_KEYS = {
    *("run", "schema", "kind", "online", "figures", "checkpoint", "chars", "bytes", "unknown_chars", "files"),
    *("nats_per_char", "bits_per_char", "bits_per_byte", "perplexity", "ci95_bits_per_char", "baselines"),
    *("unit", "units", "bits_per_unit", "stride", "warnings"),
}


@pytest.fixture
def runs(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command beside a run of each kind; `plain` is the newest."""
    order = [*(kind for kind in KINDS if kind != "plain"), "plain"]
    bring(charlm, tmp_path_factory, "kinds", *((*KINDS[kind], "--run", kind) for kind in order))
    return charlm


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_text_however_it_is_written(runs: Charlm, kind: str) -> None:
    words = ("sample", kind, "--prompt", "1 little", "--length", "12", "--temperature", "3", "--threads", "1")
    one = runs(*words, "--seed", "3")
    assert one.code == 0 and one.out.startswith("1 little") and len(one.out.rstrip("\n")) >= 12
    assert runs(*words, "--seed", "3").out == one.out != runs(*words, "--seed", "4").out
    found = [json.loads(line) for line in runs(*words, "--seed", "3", "-n", "3", "--json").out.splitlines()]
    assert [each["sample"] for each in found] == [0, 1, 2] and len({each["text"] for each in found}) > 1
    assert {"prompt", "prompt_unknown", "text", "seed", "finish_reason", "chars_per_second"} <= set(found[0])
    assert one.out.rstrip("\n") == "1 little" + found[0]["text"]


def test_the_likeliest_is_the_likeliest_however_it_is_asked_for(runs: Charlm) -> None:
    words = ("sample", "prior", "--prompt", "2 ", "--length", "30", "--threads", "1")
    greedy = runs(*words, "--temperature", "0", "--seed", "1").out
    assert greedy == runs(*words, "--temperature", "0", "--seed", "2").out
    assert greedy == runs(*words, "--top-k", "1", "--seed", "5").out
    assert runs(*words, "--top-p", "0.5", "--min-p", "0.1", "--seed", "5").code == 0


def test_a_stop_ends_a_sample(runs: Charlm) -> None:
    words = (
        "sample",
        "prior",
        "--prompt",
        "2 ",
        "--length",
        "400",
        "--seed",
        "1",
        "--json",
        "--threads",
        "1",
    )
    (whole,) = rows(runs(*words))
    stop = whole["text"][10:13]
    (cut,) = rows(runs(*words, "--stop", stop))
    assert (
        cut["finish_reason"] == "stop" and whole["text"].startswith(cut["text"]) and stop not in cut["text"]
    )


def test_prompts_from_files_and_streams_and_with_unknown_characters(runs: Charlm) -> None:
    Path("p.txt").write_text("3 little ducks\n")
    words = ("sample", "plain", "--length", "8", "--seed", "1", "--threads", "1")
    from_file = runs(*words, "--prompt-file", "p.txt")
    assert from_file.out == runs(*words, "--prompt-file", "-", stdin="3 little ducks\n").out
    assert from_file.out == runs(*words, "--prompt", "3 little ducks\\n").out
    unknown = runs(*words, "--prompt", "Ω 3", "--json")
    assert unknown.code == 0 and "Ω" in unknown.err and rows(unknown)[0]["prompt_unknown"] == {"Ω": 1}
    refused(runs(*words, "--prompt", "x", "--prompt-file", "p.txt"), 2, "--prompt")


def test_a_model_of_documents_ends_them(runs: Charlm) -> None:
    found = rows(
        runs("sample", "lines", "--one-document", "-n", "3", "--seed", "1", "--json", "--length", "2000")
    )
    assert {each["finish_reason"] for each in found} <= {"document", "end", "length", "end_of_document"}
    refused(runs("sample", "plain", "--one-document"), 2, "one_document")


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        (("sample", "--length", "0"), 2, ("length", "0")),
        (("sample", "--temperature", "-1"), 2, ("temperature", "-1")),
        (("sample", "--top-k", "0"), 2, ("top_k", "0")),
        (("sample", "--top-p", "2"), 2, ("top_p", "2")),
        (("sample", "--samples", "0"), 2, ("samples", "0")),
        (("sample", "--seed", "-3"), 2, ("seed", "-3")),
        (("sample", "nobody"), 2, ("nobody",)),
        (("sample", "--checkpoint", "99"), 2, ("99",)),
        (("sample", "--temperature", "0", "--top-k", "3"), 2, ("top_k", "temperature")),
        (("eval", "nothing.txt"), 3, ("nothing.txt",)),
        (("eval", "--stride", "0"), 2, ("stride", "0")),
        (("eval", "--part", "middle"), 2, ("part", "middle", "held-out")),
        (("eval", "--run", "prior", "--part", "test"), 3, ("test",)),
        (("eval", "--run", "ngram", "--stride", "2"), 2, ("stride", "2")),
        (("compress", "ducks.txt"), 2, ("-o",)),
        (("compress", "nothing.txt", "-o", "x"), 3, ("nothing.txt",)),
        (("decompress", "ducks.txt", "-o", "x"), 3, ("ducks.txt",)),
    ],
)
def test_what_cannot_be_is_refused(
    runs: Charlm, words: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    refused(runs(*words), code, *facts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_one_figure(runs: Charlm, kind: str) -> None:
    """Of the run's held-out part, of the same characters in a file, and as the sum of each one's bits."""
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    Path("held-out.txt").write_text(held_out)
    whole = data(runs("eval", "--run", kind, "--json", "--threads", "1"))
    assert (
        set(whole) >= EVAL_KEYS and whole["schema"] == 1 and set(whole["baselines"]) >= {"uniform", "unigram"}
    )
    found = data(
        runs("eval", "held-out.txt", "--run", kind, "--per-char", "bits.jsonl", "--json", "--threads", "1")
    )
    bits = [json.loads(line) for line in Path("bits.jsonl").read_text().splitlines()]
    assert "".join(each["char"] for each in bits if each["char"] is not None)[: len(held_out)] == held_out
    n = found["chars"]
    assert sum(each["bits"] for each in bits) / n == pytest.approx(found["bits_per_char"], abs=1e-5)
    assert found["bits_per_char"] * math.log(2) == pytest.approx(found["nats_per_char"])
    assert 2 ** found["bits_per_char"] == pytest.approx(found["perplexity"])
    if kind in ("prior", "ngram", "bytes", "recurrent"):
        assert found["bits_per_char"] == pytest.approx(whole["bits_per_char"], rel=1e-6)
    low_high = found["ci95_bits_per_char"]
    assert low_high is None or low_high[0] <= found["bits_per_char"] <= low_high[1]


def test_a_text_is_read_from_a_stream_and_several_are_one_figure(runs: Charlm) -> None:
    Path("a.txt").write_text(TEXT[:300])
    Path("b.txt").write_text(TEXT[300:900])
    words = ("eval", "--run", "plain", "--json", "--threads", "1")
    a, b, both = (data(runs(*words, *names)) for names in (["a.txt"], ["b.txt"], ["a.txt", "b.txt"]))
    assert both["chars"] == 900 and [file["file"] for file in both["files"]] == ["a.txt", "b.txt"]
    assert both["bits_per_char"] * 900 == pytest.approx(a["bits_per_char"] * 300 + b["bits_per_char"] * 600)
    assert data(runs(*words, "-", stdin=TEXT[:300]))["bits_per_char"] == a["bits_per_char"]
    Path("odd.txt").write_text("Ω little ducks")
    assert data(runs(*words, "odd.txt"))["unknown_chars"] == 1
    one = data(runs(*words, "a.txt", "--stride", "16"))
    assert one["stride"] == 16 and one["chars"] == 300 and one["bits_per_char"] != a["bits_per_char"]
    online = data(runs(*words, "a.txt", "--online"))
    assert {(f["kind"], f["online"]) for f in online["figures"]} >= {("model", False), ("model", True)}
    assert data(runs(*words, "--part", "test"))["chars"] > 0


@pytest.mark.parametrize("kind", ["prior", "plain", "ngram", "bytes", "recurrent"])
def test_what_is_compressed_comes_back_to_the_byte(runs: Charlm, kind: str) -> None:
    for name, content in {
        "text": TEXT[:500].encode(),
        "nothing": b"",
        "bytes": bytes(range(256)),
        "strange": "Ωmega\r\n\x00 ducks".encode(),
    }.items():
        Path(name).write_bytes(content)
        made = runs("compress", name, "-o", f"{name}.clm", "--run", kind, "--json", "--threads", "1")
        assert made.code == 0, made.err
        back = runs("decompress", f"{name}.clm", "-o", f"{name}.back", "--run", kind)
        assert back.code == 0, back.err
        assert Path(f"{name}.back").read_bytes() == content
    bits = data(runs("eval", "text", "--run", kind, "--json", "--threads", "1"))["bits_per_char"] * 500
    assert Path("text.clm").stat().st_size * 8 <= bits * 1.02 + 8 * 400


def test_damaged_and_foreign_files_are_refused(runs: Charlm) -> None:
    runs("compress", "ducks.txt", "-o", "d.clm", "--run", "plain", "--threads", "1")
    good = Path("d.clm").read_bytes()
    Path("cut.clm").write_bytes(good[: len(good) // 2])
    Path("bad.clm").write_bytes(good[:-40] + bytes(40))
    for name in ("cut.clm", "bad.clm"):
        result = runs("decompress", name, "-o", "out", "--run", "plain")
        assert result.code in (3, 4) and not Path("out").exists(), result.err
    refused(runs("decompress", "d.clm", "-o", "out", "--run", "prior"), 4, "d.clm", "another model")
    refused(runs("compress", "ducks.txt", "-o", "d.clm", "--run", "plain"), 2, "d.clm", "--force")
    assert (
        runs("compress", "ducks.txt", "-o", "d.clm", "--run", "plain", "--force", "--threads", "1").code == 0
    )
