"""Tests that no secret leaves this host in a bundle, in whatever text it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from driver.settings import Settings
from driver.support.redacting import LEFT_OUT, Redacting, secrets_of

TOKEN = "SLIM-1-3f9a01bc-x_Yz-000111"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIB\nabcdef==\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(("text", "expected"), [
    ("https://root:pass@word@etcd:2379/x", f"https://{LEFT_OUT}@etcd:2379/x"),
    ("etcd=http://10.0.0.1:2379", "etcd=http://10.0.0.1:2379"),
    (f"join 10.0.0.1 {TOKEN} now", f"join 10.0.0.1 {LEFT_OUT} now"),
    ("SWMTKN-1-abc-def\n", f"{LEFT_OUT}\n"),
    (f"a {KEY} b", f"a {LEFT_OUT} b"),
    ("cut off: -----BEGIN PRIVATE KEY-----\nMHcCAQEE", f"cut off: {LEFT_OUT}"),
    ('{"password": "x y", "b": 1}', f'{{"password": {LEFT_OUT}, "b": 1}}'),
    ("Authorization: Bearer", f"Authorization: {LEFT_OUT}"),
    ("etcd_password_file=/etc/slim/p", "etcd_password_file=/etc/slim/p"),
], ids=lambda text: text[:20])
def test_what_looks_like_a_secret_is_left_out(text: str, expected: str) -> None:
    assert Redacting()(text) == expected


def test_what_is_known_to_be_secret_is_left_out_wherever_it_stands(tmp_path: Path) -> None:
    password, folder = tmp_path / "p", tmp_path / "cluster" / "keys"
    folder.mkdir(parents=True)
    password.write_text("correct horse\n")
    (folder / "host.key").write_text(KEY)
    (folder / "join-token").write_text("correct horse battery")
    (folder / "host.crt").write_text("this is for everybody")
    settings = replace(Settings(), etcd_password_file=str(password), etcd_key=str(tmp_path / "no"),
                       cluster=str(tmp_path / "cluster"), state=str(tmp_path / "none"))
    clean = Redacting(secrets_of(settings))
    said = clean("x correct horse y MHcCAQEEIB, correct horse battery; this is for everybody")
    assert said == f"x {LEFT_OUT} y {LEFT_OUT}, {LEFT_OUT}; this is for everybody"


def test_a_short_password_does_not_take_other_words_out() -> None:
    assert Redacting(("a",))("a table") == "a table"
