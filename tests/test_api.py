"""The Python API: the same runs, texts and figures as the command's, and nothing printed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch

import charlm
from charlm.errors import UsageError
from charlm.training.events import Evaluated, Event, Finished, Saved, Stepped
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
SHAPE = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 16, "batch_size": 4}
OPTIONS = [word for name, value in SHAPE.items() for word in (f"--{name.replace('_', '-')}", str(value))]
NOTEBOOK = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and three runs: a transformer with a prior, an n-gram model, and one on documents."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLM_CACHE", str(folder / "cache"))
        Path("ducks.txt").write_text(TEXT)
        charlm.train("ducks.txt", steps=12, run="ducks", **SHAPE)
        charlm.train("ducks.txt", run="ngram", model="ngram")
        charlm.train("ducks.txt", steps=6, run="lines", documents="line", **SHAPE)
    return folder


@pytest.fixture
def runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the working directory."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("CHARLM_CACHE", str(trained / "cache"))
    return trained


def test_of_several_members_the_predictor_is_used_not_one_module(elsewhere: Path) -> None:
    Path("long.txt").write_text("".join(f"{i} little ducks, {i * i % 97} geese.\n" for i in range(1000)))
    run = charlm.train("long.txt", steps=2, run="several", members="prior,no-prior,ngram", **SHAPE)
    with pytest.raises(UsageError, match="a mixture of prior, no-prior and ngram"):
        _ = run.model
    assert sum(run.next("little ").values()) == pytest.approx(1)
    figure = run.evaluate(texts=["nine little ducks"])
    assert (figure.kind, figure.members) == ("mixture", ("prior", "no-prior", "ngram"))
    assert run.score("nine little ducks").mean() == pytest.approx(figure.bits_per_char)


def weights(charlm: Charlm, name: str) -> str:
    return str(json.loads(charlm("info", name, "--json").out)["weights_sha256"])


def test_a_run_is_that_of_the_same_command_and_nothing_is_printed(
    charlm: Charlm, capsys: pytest.CaptureFixture[str]
) -> None:
    import charlm as api

    for name, settings, words in (
        ("a", {**SHAPE, "seed": 3}, [*OPTIONS, "--seed", "3"]),
        ("b", {**SHAPE, "prior": False, "dropout": 0.1}, [*OPTIONS, "--no-prior", "--dropout", "0.1"]),
        ("c", {**SHAPE, "plain": True, "teacher": "a"}, [*OPTIONS, "--plain", "--teacher", "a"]),
    ):
        run = api.train("ducks.txt", steps=8, run=f"api-{name}", **settings)
        assert capsys.readouterr() == ("", "")
        assert (run.name, run.step) == (f"api-{name}", 8)
        assert charlm("train", "ducks.txt", "--steps", "8", "--run", name, *words).code == 0
        assert weights(charlm, f"api-{name}") == weights(charlm, name)
        assert Path(f"checkpoints/api-{name}/report.html").is_file()
        assert charlm("doctor", f"api-{name}").code == 0
        shown = json.loads(charlm("info", f"api-{name}", "--json").out)
        assert shown["command"].startswith("charlm.train('ducks.txt', steps=8")
        assert shown["repeat_command"].startswith("charlm train ducks.txt --steps 8")


def test_texts_in_memory_are_read_as_files_are(charlm: Charlm) -> None:
    import charlm as api

    Path("two").mkdir()
    for name, text in (("1.txt", TEXT), ("2.txt", TEXT.replace("ducks", "geese"))):
        Path("two", name).write_text(text)
    run = api.train(texts=[TEXT, TEXT.replace("ducks", "geese")], steps=4, documents="file", **SHAPE)
    assert charlm("train", "two", "--steps", "4", "--documents", "file", *OPTIONS).code == 0
    assert run.name == "texts" and weights(charlm, "texts") == weights(charlm, "two")
    assert run.evaluate().bits_per_char > 0
    assert charlm("resume", "texts", "--steps", "2").code == 0
    with pytest.raises(api.TextError, match="surrogate"):
        api.train(texts=["\ud800" * 400], steps=2)
    for wrong in ([], "a text"):
        with pytest.raises(api.UsageError, match="texts must be a list"):
            api.train(texts=wrong, steps=2)


def test_events_are_those_of_the_log_and_the_last_is_finished(charlm: Charlm) -> None:
    import charlm as api

    events = list(api.train_events("ducks.txt", steps=8, eval_every=4, **SHAPE))
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, 9))
    assert isinstance(events[-1], Finished) and events[-1].reason == "done"
    logged = [json.loads(line) for line in Path("checkpoints/ducks/metrics.jsonl").read_text().splitlines()]
    assert [row["event"] for row in logged] == [type(event).__name__ for event in events]
    samples = Path("checkpoints/ducks/samples.jsonl").read_text().splitlines()
    assert len(samples) == sum(isinstance(event, Evaluated) for event in events) == 2


def test_it_trains_in_any_thread_with_the_threads_asked_for(charlm: Charlm) -> None:
    import charlm as api

    seen: list[int] = []

    def train() -> None:
        events = api.train_events("ducks.txt", steps=2, threads=3, **SHAPE)
        seen.extend(torch.get_num_threads() for _ in events)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert set(seen) == {3} and torch.get_num_threads() == 1
    assert api.load("ducks").snapshot.training_config.threads == 3


def interrupted(events: Iterator[Event], step: int) -> list[Event]:
    """The events of a training that is interrupted after a step."""
    found = []
    for event in events:
        found.append(event)
        if isinstance(event, Stepped) and event.step == step:
            signal.raise_signal(signal.SIGINT)
    return found


def test_an_interrupt_saves_the_run_and_resume_ends_with_the_same_weights(charlm: Charlm) -> None:
    import charlm as api

    handler = signal.getsignal(signal.SIGINT)
    whole = api.train("ducks.txt", steps=9, run="whole", **SHAPE)
    events = interrupted(api.train_events("ducks.txt", steps=9, run="cut", **SHAPE), 4)
    assert isinstance(events[-1], Finished) and events[-1].reason == "SIGINT"
    assert isinstance(events[-2], Saved) and api.load("cut").step == 4
    assert signal.getsignal(signal.SIGINT) == handler
    resumed = api.resume("cut")
    assert resumed.step == 9 and weights(charlm, "cut") == weights(charlm, "whole")
    assert api.resume("cut").step == 9  # finished: nothing to do
    assert api.resume("cut", steps=2).step == 11
    assert whole.sample("1", seed=1, length=20) == api.load("whole").sample("1", seed=1, length=20)


def test_train_raises_the_interrupt_when_the_run_is_saved(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import charlm as api
    from charlm.training.trainer import Trainer

    plain = Trainer.run

    def run(self: Trainer, stop: object) -> Iterator[Event]:
        for event in plain(self, stop):  # type: ignore[arg-type]
            yield event
            if isinstance(event, Stepped) and event.step == 3:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        with pytest.raises(KeyboardInterrupt, match=r"after step 3.*charlm\.resume\('cut'\)"):
            api.train("ducks.txt", steps=9, run="cut", **SHAPE)
    assert api.load("cut").step == 3
    assert charlm("resume", "cut").code == 0 and api.load("cut").step == 9


def test_a_resume_that_is_refused_leaves_the_run_to_the_next_one(elsewhere: Path) -> None:
    Path("ducks.txt").write_text(TEXT)
    charlm.train("ducks.txt", run="counts", model="ngram")
    with pytest.raises(UsageError, match="needs no further training") as refused:
        charlm.resume("counts", steps=2)
    assert charlm.resume("counts").name == "counts" and refused.tb, "as a notebook keeps its last error"


def test_a_loop_that_is_left_saves_the_run(charlm: Charlm) -> None:
    import charlm as api

    for event in api.train_events("ducks.txt", steps=9, **SHAPE):
        if isinstance(event, Stepped) and event.step == 5:
            break
    assert api.load("ducks").step == 5
    assert api.resume("ducks").step == 9  # so its lock is free


def test_a_run_is_found_by_name_by_path_or_as_the_newest(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert charlm.load("ducks").name == charlm.load("checkpoints/ducks").name == "ducks"
    assert charlm.load(runs / "checkpoints" / "ngram").name == "ngram"
    assert charlm.load().name == "lines"
    assert charlm.load("ducks", checkpoint=12).which == "12"
    monkeypatch.chdir("/")
    assert charlm.load("ducks", checkpoints=runs / "checkpoints").path == runs / "checkpoints" / "ducks"
    monkeypatch.setenv("CHARLM_CHECKPOINTS", str(runs / "checkpoints"))
    assert charlm.load("ducks").step == 12
    with pytest.raises(charlm.CheckpointError, match="did you mean ducks"):
        charlm.load("duck")
    with pytest.raises(charlm.UsageError, match="has no checkpoint 7"):
        charlm.load("ducks", checkpoint=7)


@pytest.mark.parametrize("name", ["ducks", "ngram", "lines"])
def test_a_sample_is_that_of_the_command_and_of_its_pieces(name: str, charlm: Charlm, runs: Path) -> None:
    import charlm as api

    os.chdir(runs)
    run = api.load(name)
    words = ["--prompt", "1 li", "--length", "60", "--seed", "2", "--temperature", "0.8"]
    shown = charlm("sample", name, *words, "-n", "3", "--json").out.splitlines()
    texts = [json.loads(line) for line in shown]
    expected = [row["text"] for row in sorted(texts, key=lambda row: row["sample"])]
    how = {"length": 60, "seed": 2, "temperature": 0.8}
    assert run.sample("1 li", n=3, **how) == expected
    assert run.sample("1 li", **how) == expected[0] == "".join(run.stream("1 li", **how))
    assert len(run.sample(length=30)) == 30
    assert "s" not in run.sample("1 li", stop="s", **how)


@pytest.mark.parametrize("name", ["ducks", "ngram", "lines"])
def test_patterns_many_prompts_and_what_is_copied_are_those_of_the_command(
    name: str, charlm: Charlm, runs: Path
) -> None:
    import charlm as api

    os.chdir(runs)
    run, prompts, pattern = api.load(name), ["1 li", "2 little", "9 ge", ""], r"[a-z ]+,?"
    Path("prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    words = ["--length", "40", "--seed", "2", "--temperature", "0.8"]
    how = {"length": 40, "seed": 2, "temperature": 0.8}
    shown = charlm("sample", name, *words, "-n", "2", "--prompts", "prompts.txt", "--verbatim", "--json").out
    rows = sorted(map(json.loads, shown.splitlines()), key=lambda row: (row["prompt_index"], row["sample"]))
    each = run.sample_each(prompts, n=2, **how)
    assert [text for of_prompt in each for text in of_prompt] == [row["text"] for row in rows]
    assert each[2] == run.sample(prompts[2], n=2, **how | {"seed": 4})
    report = run.verbatim([row["text"] for row in rows])
    assert [report.to_json(i) for i in range(len(rows))] == [row["verbatim"] for row in rows]
    text = run.sample("1 li", regex=pattern, **how)
    assert re.fullmatch(pattern, text) and text == "".join(run.stream("1 li", regex=pattern, **how))
    assert charlm("sample", name, *words, "--prompt", "1 li", "--regex", pattern).out == f"1 li{text}\n"


@pytest.mark.parametrize("name", ["ducks", "ngram", "lines"])
def test_an_evaluation_is_that_of_the_command(name: str, charlm: Charlm, runs: Path) -> None:
    import charlm as api

    os.chdir(runs)
    run = api.load(name)
    assert {"run": name, **run.evaluate().to_json()} == json.loads(
        charlm("eval", "--run", name, "--json").out
    )
    Path("other.txt").write_text(TEXT[:300].replace("one day", "öne day"))
    shown = (
        json.loads(charlm("eval", "other.txt", "--run", name, "--stride", "16", "--json").out)
        if name != "ngram"
        else None
    )
    if shown is not None:
        assert {"run": name, **run.evaluate("other.txt", stride=16).to_json()} == shown
    figure = run.evaluate("other.txt")
    if name != "lines":  # where the ends of lines are scored too
        text = Path("other.txt").read_text()
        assert run.evaluate(texts=[text]).bits_per_char == figure.bits_per_char
        bits = run.score(text)
        assert bits.shape == (len(text),) and bits.mean() == pytest.approx(figure.bits_per_char, abs=1e-9)
    for wrong in ({"texts": [""]}, {"part": "test"}):
        with pytest.raises(api.TextError):
            run.evaluate(**wrong)
    with pytest.raises(api.UsageError, match="give only one of"):
        run.evaluate("other.txt", part="test")


@pytest.mark.parametrize("name", ["ducks", "ngram"])
def test_the_next_characters_are_those_of_the_score(name: str, runs: Path) -> None:
    run = charlm.load(name)
    text = TEXT[500:560]
    bits = run.score(text)
    for t in (0, 1, 7, 16, 17, 40):
        odds = run.next(text[:t])
        assert sum(odds.values()) == pytest.approx(1, abs=1e-6)
        assert -log2(odds[text[t]]) == pytest.approx(bits[t], abs=1e-4)
    assert 0 < run.next("1 l")["\ufffd"] < 1e-3


def test_the_end_of_a_document_is_the_empty_text(runs: Path) -> None:
    odds = charlm.load("lines").next("3 little ducks went")
    assert sum(odds.values()) == pytest.approx(1, abs=1e-6) and 0 < odds[""] < 1


def test_the_model_and_the_tokenizer_are_plain(runs: Path) -> None:
    run = charlm.load("ducks")
    ids = run.tokenizer.encode(TEXT[:200] + "日本")
    assert run.tokenizer.decode(ids) == TEXT[:200] + "日本"
    assert isinstance(run.model, torch.nn.Module) and not run.model.training
    assert sum(p.numel() for p in run.model.parameters()) > 0
    with pytest.raises(charlm.UsageError, match="n-gram model"):
        _ = charlm.load("ngram").model
    assert run.score("").shape == (0,) and np.isfinite(run.score("日本")).all()


def test_a_run_shows_its_report(runs: Path, tmp_path: Path) -> None:
    run = charlm.load("ducks")
    page = run._repr_html_()
    assert page.startswith("<iframe srcdoc=") and "&lt;h1&gt;ducks" in page and "<h1>" not in page
    assert "ducks: step 12" in repr(run) and "bits/char" in repr(run)
    report = runs / "checkpoints" / "ducks" / "report.html"
    report.rename(tmp_path / "report.html")
    assert run._repr_html_().startswith("<pre>&lt;charlm run ducks")
    (tmp_path / "report.html").rename(report)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_layers": 3}, "'n_layers' is an unknown setting; did you mean n_layer?"),
        ({"n_embd": 0}, "`n_embd` is 0; allowed"),
        ({"time": "5 parsecs"}, "is not a time"),
        ({"time": 1}, "give at least 5 s"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 3, "time": "9s"}, "not both"),
        ({"steps": 3, "texts": ["x"]}, "not both"),
        ({"steps": 3, "checkpoint": "best"}, "no effect without --from"),
        ({"steps": 3, "run": "../x"}, "cannot be named"),
        ({"model": "ngram", "steps": 3}, "no effect with `model=ngram`"),
    ],
)
def test_what_is_wrong_is_refused_at_the_call(
    arguments: dict[str, object], said: str, elsewhere: Path
) -> None:
    Path("ducks.txt").write_text(TEXT)
    for function in (charlm.train, charlm.train_events):
        with pytest.raises(charlm.UsageError) as refused:
            function("ducks.txt", **arguments)
        assert said in str(refused.value)
    assert not Path("checkpoints").exists()


def test_a_sample_of_unknown_or_impossible_settings_is_refused(runs: Path) -> None:
    run = charlm.load("ducks")
    for settings, said in (
        ({"temprature": 1.0}, "did you mean temperature?"),
        ({"temperature": -1.0}, "`temperature` is -1.0"),
        ({"length": 0}, "length is 0"),
        ({"one_document": True}, "`one_document` has no effect"),
        ({"stop": ""}, "stop is empty"),
        ({"regex": "(a"}, "`regex` .a is not a pattern"),
        ({"regex": "a", "stop": "b"}, "`stop` has no effect with `regex`"),
        ({"regex": 7}, "regex is 7"),
    ):
        with pytest.raises(charlm.UsageError, match=said.replace("?", r"\?")):
            run.stream("To", **settings)
    with pytest.raises(charlm.UsageError, match="a list"):
        run.sample_each("To")
    with pytest.raises(charlm.UsageError, match="half of a surrogate"):
        run.verbatim(["\ud800"])
    with pytest.raises(charlm.TextError):
        charlm.train("missing.txt", steps=2)


def test_a_bar_is_shown_where_it_is_wanted(charlm: Charlm, capsys: pytest.CaptureFixture[str]) -> None:
    import charlm as api

    api.train("ducks.txt", steps=4, progress=True, **SHAPE)
    out, err = capsys.readouterr()
    assert not out and "4/4" in err and "loss=" in err


def test_importing_charlm_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, charlm; assert not {'torch', 'numpy', 'typer', 'charlm.api'} & set(sys.modules), sys.modules; "
        "assert 'train' in dir(charlm); charlm.UsageError; assert 'numpy' not in sys.modules; "
        "charlm.train; assert 'torch' in sys.modules; assert not hasattr(charlm, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_notebook_runs(elsewhere: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec("".join(cell["source"]), names)
