"""Tests the agent and the harness's side of it, over pipes instead of `docker exec`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.harness import engine
from bench.harness.engine import Agent, Engine
from bench.harness.errors import BenchError
from tests.conftest import PROJECT
from tests.support.run.wait import wait_until

PROGRAM = PROJECT / "bench" / "programs" / "agent.py"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent on this machine: the docker client is a stand-in that ignores the container."""
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\nexec {sys.executable} {PROGRAM}\n")
    client.chmod(0o755)
    with Agent(Engine("here", (str(client),)), "container") as made:
        yield made


def test_it_runs_a_command_between_two_readings(agent: Agent) -> None:
    done = agent.run(["sh", "-c", "echo out; echo err >&2"], 10, {"BIND_ADDRESS": "10.0.0.1"})
    assert (done["out"], done["err"]) == ("out\n", "err\n")
    for kind in ("user", "system", "softirq"):
        assert done["after"]["cpu"][kind] >= done["before"]["cpu"][kind]
    assert done["before"]["boot_id"] == agent.ask("machine")["boot_id"]


def test_a_command_that_fails_says_what_it_said(agent: Agent) -> None:
    with pytest.raises(BenchError, match="ended with 3: no such server"):
        agent.run(["sh", "-c", "echo no such server >&2; exit 3"], 10)


@pytest.mark.parametrize(("action", "arguments", "says"), [
    ("run", {"argv": ["no-such-program"]}, "FileNotFoundError"),
    ("run", {"argv": ["sleep", "60"], "timeout_s": 0.1}, "TimeoutExpired"),
    ("wait", {"host": "127.0.0.1", "port": 1, "timeout_s": 0}, "127.0.0.1:1"),
    ("dance", {}, "KeyError"),
])
def test_errors_are_answers(agent: Agent, action: str, arguments: dict[str, object], says: str
                            ) -> None:
    with pytest.raises(BenchError, match=says):
        agent.ask(action, **arguments)
    assert agent.ask("read")["slab_kb"] > 0  # it goes on


def test_a_late_answer_is_not_taken_for_the_next_one(
        agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SLACK_S", 0.0)
    with pytest.raises(BenchError, match="did not answer to 'run' in time"):
        agent.ask("run", argv=["sleep", "0.3"])
    monkeypatch.setattr(engine, "SLACK_S", 30.0)
    assert agent.ask("log") == {"id": 2, "log": ""}


def test_servers_end_with_all_that_they_started(agent: Agent, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    agent.ask("start", argv=["sh", "-c", f"sleep 100 & echo $$ $! > {pids}.new; "
                             f"mv {pids}.new {pids}; wait"])
    agent.run(["sh", "-c", f"until test -e {pids}; do :; done"], 10)
    agent.ask("stop")
    wait_until(lambda: not any(map(_lives, pids.read_text().split())), 5, "all have ended")


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_agent_that_is_gone_is_named(tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'No such container: x' >&2; exit 1\n")
    client.chmod(0o755)
    with Agent(Engine("here", (str(client),)), "x") as gone, pytest.raises(
            BenchError, match="x on here is gone: No such container: x"):
        gone.ask("read")
    with pytest.raises(BenchError, match="here: docker ps -a: No such container"):
        Engine("here", (str(client),)).docker("ps", "-a")


def test_held_programs_wait_until_they_are_released(agent: Agent) -> None:
    held = agent.ask("hold", argvs=[["sh", "-c", "echo '{\"open\": 7}'; cat"]] * 2)
    assert [json.loads(line)["open"] for line in held["lines"]] == [7, 7]
    agent.ask("release")
    assert agent.ask("hold", argvs=[])["lines"] == []
