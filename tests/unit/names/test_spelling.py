"""Tests which texts can be names, and which of them are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.services.names.spelling import LABEL_MAX, LABELS_MAX, NAME_MAX, spelled

LONGEST_LABEL = "l" * LABEL_MAX
LONGEST = ".".join([LONGEST_LABEL] * 3 + ["l" * (NAME_MAX - 3 * (LABEL_MAX + 1))])


@pytest.mark.parametrize(("text", "name"), [
    ("web", "web"), ("Web", "web"), ("web.", "web"), (" web\n", "web"), ("my_web-1", "my_web-1"),
    ("web.app", "web.app"), ("8b1f6c2a9d3e", "8b1f6c2a9d3e"),
    (LONGEST_LABEL, LONGEST_LABEL), (LONGEST, LONGEST), (f"{LONGEST}.", LONGEST)])
def test_what_can_be_asked_for(text: str, name: str) -> None:
    assert spelled(text) == name


@pytest.mark.parametrize("text", [
    "", " ", ".", "..", "web..app", ".web", "web..", "my web", "we\tb", "we\0b", "büro",
    "\u212a",  # whose lower case is a k
    LONGEST_LABEL + "l", LONGEST + "l", "a." * LABELS_MAX + "a",
    "we@b", "we$b", "we;b", "(web)", 'we"b', "we\\.b"])
def test_what_cannot_be_asked_for(text: str) -> None:
    assert spelled(text) == ""


@given(st.text())
def test_a_spelled_name_is_spelled_as_itself(text: str) -> None:
    assert spelled(spelled(text)) == spelled(text)
