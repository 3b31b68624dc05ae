"""Makes the cluster's certificate authority and the certificates it signs (X.509, RFC 5280).

Keys are on the curve P-256.  A certificate says by its common name who somebody is, and by its
usages what it is good for: a host's own is for clients only, so it can be no server's.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from driver.errors import InvalidArgument, SettingsError

CA_DAYS = 3650
CLOCK_SKEW = datetime.timedelta(hours=1)  # a certificate is valid from before it was made
PEER_NAME = "slim-peer"  # common name of members' certificates among themselves
ROOT_NAME = "root"  # etcd's own name for the user who may do everything
HOST_PREFIX = "host-"


class Usage(Enum):
    """What a certificate may be used for."""

    CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    PEER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """The CA: its certificate and private key, PEM."""

    certificate: bytes
    key: bytes

    def sign(self, request: bytes, name: str, usage: Usage, *, seconds: float,
             addresses: tuple[str, ...] = ()) -> bytes:
        """Return a certificate, PEM, for the public key of a CSR (RFC 2986), PEM.

        Only the key is taken from the request: who somebody is, the caller knows better.
        addresses: IP addresses at which a server of this name answers.
        Error: InvalidArgument (no CSR, or its signature is wrong).
        """
        try:
            csr = x509.load_pem_x509_csr(request)
            if not csr.is_signature_valid:
                raise InvalidSignature
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise InvalidArgument("the certificate request cannot be read, or its signature is "
                                  "wrong") from error
        issuer = x509.load_pem_x509_certificate(self.certificate)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name)).issuer_name(issuer.subject).public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - CLOCK_SKEW)
            .not_valid_after(_now() + datetime.timedelta(seconds=seconds))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage.value), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(
                issuer.public_key()), critical=False))  # type: ignore[arg-type]
        if addresses:
            builder = builder.add_extension(x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]),
                critical=False)
        signed = builder.sign(_private(self.key), hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, usage: Usage, *, seconds: float, addresses: tuple[str, ...] = (),
              key: bytes = b"") -> Issued:
        """Sign the certificate of a key, a new one if none is given, for a file on this host."""
        request, key = new_request(name, key)
        return Issued(self.sign(request, name, usage, seconds=seconds, addresses=addresses), key)


def new_authority(cluster: str) -> Authority:
    """Make the CA of a cluster; its certificate names the cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"slim cluster {cluster}".encode()[:64].decode(errors="ignore"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_SKEW)
        .not_valid_after(_now() + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256()))
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def new_request(name: str, key: bytes = b"") -> tuple[bytes, bytes]:
    """Return a certificate request and its private key, both PEM.

    key: for this one; b"", or one that cannot be read: for a new one.
    """
    private = _readable(key) or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(
        private, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM), _pem(private)


def fingerprint(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate (PEM) in DER.  Error: InvalidArgument."""
    try:
        return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())
    except ValueError as error:
        raise InvalidArgument("no certificate") from error


@dataclass(frozen=True)
class Validity:
    """Unix times, in seconds, between which a certificate is valid."""

    since_s: float
    until_s: float

    def is_due(self, now_s: float) -> bool:
        """Tell whether it is time to renew it: a third of its life is left."""
        return now_s > self.until_s - (self.until_s - self.since_s) / 3


def validity(certificate: bytes, what: str) -> Validity:
    """Return when a certificate (PEM) is valid.  Error: SettingsError, which names `what`."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise SettingsError(f"{what} holds no certificate (PEM): {error}") from error
    return Validity(found.not_valid_before_utc.timestamp() + CLOCK_SKEW.total_seconds(),
                    found.not_valid_after_utc.timestamp())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False)


def _readable(key: bytes) -> ec.EllipticCurvePrivateKey | None:
    try:
        return _private(key)
    except (ValueError, TypeError, UnsupportedAlgorithm, SettingsError):
        return None


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key, None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise SettingsError("the CA's key is of another kind than slim makes")
    return loaded


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
