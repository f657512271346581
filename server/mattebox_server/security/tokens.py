"""Bearer tokens, which a file lists, tell the server who calls.

A line of the file is `NAME:TOKEN`; empty lines and lines that begin with # are ignored. Logs and metrics show the
names, and never the tokens, of which the server keeps only hashes. Every call checks whether the file has changed (by
`stat`, which takes some microseconds), so that a token that is removed from the file is refused from the next call on.
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
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_MIN_CHARACTERS, _MAX_CHARACTERS = 16, 1024
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class TokenFile:
    """The tokens that a file lists. If the file changes and is wrong, the tokens of its last good state stay valid.

    Args:
        path: path of the file.

    Raises:
        StartupError: the file can't be read, or a line of it is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Version | None = version_of(path)
        self._names = _load(path)  # the keys are hashes of the tokens

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tokens, in the order of the file."""
        return tuple(self._names.values())

    def identify(self, authorizations: Iterable[str | bytes]) -> str:
        """Returns the name of the caller's token.

        Args:
            authorizations: all values of the call's metadata `authorization`; a call with none or several is refused.

        Raises:
            Unauthenticated: the call has no token, or one that the file doesn't list.
        """
        self._refresh()
        values = list(authorizations)
        value = values[0] if len(values) == 1 else ""
        bearer = _BEARER.fullmatch(value) if isinstance(value, str) else None
        if bearer is None:
            raise Unauthenticated
        given = _hash(bearer[1])
        found = ""
        for known, name in self._names.items():  # the loop goes on after a match, so that its time tells nothing
            if hmac.compare_digest(known, given):
                found = name
        if not found:
            raise Unauthenticated
        return found

    def _refresh(self) -> None:
        """Reads the file again if it has changed since the last call."""
        now = version_of(self._path)
        if now == self._seen:
            return
        self._seen = now  # set before reading, so that the next call sees a change that happens meanwhile
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
        raise StartupError(f"{SETTING}: {path} is not text") from None  # the cause would show a part of the file
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            _add(names, line.strip(), f"{SETTING}: {path}, line {number}")
    if not names:
        raise StartupError(f"{SETTING}: {path} has no token")
    warn_if_shared(SETTING, path)
    return names


def _add(names: dict[bytes, str], line: str, where: str) -> None:
    """Adds the token of one line. Error texts show no part of the line, because it may hold a token."""
    name, colon, token = line.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise StartupError(f"{where}: must be NAME:TOKEN, where the name has 1 to 64 characters of A-Z a-z 0-9 . _ -")
    if not _TOKEN.fullmatch(token) or not _MIN_CHARACTERS <= len(token) <= _MAX_CHARACTERS:
        length = f"{_MIN_CHARACTERS} to {_MAX_CHARACTERS}"
        allowed = "A-Z a-z 0-9 . _ ~ + / -, and = at the end"
        raise StartupError(f"{where}: the token must have {length} characters of {allowed}")
    digest = _hash(token)
    if name in names.values():
        raise StartupError(f"{where}: an earlier line has the same name")
    if digest in names:
        raise StartupError(f"{where}: an earlier line has the same token")
    names[digest] = name


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
