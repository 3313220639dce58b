"""The process of a command at its beginning and at its end: what it does without, and what is done all the same."""

import subprocess
import sys
from textwrap import dedent

import pytest

from tests.cli.conftest import Charlm
from tests.cli.kept import TOY, bring


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run this code in a new process, here."""
    return subprocess.run([sys.executable, "-c", dedent(code), *args], capture_output=True, text=True)


def test_commands_that_read_a_run_do_not_import_what_torch_compiles_with(
    charlm: Charlm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It takes seconds, and torch does so by itself for some functions of tensors without memory."""
    bring(charlm, tmp_path_factory, ("train", "ducks.txt", *TOY, "--steps", "2"))
    code = """
        import sys
        from charlm.__main__ import main
        for words in ("sample --length 5", "eval", "info", "resume --steps 1"):
            sys.argv = ["charlm", *words.split()]
            try:
                main()
            except SystemExit as ended:
                assert not ended.code
            found = {"torch", "torch._dynamo", "sympy"} & set(sys.modules)
            assert found == {"torch"}, (words, found)
    """
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_it_ends_with_its_code_doing_what_is_registered_and_without_taking_python_apart() -> None:
    code = """
        import atexit
        from charlm.__main__ import command
        class Kept:
            def __del__(self):
                print("taken apart")
        kept = Kept()
        atexit.register(print, "registered")
        command()
    """
    done = python(code, "--wrong")
    assert (done.returncode, done.stdout) == (2, "registered\n")
    assert "there is no option --wrong" in done.stderr
    assert python(code, "--version").stdout.endswith("registered\n")
