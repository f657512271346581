"""TLS of the server: certificate, key and, for mutual TLS, the authorities of the callers' certificates.

The files are read before every handshake (next to which that costs nothing), so that new ones are taken up without a
restart; connections that are open stay as they are. New files that don't work are refused, and the old ones stay.
"""

from __future__ import annotations  # grpc is generic in its stubs only

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import grpc
import structlog

from mattebox_server.errors import StartupError
from mattebox_server.security.certificates import TlsFiles, check_authorities, check_certificate, check_pair
from mattebox_server.security.secret_files import read_file, warn_if_shared

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
    """The files as they last worked.

    Args:
        files: where they are.

    Raises:
        StartupError: one can't be read, is broken, or they don't belong together.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()  # handshakes begin in threads of gRPC's
        self._refused = ""  # why the files don't work now: said once, not with every handshake
        self._content = _read(files)
        _check(files, self._content)

    def credentials(self) -> grpc.ServerCredentials:
        """For a port."""
        # None stands for no change, which the stubs don't know.
        changed = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.changed)
        mutual = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(self._content), changed, mutual)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if it is new and works; gRPC asks before each handshake."""
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
    """Proves that the files work, and says until when. Raises StartupError."""
    end = check_certificate(files.certificate, content.certificate)
    check_pair(files.certificate, files.key)
    if files.client_ca is not None and content.client_ca is not None:
        check_authorities(files.client_ca, content.client_ca)
    if _read(files) != content:  # the check reads the files itself
        raise StartupError("tls_certificate: the files changed while they were read")
    warn_if_shared("tls_key", files.key)
    left = end - datetime.now(UTC)
    say = log.warning if left < _WARN_BEFORE else log.info
    say("certificate", ends=end.isoformat(), days_left=left.days)


def _configuration(content: _Content) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(content.key, content.certificate)], content.client_ca)
