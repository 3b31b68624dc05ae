"""Tests the import graph: each room's allowed neighbours, no circle, each library in one place.

A room is a folder below driver/ with modules; each module in driver/ itself is a room, too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parents[3] / "driver"

# All rooms may import these, which import only each other.
SHARED = {"errors", "model", "work"}
# These put everything together, so they may import anything; no other room imports them.
TOP = {"__main__", "commands", "commands.cluster", "compose", "compose.parts", "doctor",
       "support"}

# Room -> what it may import besides itself and SHARED.
MAY_IMPORT: dict[str, set[str]] = {
    "client_ports": set(),
    "host_addresses": set(),
    "settings": {"host_addresses"},
    "process": set(),
    "ipam": set(),
    "services": set(),
    "services.ports": set(),
    "services.notes": {"services.ports"},
    "services.peers": {"services.ports"},
    "services.directory": {"services.peers", "services.ports"},
    "services.vips": {"services.directory", "services.ports"},
    "services.sandboxes": {"services", "services.ports"},
    "services.addresses": {"ipam", "services.notes", "services.ports"},
    "services.swarm": {"ipam", "services.addresses", "services.ports"},
    "services.hosts": {"services.addresses", "services.ports"},
    "services.endpoints": {"services.notes", "services.ports", "services.sandboxes"},
    "services.networks": {"services", "services.addresses", "services.endpoints",
                          "services.notes", "services.ports", "services.vips"},
    "services.names": {"services.ports"},
    "services.testing": {"services.ports"},
    "services.seeing": {"services.names", "services.ports"},
    "services.watching": {"services.ports", "services.seeing"},
    "services.upkeep": {"services.addresses", "services.directory", "services.endpoints",
                        "services.networks", "services.notes", "services.ports",
                        "services.vips"},
    "api": {"services", "services.endpoints", "services.networks", "services.ports",
            "services.seeing", "services.watching"},
    "api.page": set(),
    "store.kv": set(),
    "store.format": {"host_addresses", "services.ports", "store.kv"},
    "store.etcd": {"store.format", "store.kv"},
    "store.feeds": {"services.ports", "store.format", "store.kv"},
    "store.hosts": {"store.format", "store.kv"},
    "store": {"services.ports", "store.feeds", "store.format", "store.kv"},
    "state": {"services.ports", "store.format"},
    "cluster": {"host_addresses", "process", "state", "store.etcd", "store.format", "store.kv"},
    "cluster.etcd": {"cluster", "store.etcd", "store.format"},
    "cluster.door": {"cluster", "cluster.etcd"},
    "cluster.keeping": {"cluster", "cluster.door", "cluster.etcd", "store.etcd", "store.kv"},
    "cluster.changes": {"cluster", "cluster.door", "cluster.etcd", "state", "store.etcd",
                        "store.format"},
    "engine": {"services.ports"},
    "dns": {"services.ports"},
    "metrics": set(),
    "link.netlink": set(),
    "link.pairs": {"link.netlink", "services.ports"},
    "link.underlay": {"client_ports", "host_addresses", "link.netlink", "link.pairs",
                      "services.ports"},
    "link.sandbox": {"link.netlink", "link.pairs", "link.underlay", "services.ports"},
    "datapath.code": set(),
    "datapath.loading": {"client_ports", "datapath.code"},
    "datapath.build": {"datapath.code", "datapath.loading"},
    "datapath.tables": {"datapath.code", "datapath.loading", "services.ports"},
    "datapath": {"datapath.code", "datapath.loading", "datapath.tables", "services.ports"},
}
LIBRARIES = {"pyroute2": "link", "bcc": "datapath", "etcd3": "store.etcd", "grpc": "store.etcd",
             "cryptography": "cluster",
             "flask": "api", "werkzeug": "api", "waitress": "api", "docker": "engine",
             "dns": "dns", "prometheus_client": "metrics"}


def room(module: str) -> str:
    """Return the room of a module, or of a name in it: its longest folder below driver/."""
    parts = module.split(".")
    while len(parts) > 1 and not DRIVER.joinpath(*parts).is_dir():
        parts.pop()
    return ".".join(parts)


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Yield each module's room, name below driver/, and syntax tree."""
    for path in sorted(DRIVER.rglob("*.py")):
        name = ".".join(path.relative_to(DRIVER).with_suffix("").parts)
        yield room(name.removesuffix(".__init__")), name, ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the full names of all imports, also within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide the room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree: ast.Module) -> Iterator[str]:
    for name in imports(tree):
        if name.startswith("driver.") and name != "driver.__version__":
            yield room(name.removeprefix("driver."))


