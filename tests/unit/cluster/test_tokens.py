"""Tests tokens: read back as written, refused with any typo, and silent about the secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.cluster import tokens
from driver.cluster.tokens import Token, new_secret, parse
from driver.errors import InvalidArgument

TOKEN = Token(bytes(range(32)), b"the secret of 16")
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16),
       st.sampled_from([str, str.upper, str.lower]), st.sampled_from(["", " ", "\n", "\t "]))
def test_what_was_printed_is_read(fingerprint: bytes, secret: bytes, spelt: type[str], around: str
                                  ) -> None:
    token = Token(fingerprint, secret)
    assert parse(around + spelt(str(token)) + around) == token
    assert str(token).isascii()
    assert len(str(token).split()) == 1


@pytest.mark.parametrize("position", range(len(str(TOKEN))))
def test_a_typo_is_noticed_wherever_it_is(position: int) -> None:
    text = str(TOKEN)
    for other in {*ALPHABET, "1", "-", " ", "\u017f", "\u212a", ""} - {text[position].lower()}:
        with pytest.raises(InvalidArgument) as caught:
            parse(text[:position] + other + text[position + 1:])
        assert_says_nothing(str(caught.value))


@given(st.integers(0, len(str(TOKEN)) - 2))
def test_swapped_characters_and_a_missing_end_are_noticed(at: int) -> None:
    text = str(TOKEN)
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2:]
    for wrong in {swapped, text[:at], text[at + 1:], text + text[at], text * 2} - {text}:
        with pytest.raises(InvalidArgument) as caught:
            parse(wrong)
        assert_says_nothing(str(caught.value))


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="slim cluster token"):
        parse(text)


def test_another_version_says_what_to_do() -> None:
    with pytest.raises(InvalidArgument, match=r"version 2.*install the slim"):
        parse(str(TOKEN).replace("SLIM-1-", "SLIM-2-"))


def assert_says_nothing(text: str) -> None:
    for part in str(TOKEN).split("-")[2:]:
        assert not any(part[at:at + 6] in text.lower() for at in range(len(part) - 6))
    assert TOKEN.secret.decode() not in text
    assert TOKEN.secret.hex() not in text


def test_neither_its_name_nor_its_representation_has_the_secret() -> None:
    assert_says_nothing(repr(TOKEN))
    assert_says_nothing(TOKEN.name)
    assert_says_nothing(TOKEN.proof(b"request"))
    assert len(TOKEN.name) == 16
    assert TOKEN.name != Token(TOKEN.fingerprint, b"the secret of 17").name


def test_a_proof_is_of_one_secret_and_one_request() -> None:
    right = TOKEN.proof(b"request")
    assert tokens.proof(TOKEN.secret, b"request") == right
    assert right not in (TOKEN.proof(b"request2"), tokens.proof(b"x" * 16, b"request"))


def test_secrets_are_not_guessed() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(secret) for secret in made} == {16}
