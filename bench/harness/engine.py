"""Runs commands on a Docker engine, and through the agents in its containers.

The engine may be in the lab or on another machine.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bench.harness.errors import BenchError

AGENT = ("python3", "/programs/agent.py")
SLACK_S = 30.0  # how long an answer may take beyond the command's own time


@dataclass(frozen=True)
class Engine:
    """A Docker engine; `client` is the command line that reaches it."""

    name: str
    client: tuple[str, ...]

    def docker(self, *argv: str, data: bytes | None = None, timeout_s: float = 120) -> str:
        """Run the client; return its output, stripped.  Error: BenchError."""
        try:
            # A session of its own: a second Ctrl-C must not end the client that cleans up.
            done = subprocess.run([*self.client, *argv], input=data, capture_output=True,
                                  check=False, timeout=timeout_s, start_new_session=True)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name}: docker {argv[0]} took over {timeout_s:g} s") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise BenchError(f"{self.name}: docker {' '.join(argv[:2])}: {said[-1500:]}")
        return done.stdout.decode(errors="replace").strip()


class Agent:
    """Runs bench/programs/agent.py in a container until the end of the block."""

    def __init__(self, engine: Engine, container: str) -> None:
        self.name = f"{container} on {engine.name}"
        # A session of its own: Ctrl-C must reach us only, since cleaning up needs the agents.
        self._process = subprocess.Popen(
            [*engine.client, "exec", "-i", container, *AGENT], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        self._buffer = b""
        self._asked = 0

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, action: str, takes_s: float = 0, **arguments: Any) -> dict[str, Any]:
        """Have the agent do something that takes at most `takes_s`.  Error: BenchError."""
        assert self._process.stdin is not None
        self._asked += 1
        question = {"id": self._asked, "do": action, **arguments}
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} is gone: {self._said()}") from None
        deadline = time.monotonic() + takes_s + SLACK_S
        answer: dict[str, Any] = {}
        while answer.get("id") != self._asked:  # skip late answers to questions given up
            answer = json.loads(self._line(deadline, action))
        if "error" in answer:
            raise BenchError(f"{self.name}: {action}: {answer['error']}")
        return answer

    def run(self, argv: Sequence[str], timeout_s: float, env: dict[str, str] | None = None
            ) -> dict[str, Any]:
        """Run a command in the container; return output and both readings.  Error: BenchError."""
        done = self.ask("run", timeout_s, argv=list(argv), env=env, timeout_s=timeout_s)
        if done["status"] != 0:
            raise BenchError(f"{self.name}: {' '.join(argv)} ended with {done['status']}: "
                             f"{(done['err'] or done['out'])[-1000:]}")
        return done

    def _line(self, deadline: float, action: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BenchError(f"{self.name} did not answer to {action!r} in time")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise BenchError(f"{self.name} is gone: {self._said()}")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _said(self) -> str:
        self._process.kill()
        return self._process.communicate()[1].decode(errors="replace").strip()[-1000:]