def test_every_room_has_its_rule() -> None:
    rooms = {owner for owner, _, tree in modules() if tree.body} - TOP - SHARED - {"__init__"}
    assert rooms - {"link"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("owner", sorted(MAY_IMPORT))
def test_a_room_imports_its_neighbours_only(owner: str) -> None:
    wrong = [f"{name} imports {target}" for each, name, tree in modules() if each == owner
             for target in rooms_imported(tree)
             if target not in MAY_IMPORT[owner] | SHARED | {owner}]
    assert wrong == []


def test_no_neighbour_is_allowed_for_nothing() -> None:
    used: dict[str, set[str]] = {}
    for owner, _, tree in modules():
        used.setdefault(owner, set()).update(rooms_imported(tree))
    assert {owner: allowed - used[owner] for owner, allowed in MAY_IMPORT.items()
            if allowed - used[owner]} == {}


def test_every_folder_is_a_package() -> None:
    """Else `pip install` leaves it out; git may have been told to ignore such a folder."""
    folders = {path.parent for path in DRIVER.rglob("*.py")}
    assert [str(each) for each in folders if not (each / "__init__.py").is_file()] == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    left = dict(MAY_IMPORT)
    while free := {owner for owner, allowed in left.items() if not allowed & left.keys()}:
        for owner in free:
            del left[owner]
    assert left == {}


def test_what_is_shared_imports_nothing_else_of_the_driver() -> None:
    wrong = [f"{name} imports {target}" for owner, name, tree in modules() if owner in SHARED
             for target in rooms_imported(tree) if target not in SHARED]
    assert wrong == []


def test_parts_are_built_without_knowing_who_orders_them() -> None:
    assert [name for owner, name, tree in modules() if owner == "compose.parts"
            and "compose" in rooms_imported(tree)] == []


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_each_library_is_used_in_one_place(library: str) -> None:
    users = {owner for owner, _, tree in modules() for target in imports(tree)
             if target.split(".", maxsplit=1)[0] == library}
    # The doctor may import a library to see whether it is there.
    place = LIBRARIES[library]
    assert {user for user in users - {"doctor"}
            if user != place and not user.startswith(f"{place}.")} == set()


def test_only_settings_reads_the_environment() -> None:
    """Settings get os.environ from __main__; two libraries take options only from it."""
    users = {name for _, name, tree in modules() for node in ast.walk(tree)
             if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
             and ast.unparse(node.value) == "os"}
    assert users <= {"__main__", "store.etcd.connection", "datapath.build.compiling"}


def test_every_module_says_in_a_sentence_what_it_does() -> None:
    opening = {name: (ast.get_docstring(tree) or "").partition("\n\n")[0]
               for _, name, tree in modules() if not name.endswith("__init__")}
    assert [name for name, said in opening.items() if not said.endswith((".", "?"))] == []
    assert [name for name, said in opening.items() if said.startswith("Owns ")] == []


@pytest.mark.parametrize("folder", ["tests", "bench"])
def test_so_does_every_module_of(project: Path, folder: str) -> None:
    opening = {str(path.relative_to(project)): (ast.get_docstring(ast.parse(path.read_text())) or ""
                                                ).partition("\n\n")[0]
               for path in sorted((project / folder).rglob("*.py")) if path.name != "__init__.py"}
    assert [name for name, said in opening.items() if not said.endswith((".", "?", ":"))] == []
    assert [name for name, said in opening.items() if said.startswith("Owns ")] == []
