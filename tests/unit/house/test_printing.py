"""Holds commands to one way of printing, which lets no control character through."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SAYING = PROJECT / "driver/commands/saying.py"
FILES = sorted({PROJECT / "driver/__main__.py", *(PROJECT / "driver/doctor").rglob("*.py"),
                *(PROJECT / "driver/commands").rglob("*.py")} - {SAYING})


def careless(source: str) -> Iterator[int]:
    """The lines that print what may be foreign text as it is.

    `print` may have constants, JSON (which has no control character) and what `plain` returned.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == "print":
            yield node.lineno
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (
                node.func.id == "print") and all(map(_is_safe, node.args)):
            yield -node.lineno


def _is_safe(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func) == "plain" or (
        ast.unparse(node.func) == "json.dumps"
        and all(each.arg != "ensure_ascii" for each in node.keywords))


def wrong(source: str) -> set[int]:
    found = list(careless(source))
    return {line for line in found if line > 0 and -line not in found}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_foreign_text_is_said_and_not_printed(path: Path) -> None:
    assert wrong(path.read_text()) == set(), f"{path}: use driver.commands.saying.say"


def test_it_would_be_found() -> None:
    assert wrong('print(f"{x}")') == {1}
    assert wrong("print(x)\nprint()\nprint('a', file=y)") == {1}
    assert wrong("f(print)\ndef g(say=print): pass") == {1, 2}
    assert wrong("print(plain(x))\nprint(json.dumps(x, indent=2))") == set()
    assert wrong("print(json.dumps(x, ensure_ascii=False))") == {1}
