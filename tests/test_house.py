"""The house rules that a machine can check."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "charlm"
FILES = sorted(PACKAGE.rglob("*.py"))


def test_files_and_functions_are_short_and_say_their_duty() -> None:
    for path in FILES:
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        assert source.count("\n") <= 600, path
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def test_nothing_but_the_command_line_and_listeners_prints() -> None:
    for path in FILES:
        if path.parent.name in ("cli", "reporting") or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), path


def test_no_file_is_named_for_nothing() -> None:
    assert not {path.stem for path in FILES} & {"utils", "common", "helpers", "manager", "misc"}


def test_no_test_undoes_the_folder_and_the_cache_that_it_was_given() -> None:
    """Undoing all would take these away too, and what follows would write into the user's own."""
    for path in Path(__file__).parent.rglob("*.py"):
        assert "monkeypatch.un" + "do()" not in path.read_text("utf-8"), path
