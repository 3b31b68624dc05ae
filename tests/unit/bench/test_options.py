"""Tests the benchmark's command line: what it accepts, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import main
from bench.harness import networks, options
from bench.harness.errors import BenchError
from bench.harness.workloads import GROUPS, SERVERS, WORKLOADS


def test_the_defaults_measure_everything() -> None:
    found = options.parse([])
    assert found.workloads == WORKLOADS
    assert found.networks == networks.KNOWN
    assert (found.scopes, found.rounds, found.seconds) == (("cross", "local"), 7, 1.0)
    assert (found.out, found.strict, found.fabrics) == (options.LATEST, False, ("plain",))


def test_quick_is_small_and_leaves_the_latest_results_alone() -> None:
    found = options.parse(["--quick"])
    assert (found.rounds, found.seconds, found.out) == (3, 0.5, options.QUICK)
    assert found.networks == ("host", "slim", "overlay")
    assert options.parse(["--quick", "--rounds", "9", "--networks", "host,x"]).rounds == 9


def test_names_with_commas_and_groups() -> None:
    found = options.parse(["--only", "nginx, keep-alive,redis, connections, server closes"])
    assert [w.name for w in found.workloads] == [
        "connections, server closes", "nginx, keep-alive", "redis"]
    assert [w.name for w in options.parse(["--only", "nginx"]).workloads] == [
        "nginx, keep-alive", "nginx, a connection each"]


def test_any_network_of_docker_by_its_name() -> None:
    found = options.parse(["--networks", "weave,slim,host"])
    assert found.networks == ("host", "slim", "weave")
    assert found.strict
    assert networks.plan("weave", found.settings) == networks.Plan("weave", "weave")


def test_contexts() -> None:
    found = options.parse(["--contexts", "a,b", "--addresses", "10.0.0.1,10.0.0.2"])
    assert (found.contexts, found.addresses) == (("a", "b"), ("10.0.0.1", "10.0.0.2"))
    assert "macvlan" not in found.networks  # its device is unknown
    assert "macvlan" in options.parse(
        ["--contexts", "a,b", "--macvlan-parent", "eth1"]).networks
    assert options.parse(["--contexts", "a"]).scopes == ("local",)


@pytest.mark.parametrize(("argv", "says"), [
    (["--contexts", "a,b,c"], "one or two Docker contexts"),
    (["--contexts", ","], "one or two Docker contexts"),
    (["--contexts", "a", "--scopes", "cross"], "needs two hosts"),
    (["--contexts", "a,b", "--addresses", "10.0.0.1"], "one underlay address for each"),
    (["--contexts", "a,b", "--addresses", "10.0.0.1,h2"], "--addresses: Expected 4 octets"),
    (["--contexts", "a,b", "--fabric", "plain"], "for the lab"),
    (["--contexts", "a,b", "--networks", "host,macvlan"], "--macvlan-parent"),
    (["--networks", ","], "nothing to compare"),
    (["--networks", "bridge,overlay"], "nothing to compare with"),
    (["--scopes", "remote"], "remote is not among cross, local"),
    (["--fabric", "infiniband"], "infiniband is not among plain, no-offload, mtu-9000"),
    (["--only", "ngix"], "no group or workload 'ngix'"),
    (["--only", ""], "nothing to run"),
    (["--rounds", "-1"], "--rounds must be from 1 to 1000, not -1"),
    (["--rounds", "0"], "--rounds must be from 1 to 1000, not 0"),
    (["--seconds", "0.01"], "--seconds must be from 0.1"),
    (["--port", "80"], "--port must be from 1024"),
    (["--subnet", "10.0.0.1/16"], "--subnet: 10.0.0.1/16 has host bits set"),
])
def test_words_for_what_makes_no_sense(argv: list[str], says: str,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match=says.replace("(", r"\(")):
        options.parse(argv)
    assert main.main(argv) == 2  # before anything is started
    assert says in capsys.readouterr().out


def test_a_file_that_holds_no_results_is_refused_before_the_run(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "latest.json"
    wrong.write_text('[{"workload": "x"}]')
    assert main.main(["--out", str(wrong)]) == 2
    assert "does not hold results of this version" in capsys.readouterr().out


def test_the_list_names_every_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(workload.name in shown for workload in WORKLOADS)
    assert [line.partition(":")[0] for line in shown.splitlines()] == list(GROUPS)


def test_servers_of_all_workloads_fit_beside_each_other() -> None:
    """On the host's network they share its ports; netbench takes the first eight."""
    offsets = [server.offset for server in SERVERS.values()]
    assert len(set(offsets)) == len(offsets)
    assert max(offsets) < 32
    assert sorted(offsets)[:2] == [0, 8]


def test_each_network_says_how_it_is_made() -> None:
    settings = networks.Settings(macvlan_parent="eth0", mtu=9000)
    plans = {name: networks.plan(name, settings) for name in networks.KNOWN}
    assert plans["host"].create == {}
    assert plans["slim"].docker_name == plans["slim-overlay"].docker_name
    assert [p.name for p in plans.values() if p.bound] == ["slim-overlay"]
    assert "com.docker.network.driver.mtu=8950" in plans["overlay"].create[networks.CLIENT]
    assert plans["bridge"].scopes == ("local",)
    # On one host slim has only one path.
    assert (plans["slim"].scopes, plans["slim-overlay"].scopes) == (("cross", "local"), ("cross",))
    ranges = [plans["macvlan"].create[side][-1] for side in (0, 1)]
    assert len(set(ranges)) == 2  # no address twice
