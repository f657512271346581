"""TLS of the server: its certificate and key and, for mutual TLS, the authorities of the callers' certificates.

The server reads the files before every handshake, whose cost that hardly changes, so that new certificates are used
without a restart. Open connections keep the certificate that they began with. If the new files don't work, the server
logs why and goes on with the old ones.
"""

from __future__ import annotations  # grpc is generic in its stubs only

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import grpc
import structlog

from mattebox_server.errors import StartupError
from mattebox_server.security.secret_files import TlsFiles, read_file, warn_if_shared

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.stdlib.get_logger(__name__)

_WARN_BEFORE = timedelta(days=14)


@dataclass(frozen=True)
class _Content:
    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The content of the TLS files, as it was when it last worked.

    Args:
        files: paths of the files.

    Raises:
        StartupError: a file can't be read, is broken, or the key isn't the certificate's.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()  # gRPC begins handshakes on several threads of its own
        self._refused = ""  # why the files don't work now; logged once, not with every handshake
        self._content = _read(files)
        _check(files, self._content)

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials for a port of a gRPC server."""
        # The function may return None for "no change", which the stubs don't know.
        changed = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.changed)
        mutual = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(self._content), changed, mutual)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files hold, or None if it is the same as before or doesn't work.

        gRPC calls this before each handshake.
        """
        with self._lock:
            try:
                content = _read(self._files)
                if content == self._content:
                    self._refused = ""
                    return None
                _check(self._files, content)
            except StartupError as error:
                self._refuse(str(error))
                return None
            self._content, self._refused = content, ""
            log.info("certificate reloaded")
            return _configuration(content)

    def _refuse(self, reason: str) -> None:
        if reason != self._refused:
            self._refused = reason
            log.error("the changed certificate is refused, the old one stays", reason=reason)


def _read(files: TlsFiles) -> _Content:
    authorities = None if files.client_ca is None else read_file("tls_client_ca", files.client_ca)
    return _Content(read_file("tls_certificate", files.certificate), read_file("tls_key", files.key), authorities)


def _check(files: TlsFiles, content: _Content) -> None:
    """Checks that the files work, and logs when the certificate ends. Raises StartupError."""
    # Servers without TLS do without cryptography's 17 ms and 8 MB.
    from mattebox_server.security.certificates import check_authorities, check_pair  # noqa: PLC0415

    end = check_pair(files, content.certificate, content.key)
    if content.client_ca is not None:
        check_authorities(files, content.client_ca)
    warn_if_shared("tls_key", files.key)
    left = end - datetime.now(UTC)
    write = log.warning if left < _WARN_BEFORE else log.info
    write("certificate", ends=end.isoformat(), days_left=left.days)


def _configuration(content: _Content) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(content.key, content.certificate)], content.client_ca)
