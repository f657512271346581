"""Bearer tokens from a file: who calls.

A line is `NAME:TOKEN`; empty lines and lines that begin with # are passed over. Names appear in logs and metrics,
tokens nowhere: only their hashes are kept. The file is looked at with every call (a `stat`, some microseconds), so
that a token that is taken out of it is refused from the next call on, without a signal that somebody could forget.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from mattebox_server.errors import StartupError, Unauthenticated
from mattebox_server.security.secret_files import Version, read_file, version_of, warn_if_shared

log = structlog.stdlib.get_logger(__name__)

SETTING = "token_file"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750: what may stand in a header
_MIN_CHARACTERS, _MAX_CHARACTERS = 16, 1024
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class TokenFile:
    """The tokens of a file, as they are now; of a file that turns bad, as they were.

    Args:
        path: of the file.

    Raises:
        StartupError: it can't be read, or a line of it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Version | None = version_of(path)
        self._names = _load(path)  # by the hash of the token

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tokens, in the order of the file."""
        return tuple(self._names.values())

    def identify(self, authorizations: Iterable[str | bytes]) -> str:
        """The name of the caller's token.

        Args:
            authorizations: values of the metadata `authorization`, of which there must be one.

        Raises:
            Unauthenticated: they hold no token, or none of the file's.
        """
        self._refresh()
        values = list(authorizations)
        value = values[0] if len(values) == 1 else ""
        bearer = _BEARER.fullmatch(value) if isinstance(value, str) else None
        if bearer is None:
            raise Unauthenticated
        given = _hash(bearer[1])
        found = ""
        for known, name in self._names.items():  # all of them, so that the time says nothing about which
            if hmac.compare_digest(known, given):
                found = name
        if not found:
            raise Unauthenticated
        return found

    def _refresh(self) -> None:
        """Reads the file again if it has changed since it was last looked at."""
        now = version_of(self._path)
        if now == self._seen:
            return
        self._seen = now  # before reading: what changes meanwhile is read with the next call
        try:
            self._names = _load(self._path)
        except StartupError as error:
            log.error("the changed tokens are refused, the old ones stay", reason=str(error))
        else:
            log.info("tokens reloaded", callers=self.names)


def _load(path: Path) -> Mapping[bytes, str]:
    try:
        text = read_file(SETTING, path).decode()
    except UnicodeDecodeError:
        raise StartupError(f"{SETTING}: {path} is not text") from None  # the cause would show what stands in it
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            _add(names, line.strip(), f"{SETTING}: {path}, line {number}")
    if not names:
        raise StartupError(f"{SETTING}: {path} has no token")
    warn_if_shared(SETTING, path)
    return names


def _add(names: dict[bytes, str], line: str, where: str) -> None:
    """Takes one line. What is wrong is said without showing any of it: a token could stand in the wrong place."""
    name, colon, token = line.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise StartupError(f"{where}: must be NAME:TOKEN, with a name of 1 to 64 of A-Z a-z 0-9 . _ -")
    if not _TOKEN.fullmatch(token) or not _MIN_CHARACTERS <= len(token) <= _MAX_CHARACTERS:
        length = f"{_MIN_CHARACTERS} to {_MAX_CHARACTERS}"
        raise StartupError(f"{where}: the token must be {length} of A-Z a-z 0-9 . _ ~ + / -, with = only at its end")
    digest = _hash(token)
    if name in names.values():
        raise StartupError(f"{where}: the name stands there twice")
    if digest in names:
        raise StartupError(f"{where}: the token stands there twice")
    names[digest] = name


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
