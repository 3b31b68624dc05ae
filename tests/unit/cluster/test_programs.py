"""Tests how programs are run: by argument vectors, within a time, and what is told of them."""

from __future__ import annotations

import sys

import pytest

from driver.cluster import programs
from driver.cluster.programs import Etcdctl, ProgramFailed, run
from driver.errors import StoreUnavailable
from driver.store.etcd.connection import EtcdSettings


def test_nothing_is_read_by_a_shell() -> None:
    assert run([sys.executable, "-c", "import sys; print(sys.argv[1:])", "$HOME; a 'b'", "*"]) == (
        b"[\"$HOME; a 'b'\", '*']\n")
    assert run(["cat"], data=b"x") == b"x"


@pytest.mark.parametrize(("code", "said"), [
    ("import sys; print('noise', file=sys.stderr); sys.exit('the cause')", ": the cause$"),
    ("import sys; sys.exit(3)", ": status 3$"), ("print('out'); exit(1)", ": out$"),
    ("import sys; sys.stderr.buffer.write(b'\\xff\\n'); exit(1)", ": \ufffd$"),
    ("import sys; sys.exit('Error: first\\nother')", ": first$"),
    ("""import sys; sys.exit('{"level":"warn","error":"the cause"}\\n')""", ": the cause$")])
def test_the_cause_is_told(code: str, said: str) -> None:
    with pytest.raises(ProgramFailed, match=said):
        run([sys.executable, "-c", code])


def test_a_program_that_is_missing_or_never_ends() -> None:
    with pytest.raises(ProgramFailed, match="no-such-program is missing"):
        run(["no-such-program"])
    with pytest.raises(ProgramFailed, match="no end after"):
        run(["sleep", "60"], timeout_s=0.05)


def test_etcdctl(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    answer = [b'{"a": 1}']

    def fake(argv: list[str], **_: object) -> bytes:
        asked.append(argv)
        return answer[0]

    monkeypatch.setattr(programs, "run", fake)
    monkeypatch.setattr(programs.shutil, "which", lambda _: "etcdctl")
    ctl = Etcdctl(EtcdSettings(("https://a:1", "https://b:1"), ca="ca", cert="c", key="k"))
    assert ctl("member", "list") == {"a": 1}
    assert asked[-1][-2:] == ["member", "list"]
    assert {"--endpoints=https://a:1,https://b:1", "--cacert=ca", "--cert=c", "--key=k",
            "--write-out=json"} <= set(asked[-1])
    answer[0] = b"in words"
    assert ctl("member", "promote", "1", in_words=True) is None
    assert "--write-out=simple" in asked[-1]
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    with pytest.raises(StoreUnavailable, match="apt-get install etcd-client"):
        ctl("x")
