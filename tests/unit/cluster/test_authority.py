"""Tests the certificates: what each is good for, whose it is, how long it is valid."""

from __future__ import annotations

import contextlib
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from driver.cluster.authority import (
    Usage,
    Validity,
    fingerprint,
    new_authority,
    new_request,
    validity,
)
from driver.errors import InvalidArgument, SettingsError

AUTHORITY = new_authority("test")


def read(certificate: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate)


@pytest.mark.parametrize("usage", Usage)
def test_a_certificate_says_who_it_is_and_what_for(usage: Usage) -> None:
    request, _ = new_request("whoever")
    made = read(AUTHORITY.sign(request, "host-1", usage, seconds=100, addresses=("192.0.2.1",)))
    made.verify_directly_issued_by(read(AUTHORITY.certificate))
    assert made.subject.rfc4514_string() == "CN=host-1"  # and not what the request says
    assert made.public_key() == x509.load_pem_x509_csr(request).public_key()
    assert set(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == set(
        usage.value)
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]


def test_a_hosts_own_certificate_can_be_no_servers() -> None:
    assert ExtendedKeyUsageOID.SERVER_AUTH not in Usage.CLIENT.value


def test_the_authority_signs_nothing_but_ends() -> None:
    made = read(AUTHORITY.certificate)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert new_authority("test").key != AUTHORITY.key


@pytest.mark.parametrize("name", ["x", "a name with spaces", "x" * 300, "ü" * 300, "€" * 60])
def test_any_cluster_may_be_called_anything(name: str) -> None:
    assert read(new_authority(name).certificate).subject.rfc4514_string().startswith(
        "CN=slim cluster ")


def foreign_request(key: object) -> bytes:
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(
        key, hashes.SHA256()).public_bytes(  # type: ignore[arg-type]
            serialization.Encoding.PEM)


def test_a_request_that_proves_no_key_is_refused() -> None:
    request, _ = new_request("x")
    other, _ = new_request("x")
    lines, others = request.decode().splitlines(), other.decode().splitlines()
    mixed = "\n".join([*lines[:-3], *others[-3:], ""]).encode()
    for wrong in (b"", b"garbage", AUTHORITY.certificate, mixed, request[:100],
                  b"\xff" * 100):
        with pytest.raises(InvalidArgument, match="request cannot be read"):
            AUTHORITY.sign(wrong, "x", Usage.CLIENT, seconds=1)


def test_kinds_of_keys_that_slim_does_not_make() -> None:
    """Whoever has the token may send anything."""
    for key in (ec.generate_private_key(ec.SECP521R1()), dsa.generate_private_key(1024)):
        with contextlib.suppress(InvalidArgument):
            AUTHORITY.sign(foreign_request(key), "x", Usage.CLIENT, seconds=1)


def test_a_key_may_stay() -> None:
    first = AUTHORITY.issue("x", Usage.CLIENT, seconds=10)
    second = AUTHORITY.issue("x", Usage.CLIENT, seconds=20, key=first.key)
    assert second.key == first.key
    assert second.certificate != first.certificate
    for unusable in (b"", b"garbage", first.certificate):
        assert AUTHORITY.issue("x", Usage.CLIENT, seconds=1, key=unusable).key not in (
            unusable, first.key)


def test_fingerprints() -> None:
    assert len(fingerprint(AUTHORITY.certificate)) == 32
    assert fingerprint(AUTHORITY.certificate) != fingerprint(new_authority("test").certificate)
    for wrong in (b"", b"garbage", AUTHORITY.key):
        with pytest.raises(InvalidArgument):
            fingerprint(wrong)


def test_a_certificate_is_valid_for_as_long_as_asked() -> None:
    """Also where clocks differ by an hour; what it was given for is known from it."""
    before_s = time.time()
    made = AUTHORITY.issue("x", Usage.CLIENT, seconds=86400)
    found = validity(made.certificate, "x")
    assert before_s - 2 < found.since_s < time.time() + 2
    assert found.until_s - found.since_s == 86400
    assert read(made.certificate).not_valid_before_utc.timestamp() < before_s - 3500


def test_it_is_renewed_when_a_third_is_left() -> None:
    life = Validity(1000.0, 1900.0)
    assert [life.is_due(now_s) for now_s in (900.0, 1000.0, 1599.0, 1601.0, 1900.0, 5000.0)] == [
        False, False, False, True, True, True]


def test_a_file_without_a_certificate_is_named() -> None:
    with pytest.raises(SettingsError, match=r"host\.crt holds no certificate"):
        validity(b"garbage", "host.crt")
