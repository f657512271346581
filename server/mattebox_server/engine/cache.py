"""The cache of compiled models on disk.

An entry is a folder, named by the digest of everything that the compiled model depends on: weights, versions, device
and options. Its manifest repeats these facts and holds a digest of each file; an entry whose files don't match their
digests is deleted and made anew. Entries are made under another name and renamed when they are complete, so that
several servers may start at once: the first one's entry is kept, and the others delete theirs.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from mattebox_server.engine.artifact import file_sha256

log = structlog.stdlib.get_logger(__name__)

_MANIFEST = "manifest.json"
_ABANDONED_S = 24 * 3600


class CacheEntry:
    """The place of one compiled model.

    Attributes:
        folder: folder from which the provider reads the model if the entry is warm, and else writes it to.
        is_warm: whether the folder holds a compiled model whose files are unchanged.
    """

    def __init__(self, root: Path, name: str, facts: Mapping[str, str]) -> None:
        self._root, self._final, self._facts = root, entry_path(root, name, facts), dict(facts)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _tidy(root)
        self.folder, self.is_warm = self._final, self._final.exists()
        if not self.is_warm:
            self._make_folder()
        elif problem := self._problem():
            self.reject(problem)

    def publish(self) -> bool:
        """Makes a cold entry available to later starts; returns whether that was done.

        It isn't done if the provider has written nothing into the folder, or if another server was first.
        """
        if self.is_warm:
            return False
        try:
            files = _files(self.folder)
            if not files:
                return False
            manifest = {"facts": self._facts, "files": {name: file_sha256(path) for name, path in files.items()}}
            (self.folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
            self.folder.rename(self._final)
        except OSError as error:  # another server was first, or the disk is full; this one runs without the cache
            log.info("compiled model not kept", entry=self._final.name, reason=error.strerror)
            return False
        finally:
            self.discard()
        return True

    def discard(self) -> None:
        """Deletes the folder of a cold entry. A warm entry stays as it is."""
        if not self.is_warm:
            shutil.rmtree(self.folder, ignore_errors=True)

    def reject(self, reason: str) -> None:
        """Deletes a warm entry, with the reason in the log, and makes a folder for a new one."""
        log.warning("compiled model deleted", entry=self._final.name, reason=reason)
        # Renamed before it is deleted, so that no other server finds half of it.
        condemned = Path(tempfile.mkdtemp(prefix=".condemned-", dir=self._root))
        with contextlib.suppress(OSError):  # another server was first
            self._final.rename(condemned / "entry")
        shutil.rmtree(condemned, ignore_errors=True)
        self._make_folder()

    def _make_folder(self) -> None:
        self.folder, self.is_warm = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self._root)), False

    def _problem(self) -> str | None:
        """The reason why the entry can't be used; None if it can."""
        if self._final.is_symlink() or self._final.stat().st_uid not in (0, os.geteuid()):
            return "its folder belongs to another user"
        try:
            manifest = json.loads((self._final / _MANIFEST).read_bytes())
            if manifest["facts"] != self._facts:
                return "its manifest is that of another model"
            if manifest["files"] != {name: file_sha256(path) for name, path in _files(self._final).items()}:
                return "its files have changed"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"its manifest can't be read: {type(error).__name__}"
        return None


def entry_path(root: Path, name: str, facts: Mapping[str, str]) -> Path:
    """The folder of a complete entry."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:32]
    return root / f"{name}-{digest}"


def _tidy(root: Path) -> None:
    """Deletes the unfinished entries of servers that were killed while they compiled."""
    for path in root.glob(".*-*"):
        with contextlib.suppress(OSError):  # another server was first
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path)


def _files(folder: Path) -> dict[str, Path]:
    """All files of an entry but its manifest, by their paths inside the folder."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop(_MANIFEST, None)
    return found
