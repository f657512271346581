"""Downloads over HTTP that go on where they broke off.

Proxies and certificates are those of the environment, as `urllib.request` takes them.
"""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mattebox_export.errors import ExportError

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_ATTEMPTS = 3  # without anything new; as long as something arrives, a download that breaks off is tried again
_PAUSE_S = 1.0
_PROGRESS_S = 5.0
_SPARE = 1.2  # a file may have so many times the expected size, which is rounded
_HOPELESS = range(400, 500)  # statuses with which an attempt is the last
_UNSATISFIABLE = 416  # the status for a part that is longer than the file


def download(url: str, megabytes: float, part: Path) -> Iterator[str]:
    """Downloads a file, or the rest of it if the part is there already.

    Args:
        url: place of the file.
        megabytes: its size, roughly; a file that is much larger is refused before it fills the disk.
        part: file to write. It stays if the connection breaks, so that the next call goes on with it.

    Yields:
        A line of text about the progress, every five seconds.

    Raises:
        ExportError: the server doesn't answer, doesn't have the file or sends too much, or the part can't be written.
    """
    fruitless = 0
    while True:
        before = _size(part)
        try:
            yield from _attempt(url, megabytes, part)
        except urllib.error.HTTPError as error:
            if error.code == _UNSATISFIABLE and before:
                part.unlink()  # the part is longer than the file, so that it is of another one
            elif error.code in _HOPELESS:
                raise ExportError(f"{url} can't be downloaded: {error.code} {error.reason}") from error
            reason: object = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
        else:
            return
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == _ATTEMPTS:
            raise ExportError(f"{url} can't be downloaded ({reason}): fetch it elsewhere and put it into {part.parent}")
        yield f"the download broke off ({reason}) and is tried again"
        time.sleep(_PAUSE_S * (fruitless + 1))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _attempt(url: str, megabytes: float, part: Path) -> Iterator[str]:
    """Reads the file from where the part ends."""
    done = _size(part)
    headers = {"User-Agent": "mattebox-export", **({"Range": f"bytes={done}-"} if done else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the catalogue has no other schemes than https
    opener = urllib.request.build_opener()
    with opener.open(request, timeout=_TIMEOUT_S) as answer, _Part(part) as file:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
            file.restart()
        whole, said_s = done + int(answer.headers.get("Content-Length") or 0), time.monotonic()
        while chunk := answer.read(_CHUNK_BYTES):
            done += len(chunk)
            if done > megabytes * 1e6 * _SPARE:
                part.unlink()
                raise ExportError(f"{url} sends more than {megabytes} MB, and is another file")
            file.append(chunk)
            if time.monotonic() > said_s + _PROGRESS_S:
                said_s = time.monotonic()
                yield f"downloaded {done / 1e6:.0f} of {megabytes} MB"
        if done < whole:
            raise http.client.IncompleteRead(b"", whole - done)


class _Part:
    """The part of a file that has arrived. If it can't be written, it is deleted, so that a full disk gets room."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "_Part":
        with self._errors():
            self._file = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def restart(self) -> None:
        """Forgets what has arrived."""
        with self._errors():
            self._file.truncate(0)

    def append(self, chunk: bytes) -> None:
        """Writes what has arrived now."""
        with self._errors():
            while chunk:
                chunk = chunk[self._file.write(chunk) :]

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                self._path.unlink()
            raise ExportError(f"can't write {self._path}: {error.strerror}") from error
