"""The import graph: one way through the layers, and each foreign library in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parents[2] / "driver"
TOP = {"__main__", "adopt", "compose", "doctor", "cleanup", "forget",
       "ownership"}  # may import anything
SHARED = {"client_ports", "contended", "errors", "model", "deadline", "doubts", "later",
          "logs", "memory", "priority", "readiness"}  # know nothing of the rest

# layer -> what it may import besides itself and SHARED
MAY_IMPORT: dict[str, set[str]] = {
    "api": {"services"},
    "services": {"ipam"},
    "ipam": set(),
    "store": {"services.ports"},
    "link": {"services.ports"},
    "datapath": {"services.ports"},
    "engine": {"services.ports"},
    "settings": set(),
    "host": set(),
    "state": {"services.ports", "store.records"},
    "control_client": set(),
}
LIBRARIES = {"pyroute2": "link", "bcc": "datapath", "etcd3": "store", "grpc": "store",
             "flask": "api", "werkzeug": "api", "waitress": "api", "docker": "engine"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Layer, name below driver/, syntax tree."""
    for path in sorted(DRIVER.rglob("*.py")):
        relative = path.relative_to(DRIVER).with_suffix("")
        yield relative.parts[0], ".".join(relative.parts), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Full names of all imported modules, also those within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the layer"
            # `from driver import errors` imports driver.errors.
            yield from ((f"{node.module}.{alias.name}" for alias in node.names)
                        if node.module == "driver" else (str(node.module),))


def allowed(layer: str, target: str) -> bool:
    first = target.split(".", maxsplit=1)[0]
    if first == layer or first in SHARED:
        return True
    granted = MAY_IMPORT[layer]
    return first in granted or target in granted


def test_every_part_of_the_driver_has_its_rule() -> None:
    layers = {layer for layer, _, _ in modules()} - TOP - SHARED - {"__init__"}
    assert layers <= MAY_IMPORT.keys()


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_imports_point_one_way(layer: str) -> None:
    wrong = [f"{name} imports {target}" for owner, name, tree in modules() if owner == layer
             for target in imports(tree)
             if target.startswith("driver.") and not allowed(layer, target[len("driver."):])]
    assert wrong == []


def test_shared_modules_import_nothing_of_the_driver_but_each_other() -> None:
    wrong = [f"{name} imports {target}" for owner, name, tree in modules() if owner in SHARED
             for target in imports(tree)
             if target.startswith("driver.") and target.split(".")[1] not in SHARED]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_each_library_is_used_by_one_package(library: str) -> None:
    users = {layer for layer, _, tree in modules() for target in imports(tree)
             if target.split(".", maxsplit=1)[0] == library}
    # The doctor may only look whether a library is there.
    assert users - {"doctor"} <= {LIBRARIES[library]}


def test_only_settings_reads_the_environment() -> None:
    """os.environ: settings get it from the command line; two libraries are told by it."""
    users = {name for _, name, tree in modules() for node in ast.walk(tree)
             if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")}
    assert users <= {"__main__", "store.connection", "datapath.compiling"}


def test_every_module_opens_with_its_two_sentences() -> None:
    short = [name for _, name, tree in modules()
             if not name.endswith("__init__") and (ast.get_docstring(tree) or "").count(".") < 2]
    assert short == []
