"""The command line, in this process: results, messages, codes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import get_type_hints

import pytest

from charlm.cli import evaluate
from charlm.cli.main import run as main
from charlm.config import TrainingConfig
from charlm.errors import UsageError
from charlm.settings import settings_of
from charlm.training.request import parse_time
from tests.conftest import TEXT, repeat_words

TOY = ["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4"]


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def charlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs `charlm ARGS...` in a folder of its own with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ducks.txt").write_text(TEXT)

    def call(*args: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["charlm", *args])
        capsys.readouterr()
        code = main(perf_counter())
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def trained(charlm):  # type: ignore[no-untyped-def]
    """The same, with a run of 12 steps."""
    assert charlm("train", "ducks.txt", "--steps", "12", *TOY).code == 0
    return charlm


def test_train_says_what_it_does_and_ends_with_what_to_do(charlm) -> None:  # type: ignore[no-untyped-def]
    result = charlm("train", "ducks.txt", "--steps", "12", *TOY)
    assert result.code == 0
    assert result.err.startswith("reading ducks.txt")
    for said in (
        "characters,",
        "held out",
        "1 layer of width 16, 2 heads",
        "run ducks, in checkpoints",
        "charlm info ducks",
        "charlm resume ducks",
        "charlm eval --run ducks",
        "charlm sample --run ducks",
    ):
        assert said in result.err, said
    assert "bits/char" in result.out and "report.html" in result.out
    assert Path("checkpoints/ducks/report.html").read_text().startswith("<!")


@pytest.mark.parametrize("kind", [("--steps", "2", *TOY), ("--model", "ngram")])
def test_the_last_evaluation_of_a_short_run_is_of_the_whole_held_out_part(
    charlm, kind: tuple[str, ...]
) -> None:  # type: ignore[no-untyped-def]
    n = len(TEXT) - int(len(TEXT) * 0.9)
    said = charlm("train", "ducks.txt", *kind).out
    assert re.search(rf"measured on +{n} of {n} characters, \d+ blocks, the whole held-out part *\n", said)
    Path("née.txt").write_text("née " * 800, "utf-8")
    said = charlm("train", "née.txt", "--units", "bytes", *kind).out
    assert re.search(r"measured on .* blocks, the whole held-out part *\n", said)


@pytest.mark.parametrize(
    "options",
    [
        ("--mixer", "recurrent"),
        ("--mixer", "convolution,simple-attention", "--window", "3", "--n-head", "2"),
        ("--position", "alibi", "--locality", "--n-head", "2", "--n-kv-head", "1"),
        ("--position", "learned"),
    ],
)
def test_each_mixer_and_position_trains_samples_and_evaluates(charlm, options: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    shape = ("--n-layer", "2", "--n-embd", "16", "--block-size", "8", "--batch-size", "2")
    err = charlm("train", "ducks.txt", "--steps", "12", *shape, *options).err
    assert options[1] in err.replace(" and ", ",")
    again = repeat_words(charlm)
    assert charlm(*again).code == 0
    hashes = [
        json.loads(charlm("info", name, "--json").out)["weights_sha256"] for name in ("ducks", "ducks-2")
    ]
    assert hashes[0] == hashes[1]
    assert len(charlm("sample", "--length", "30", "--prompt", "little").out) > 30
    evaluation = charlm("eval", "--json")
    assert json.loads(evaluation.out)["state_carried"] == (options == ("--mixer", "recurrent"))
    if options == ("--mixer", "recurrent"):
        assert "all characters before each" in charlm("eval").out
        refused = charlm("eval", "--stride", "4")
        assert refused.code == 2 and "stride is 4, which has no effect" in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--mixer", "recurrent", "--position", "rotary"),
            "position is rotary, which has no effect with mixer",
        ),
        (("--mixer", "lstm"), "mixer is 'lstm'; allowed: attention, simple-attention"),
        (("--window", "99", "--block-size", "8"), "window is 99 and block_size 8"),
    ],
)
def test_a_mixer_or_position_that_cannot_be_is_refused(charlm, options: tuple[str, ...], said: str) -> None:  # type: ignore[no-untyped-def]
    result = charlm("train", "ducks.txt", "--steps", "5", *options)
    assert result.code == 2 and said in result.err
    assert not Path("checkpoints").exists()


def test_dry_run_writes_nothing(charlm) -> None:  # type: ignore[no-untyped-def]
    result = charlm("train", "ducks.txt", "--dry-run")
    assert result.code == 0 and "--n-layer" in result.out
    assert not Path("checkpoints").exists()


def test_eval_gives_every_key(trained) -> None:  # type: ignore[no-untyped-def]
    result = trained("eval", "--json")
    data = json.loads(result.out)
    assert set(data) == {
        "run", "schema", "kind", "online", "figures", "checkpoint", "selected_on_this_text", "block_size", "stride",
        "prior_order", "state_carried", "chars", "bytes", "document_ends",
        "unknown_chars", "nats_per_char", "bits_per_char", "bits_per_byte", "unit", "units", "bits_per_unit", "perplexity", "ci95_bits_per_char", "baselines",
        "files", "warnings",
    }  # fmt: skip
    assert data["run"] == "ducks" and data["chars"] == len(TEXT) - int(len(TEXT) * 0.9)
    assert "using latest of ducks, the newest run: step 12" in result.err


def test_eval_online_keeps_its_figures_apart(trained) -> None:  # type: ignore[no-untyped-def]
    data = json.loads(trained("eval", "--online", "--json").out)
    assert [(figure["kind"], figure["online"]) for figure in data["figures"]] == [
        ("model", False),
        ("model", True),
    ]
    static, online = (figure["bits_per_char"] for figure in data["figures"])
    assert data["bits_per_char"] == static != online and not data["online"]
    shown = trained("eval", "--online").out
    apart = shown.index("online  ")
    assert f"{static:.4f}" in shown[:apart] and f"{online:.4f}" in shown[apart:]
    assert "compare with xz and ppmd only" in shown[apart:]
    assert "online" not in trained("eval").out


def test_eval_of_files_and_characters(trained) -> None:  # type: ignore[no-untyped-def]
    Path("a.txt").write_text("five little ducks é")
    Path("b.txt").write_text("far away")
    data = json.loads(
        trained("eval", "a.txt", "b.txt", "--per-char", "bits.jsonl", "--json", "--stride", "16").out
    )
    rows = [json.loads(line) for line in Path("bits.jsonl").read_text().splitlines()]
    assert [row["char"] for row in rows] == list("five little ducks éfar away")
    assert [row["offset"] for row in rows] == [*range(19), *range(8)]
    assert sum(row["bits"] for row in rows) / 27 == pytest.approx(data["bits_per_char"], rel=1e-5)
    assert (data["chars"], data["unknown_chars"], data["stride"]) == (27, 1, 16)
    table = trained("eval").out
    for word in ("bits per byte", "perplexity", "uniform", "unigram", "xz", "adapts"):
        assert word in table
    assert "at least 200 characters" in trained("eval", "a.txt").err  # which xz needs


@pytest.mark.parametrize("prompt", ["", "日本語 🦆", "-5 apples", "x" * 100, "a\tb\n"])
def test_any_prompt_will_do(trained, prompt: str) -> None:  # type: ignore[no-untyped-def]
    result = trained("sample", "--prompt", prompt, "--length", "8")
    assert result.code == 0 and result.out.startswith(prompt)


def test_what_goes_by_symbols_says_so(charlm) -> None:  # type: ignore[no-untyped-def]
    """Their numbers are of bytes here, of which a text has more than characters."""
    Path("née.txt").write_text("née " * 800, "utf-8")
    made = charlm("train", "née.txt", "--model", "ngram", "--units", "bytes", "--prior-chars", "640")
    assert re.search(r"bytes counted +640\b", made.out)
    refused = charlm("eval", "--stride", "4")
    assert refused.code == 2 and "symbols before each" in refused.err
    helps = {setting.name: setting.help for setting in settings_of(TrainingConfig)}
    helps["stride"] = get_type_hints(evaluate.command, include_extras=True)["stride"].__metadata__[0].help
    for name in ("eval_chars", "prior_chars", "stride"):
        assert "symbols" in helps[name].lower() and "--units" in helps[name], name


def test_resume_of_a_finished_run_needs_to_know_how_long(trained) -> None:  # type: ignore[no-untyped-def]
    refused = trained("resume")
    assert refused.code == 2 and "charlm resume ducks --time" in refused.err
    more = trained("resume", "ducks", "--steps", "5")
    assert more.code == 0 and "from step 12 to 17" in more.err
    assert json.loads(trained("info", "--json").out)["step"] == 17


@pytest.mark.parametrize("kind", [("--steps", "5", *TOY), ("--model", "ngram")])
def test_resume_of_a_run_that_lacks_only_its_report_makes_that(charlm, kind: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    """As after a kill between the last save and the report: the same table, page and commands."""
    made = charlm("train", "ducks.txt", *kind)
    page = Path("checkpoints/ducks/report.html")
    expected = page.read_text("utf-8")
    page.unlink()
    resumed = charlm("resume", "ducks")
    assert resumed.code == 0 and "only its report is missing" in resumed.err
    assert resumed.out == made.out and page.read_text("utf-8") == expected
    assert resumed.err.endswith(made.err[made.err.index("more text from it:") :])
    again = charlm("resume", "ducks")
    assert again.code == (0 if "ngram" in kind else 2) and not again.out


def test_a_report_of_an_earlier_step_is_none(charlm, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """A run that goes on, and is killed between its last save and the report, lacks that."""
    charlm("train", "ducks.txt", "--steps", "5", *TOY)
    with monkeypatch.context() as patched:
        patched.setattr("charlm.job.write_report", lambda *args: [])
        assert charlm("resume", "ducks", "--steps", "2").code == 0
    assert not Path("checkpoints/ducks/report.html").exists()
    resumed = charlm("resume", "ducks")
    assert resumed.code == 0 and "only its report is missing" in resumed.err
    assert Path("checkpoints/ducks/report.html").exists()


def test_runs_and_info(trained) -> None:  # type: ignore[no-untyped-def]
    assert "ducks" in trained("runs").out
    assert json.loads(trained("runs", "--json").out)["step"] == 12
    info = trained("info").out
    assert "SHA-256" in info and "n_embd 16" in info


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["trian"], 2, "train"),
        (["train", "--n-layr", "3"], 2, "did you mean --n-layer?"),
        (["train", "ducks.txt", "--n-layer", "x"], 2, "--n-layer"),
        (["train", "ducks.txt", "--n-layer", "0"], 2, "1 to 128"),
        (["train", "ducks.txt", "--n-embd", "30", "--n-head", "4"], 2, "n_head"),
        (["train", "ducks.txt", "--time", "5s", "--steps", "3"], 2, "--steps"),
        (["train", "ducks.txt", "--time", "soon"], 2, "60s"),
        (["train", "ducks.txt", "--time", "1s"], 2, "at least 5"),
        (["train", "ducks.txt", "--schedule", "0:0,5:1"], 2, "--schedule"),
        (["train", "ducks.txt", "--run", "../x", "--steps", "1"], 2, "cannot be named"),
        (["train", "ducks.txt", "--device", "abacus"], 2, "auto, cpu, cuda, mps"),
        (["train", "missing.txt"], 3, "missing.txt"),
        (["train", "empty.txt"], 3, "0 characters"),
        (["train", "one.txt"], 3, "1 character"),
        (["train", "picture.png"], 3, "PNG"),
        (["sample"], 4, "charlm train"),
        (["sample", "--prompt", "a", "--prompt-file", "b"], 2, "one of them"),
        (["sample", "--temperature", "nan"], 2, "temperature"),
        (["sample", "--stop", ""], 2, "--stop"),
        (["sample", "--prompt", "a\udc80"], 2, "character 1"),
        (["eval", "--run", "none"], 4, "charlm train"),
        (["resume", "--time", "5s", "--steps", "3"], 2, "one of them"),
    ],
)
def test_mistakes_get_one_sentence_and_their_code(charlm, args: list[str], code: int, said: str) -> None:  # type: ignore[no-untyped-def]
    Path("empty.txt").write_text("")
    Path("one.txt").write_text("a")
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    result = charlm(*args)
    assert result.code == code
    assert said in result.err
    assert result.out == ""
    assert not Path("checkpoints").exists()


def test_mistakes_about_a_run(trained) -> None:  # type: ignore[no-untyped-def]
    for args, code, said in (
        (["train", "ducks.txt", "--run", "ducks", "--steps", "1"], 2, "charlm resume ducks"),
        (["sample", "--run", "geese"], 4, "there are: ducks"),
        (["sample", "--checkpoint", "7"], 2, "latest, best"),
        (["eval", "--stride", "17"], 2, "1 to 16"),
        (["eval", "--per-char", "no/where.jsonl"], 2, "no/where.jsonl"),
    ):
        result = trained(*args)
        assert (result.code, result.out) == (code, ""), args
        assert said in result.err, result.err


def test_settings_from_a_file_and_the_environment_in_their_order(
    charlm, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    Path("c.toml").write_text(
        "n-layer = 1\nn_embd = 16\nblock_size = 8\nbatch_size = 4\nsteps = 3\nlearning_rate = 0.5\n"
    )
    monkeypatch.setenv("CHARLM_BLOCK_SIZE", "12")
    assert charlm("train", "ducks.txt", "--config", "c.toml", "--learning-rate", "0.25").code == 0
    data = json.loads(charlm("info", "--json").out)
    assert (data["model"]["n_embd"], data["model"]["block_size"], data["training"]["learning_rate"]) == (
        16,
        12,
        0.25,
    )
    assert data["step"] == 3


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("n_layr = 3", "did you mean n_layer?"),
        ("n_layer = [", "TOML"),
        ("n_layer = [1]", "number"),
        ("n_layer = 3.5", "whole number"),
        ("dry_run = true", "only be given on the command line"),
    ],
)
def test_a_file_of_settings_is_read_strictly(charlm, toml: str, said: str) -> None:  # type: ignore[no-untyped-def]
    Path("c.toml").write_text(toml)
    result = charlm("train", "ducks.txt", "--config", "c.toml")
    assert result.code == 2 and said in result.err


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    charlm, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("CHARLM_TIME", "10m")
    assert charlm("train", "ducks.txt", "--steps", "3", *TOY).code == 0
    Path("c.toml").write_text("steps = 3\n")
    assert "at least 5" in charlm("train", "ducks.txt", "--config", "c.toml", "--time", "1s").err
    monkeypatch.setenv("CHARLM_STEPS", "3")
    assert charlm("train", "ducks.txt").code == 2


def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one(charlm) -> None:  # type: ignore[no-untyped-def]
    charlm("train", "ducks.txt", "--steps", "6", "--save-every", "0", *TOY)
    weights = Path("checkpoints/ducks/step-00000006/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    result = charlm("resume", "--steps", "4")
    assert result.code == 0
    assert "step 6 cannot be used" in result.err and "from step 5 to 9" in result.err


def test_printed_commands_find_a_run_that_lives_elsewhere(charlm) -> None:  # type: ignore[no-untyped-def]
    err = charlm("train", "ducks.txt", "--steps", "3", *TOY, "--checkpoints", "my runs").err
    command = re.search(r"charlm (eval --run .*)", err)
    assert command and "--checkpoints 'my runs'" in command[1]


def test_a_run_that_was_never_begun_leaves_its_name_free(charlm) -> None:  # type: ignore[no-untyped-def]
    Path("checkpoints/ducks").mkdir(parents=True)  # as a kill between two calls leaves it
    assert charlm("train", "ducks.txt", "--steps", "3", *TOY, "--run", "ducks").code == 0


def test_per_char_replaces_no_device(trained) -> None:  # type: ignore[no-untyped-def]
    Path("link.jsonl").symlink_to("real.jsonl")
    assert trained("eval", "--per-char", "link.jsonl").code == 0
    assert Path("link.jsonl").is_symlink() and Path("real.jsonl").read_text()
    if Path("/dev/null").is_char_device():
        assert trained("eval", "--per-char", "/dev/null").code == 0
        assert Path("/dev/null").is_char_device()


def test_the_version_is_in_the_help(charlm) -> None:  # type: ignore[no-untyped-def]
    assert "--version" in charlm("--help").out
    assert charlm("--version").out.startswith("charlm 0.")


def test_fifty_characters_train_and_say_that_they_are_few(charlm) -> None:  # type: ignore[no-untyped-def]
    Path("tiny.txt").write_text("To be, or not to be, that is the question: whether")
    result = charlm("train", "tiny.txt", "--steps", "5")
    assert result.code == 0
    assert "too few held out to mean much" in result.err
    assert charlm("sample", "--length", "20").code == 0
    assert "too few" in charlm("eval").err


def test_times() -> None:
    assert [parse_time(t) for t in ("90", "60s", "10m", "2h", "1h30m", "1.5m")] == [
        90,
        60,
        600,
        7200,
        5400,
        90,
    ]
    for wrong in ("", "x", "-5", "5 m", "1m1h", "nan"):
        with pytest.raises(UsageError):
            parse_time(wrong)


def test_help_knows_no_torch() -> None:
    code = (
        "import sys, charlm.cli.main as m; sys.argv = ['charlm', 'train', '--help']; m.run(0.0); "
        "heavy = {'torch', 'numpy', 'rich', 'tqdm'} & set(sys.modules); print(heavy, file=sys.stderr); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for group in ("Model:", "Training:", "Text:", "Examples:", "--n-layer", "1 to 128"):
        assert group in done.stdout


def test_the_package_imports_where_fcntl_is_missing() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import charlm.cli.main, charlm.files, charlm.training.signals"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["/dev/zero", "long.toml"])
def test_a_config_without_end_is_refused(charlm, name: str) -> None:  # type: ignore[no-untyped-def]
    Path("long.toml").write_text("a." * 100_000 + "a = 1")
    result = charlm("train", "ducks.txt", "--config", name, "--dry-run")
    assert result.code == 2 and f"--config {name} has more than" in result.err
