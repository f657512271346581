"""How a client trusts its servers, and how it shows who it is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

Pem = bytes | str | os.PathLike[str]


@dataclass(frozen=True)
class Tls:
    """TLS to servers. Each of them PEM as bytes, or the path of a file.

    Args:
        ca: certificates of authorities that are trusted; None for the system's.
        certificate: the client's own, with its chain, for servers that ask for one.
        key: of the certificate.
        server_name: that the server's certificate must have, if it isn't the address's.

    Raises:
        ValueError: a certificate without its key, or the other way round.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key must be given together")

    def credentials(self) -> grpc.ChannelCredentials:
        """GRPC's own. Raises OSError for a file that can't be read."""
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
