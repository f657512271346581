"""What the server must know of its certificate: whether it is one, whether the key is its own, when it ends."""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mattebox_server.errors import StartupError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _VERSION = 0x17, 0xA0
_MISMATCH = "KEY_VALUES_MISMATCH"
_RSA, _ECDSA = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a8648ce3d0201")
_P256, _P384 = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2b81040022")
_KEY_KINDS = ((_RSA, b""), (_ECDSA, _P256), (_ECDSA, _P384))


@dataclass(frozen=True)
class TlsFiles:
    """Where they are, all in PEM.

    Args:
        certificate: of the server, followed by the chain to the authority.
        key: of the certificate, without a passphrase.
        client_ca: authorities of the callers' certificates, which callers then must have; None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class Element:
    """One value of ASN.1 in DER.

    Args:
        tag: what it is.
        content: its bytes, without tag and length.
    """

    tag: int
    content: bytes


def check_certificate(path: Path, chain: bytes) -> datetime:
    """Proves that a file begins with a certificate that gRPC can use; returns when it ends.

    Raises:
        StartupError: it doesn't.
    """
    found = _PEM.search(chain.decode("ascii", "replace"))
    if found is None:
        raise StartupError(f"tls_certificate: {path} holds no certificate in PEM")
    try:
        end, key_kind = _end_and_key_kind(ssl.PEM_cert_to_DER_cert(found[0]))
    except (ValueError, IndexError, StopIteration) as error:
        raise StartupError(f"tls_certificate: {path} holds a broken certificate") from error
    if key_kind not in _KEY_KINDS:  # else gRPC would keep the old one in silence, or find no caller who takes it
        raise StartupError(f"tls_certificate: {path} must have a key of RSA, or of ECDSA with P-256 or P-384")
    return end


def check_pair(certificate: Path, key: Path) -> None:
    """Proves that the key is the certificate's.

    Raises:
        StartupError: it is not, or one of them is broken.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # else OpenSSL would ask the terminal
    except ssl.SSLError as error:
        if error.reason == _MISMATCH:
            raise StartupError(f"tls_key: {key} is not the key of tls_certificate {certificate}") from error
        why = f" ({error.reason})" if error.reason else ""
        what = f"tls_key: {key} is no private key in PEM without a passphrase, or the chain {certificate} is broken"
        raise StartupError(what + why) from error
    except OSError as error:
        raise StartupError(f"tls_key: can't read {key} and {certificate}: {error.strerror}") from error


def check_authorities(path: Path, pem: bytes) -> None:
    """Proves that a file holds certificates of authorities. Raises StartupError."""
    try:
        # Notes between the certificates may be in any language; those of the standard library must be ASCII.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(f"tls_client_ca: {path} holds no certificate in PEM, or a broken one") from error


def _end_and_key_kind(der: bytes) -> tuple[datetime, tuple[bytes, ...]]:
    """The standard library reads these only of certificates that a peer has proven.

    Certificate > TBSCertificate > version, serial number, signature, issuer, validity, subject, key (RFC 5280, 4.1), of
    which the version may be missing.
    """
    certificate = next(_elements(der))
    fields = list(_elements(next(_elements(certificate.content)).content))
    validity, _, key = fields[4:7] if fields[0].tag == _VERSION else fields[3:6]
    _, end = _elements(validity.content)
    algorithm = next(_elements(key.content))
    return _time(end), tuple(part.content for part in _elements(algorithm.content))


def _elements(der: bytes) -> Iterator[Element]:
    """The values that stand one behind the other. Raises IndexError where they are cut off."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:  # the length of the length
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size])
            at += size
        if at + length > len(der):
            raise IndexError("cut off")
        yield Element(tag, der[at : at + length])
        at += length


def _time(element: Element) -> datetime:
    """UTCTime has two digits of the year, from 1950 on; GeneralizedTime has four."""
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
