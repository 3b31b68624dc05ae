"""Tests that the driver runs neither other programs nor text: no shell, no eval, no pickles.

Its one compiler is BCC's library, which gets this project's files.
"""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import PROJECT

FILES = sorted((PROJECT / "driver").rglob("*.py"))
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "spawnl", "spawnv",
                   "execv", "execve", "execvp", "fork", "posix_spawn", "getoutput"}
FORBIDDEN_MODULES = {"subprocess", "pickle", "marshal", "shelve", "pty", "code", "commands",
                     "multiprocessing"}
ALLOWED = {("compile", "re")}  # this runs no text
# What `slim cluster` does beside the driver stands on other programs: systemctl, etcdctl.
MAY_RUN_PROGRAMS = ("driver/cluster/programs.py", "driver/cluster/services.py")
# The driver has its own compiler run apart: the same Python, a module of its own.
COMPILES_APART = "driver/datapath/build/child.py"
COMPILES = '[sys.executable, "-m", __name__, str(kernel_folder.resolve()),'
# The driver may restart itself: same Python, same command line.
BECOMES_ITSELF = "os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])"


def complaints(text: str) -> list[str]:
    """Return what in this Python text runs programs or text, each with its line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
                node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in names
                      if name.split(".")[0] in FORBIDDEN_MODULES]
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else (
                function.attr if isinstance(function, ast.Attribute) else "")
            owner = (function.value.id if isinstance(function, ast.Attribute)
                     and isinstance(function.value, ast.Name) else "")
            if (name in FORBIDDEN_CALLS and (name, owner) not in ALLOWED
                    and ast.unparse(node) != BECOMES_ITSELF):
                found.append(f"{node.lineno}: {owner}.{name}()")
            found += [f"{node.lineno}: shell=True" for keyword in node.keywords
                      if keyword.arg == "shell"]
    return found


def test_no_module_runs_programs_or_text() -> None:
    found = {str(path.relative_to(PROJECT)): said for path in FILES
             if (said := complaints(path.read_text()))}
    assert len(FILES) > 100
    assert {name: [what.partition(": ")[2] for what in said] for name, said in found.items()} == {
        name: ["import subprocess"] for name in (*MAY_RUN_PROGRAMS, COMPILES_APART)}


def test_the_compiler_is_the_one_program_that_the_driver_runs() -> None:
    text = (PROJECT / COMPILES_APART).read_text()
    assert text.count("subprocess.") == text.count("subprocess.run(command,") + text.count(
        "stdin=subprocess.DEVNULL") + text.count("stdout=subprocess.PIPE") + text.count(
        "except (OSError, subprocess.TimeoutExpired") == 4
    assert f"command = {COMPILES}" in text


def test_the_driver_does_not_reach_what_runs_programs() -> None:
    users = {str(path.relative_to(PROJECT / "driver")) for path in FILES
             if re.search(r"(?m)^\s*(from|import) driver\.cluster", path.read_text())}
    assert {name.split("/")[0] for name in users} == {"cluster", "commands", "doctor",
                                                         "support"}


def test_nothing_that_the_daemon_is_made_of_imports_them() -> None:
    """By whatever way: from what puts the driver together, and from the use cases."""
    texts = {".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"):
             path.read_text() for path in FILES}
    reached: set[str] = set()
    waiting = [name for name in texts if name.startswith(("driver.compose", "driver.services"))]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.Import):
                named = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [f"{node.module}", *(f"{node.module}.{each.name}" for each in node.names)]
            else:
                continue
            waiting += [each for each in named if each in texts]
    assert len(reached) > 100
    assert [name for name in reached if name.startswith("driver.cluster")] == []


@pytest.mark.parametrize("text", [
    "import subprocess", "from subprocess import run", "import os; os.system('x')", "eval('1')",
    "exec('1')", "import pickle", "compile('1', '', 'eval')", "run('x', shell=True)",
    "__import__('os')", "os.popen('x')"])
def test_it_would_be_noticed(text: str) -> None:
    assert complaints(text)


def test_regular_expressions_are_no_programs() -> None:
    assert complaints("import re; re.compile('x')") == []
