"""A certificate authority for tests, whose certificates end when a test says."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

_PLACES = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """As files, which replace those of that name at once; returns their paths."""
        paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            replace(path, content)
        return paths


class Authority:
    """Signs certificates for `localhost` and 127.0.0.1."""

    def __init__(self, name: str = "Mattebox tests") -> None:
        self._name, self._key = _named(name), ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self._key, datetime.now(UTC) + timedelta(days=365), authority=True)

    def issue(
        self, name: str = "localhost", days: float = 90, key: Key | None = None, end: datetime | None = None
    ) -> Pair:
        """A certificate that ends after some days (before now, if they are negative) or at a moment."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        return Pair(self._sign(name, key, end or datetime.now(UTC) + timedelta(days=days)), key_pem(key))

    def _sign(self, name: str, key: Key, end: datetime, *, authority: bool = False) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(end, datetime.now(UTC)) - timedelta(days=30))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(_PLACES), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key) -> bytes:
    """A key as a file holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def replace(path: Path, content: bytes) -> None:
    """Writes a file for its owner only, at once as `mv` does."""
    new = path.with_name(path.name + ".new")
    new.touch(0o600)
    new.write_bytes(content)
    new.replace(path)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
