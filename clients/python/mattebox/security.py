"""TLS: which servers a client trusts, and its own certificate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

Pem = bytes | str | os.PathLike[str]


@dataclass(frozen=True)
class Tls:
    """Settings of TLS. Certificates and keys are PEM, as bytes or as the path of a file.

    Args:
        ca: the certificates of the trusted authorities; None for the system's authorities.
        certificate: the client's certificate with its chain, for servers that ask for one.
        key: the private key of the certificate.
        server_name: the name that the server's certificate must have; None for the name in the address.

    Raises:
        ValueError: there is a certificate without a key, or a key without a certificate.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key must be given together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns gRPC's credentials. Raises OSError for a file that can't be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
