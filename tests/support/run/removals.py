"""Finds each place in the driver's source that removes something.

A removal is the use, as a call or an argument, of a function or method that the driver defines and
whose name is a verb of removal (a set's `discard` or a lock's `release` is none).  Removals are
also calls that remove files, netlink's "del", and etcd's Delete.  docs/state.md says whether a
removal is right: "What is removed, and on whose word".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERB = re.compile(r"(delete|withdraw|remove|release|revoke|forget|discard|detach|unlink|rmdir"
                  r"|rmtree|retire|put_away|tear_down|evict|wipe|give_up|unfollow|unregister)(_|$)")
FILES = {"unlink", "rmdir", "rmtree"}  # functions of os, shutil and pathlib
COMMANDS = {"del", "flush"}  # of netlink, as pyroute2 and `ip` spell them
OPS = {"Delete"}  # of driver/store/kv/protocol.py
# Names of objects whose release frees only memory.
IN_MEMORY = re.compile(r"(lock|settling|semaphore)$")


@dataclass(frozen=True, order=True)
class Site:
    """One use; `function` is module.Class.function below driver/, as the table names it."""

    function: str
    line: int
    what: str


@dataclass(frozen=True)
class Own:
    """Names of the driver's own functions and methods that remove something."""

    methods: frozenset[str]
    functions: frozenset[str]


def sites(folder: Path) -> list[Site]:
    """Return all removals in the source below `folder`."""
    trees = {path.relative_to(folder).with_suffix("").as_posix().replace("/", "."):
             ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}
    own = Own(frozenset(name for tree in trees.values() for name in _defined(tree, True)),
              frozenset(name for tree in trees.values() for name in _defined(tree, False)))
    return sorted(site for module, tree in trees.items() for site in _sites(module, tree, own))


def _defined(tree: ast.Module, in_class: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef if in_class else ast.Module):
            yield from (each.name for each in node.body if isinstance(each, ast.FunctionDef)
                        and VERB.match(each.name.lstrip("_")))


def _sites(module: str, tree: ast.Module, own: Own) -> Iterator[Site]:
    def visit(node: ast.AST, path: tuple[str, ...], inside: bool) -> Iterator[Site]:
        for child in ast.iter_child_nodes(node):
            inner, within = path, inside
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not inside:
                inner, within = (*path, child.name), isinstance(child, ast.FunctionDef)
            if what := _removal(child, own):
                yield Site(".".join((module, *path)), child.lineno, what)
            yield from visit(child, inner, within)

    return visit(tree, (), False)


def _removal(node: ast.AST, own: Own) -> str:
    """Return the name of what is used if that removes something, else ""."""
    if isinstance(node, ast.Call):
        name = _name(node.func)
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and first.value in COMMANDS:
            return f"{name}({first.value!r})"
        known = own.methods | own.functions
        return name if name in OPS or (name in FILES and name not in known) else ""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        receiver = _name(node.value)
        by_module = node.attr in own.functions and isinstance(node.value, ast.Name)
        if (node.attr in own.methods or by_module) and not IN_MEMORY.search(receiver):
            return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in own.functions:
        return node.id
    return ""


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else (
        node.id if isinstance(node, ast.Name) else "")
