"""Artefacts by content hash on this node's disk: written in order, verified, then visible.

A blob is what its SHA-256 says or it is not there. Bytes arrive in chunks into a file aside; when the
last one is in, the digest is checked, the file is synced and renamed. An upload that was broken off goes
on where it stopped, also after a restart.

Every method here blocks on the disk; callers run them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from mcp.errors import Busy, DiskFull, InvalidArgument, NotFound, StorageCorrupt, StorageError, TooLarge

_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class BlobStatus:
    """How much of a blob is here; sizes in bytes. ``size`` is 0 while nobody has told it."""

    digest: str
    size: int
    received: int
    complete: bool


class BlobStore:
    """The blobs below one directory. ``blob_bytes_max`` bounds each, ``uploads_max`` those under way."""

    def __init__(self, directory: Path, *, blob_bytes_max: int, uploads_max: int) -> None:
        self._whole = directory / "whole"
        self._partial = directory / "partial"
        self._blob_bytes_max = blob_bytes_max
        self._uploads_max = uploads_max
        self._beginning = threading.Lock()
        try:
            for folder in (self._whole, self._partial):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(error, f"making the folders of blobs below {directory}") from error

    def status(self, digest: str) -> BlobStatus:
        """What is here of ``digest``."""
        check_digest(digest)
        with contextlib.suppress(FileNotFoundError):
            size = (self._whole / digest).stat().st_size
            return BlobStatus(digest, size, size, True)
        with contextlib.suppress(FileNotFoundError):
            return BlobStatus(digest, 0, (self._partial / digest).stat().st_size, False)
        return BlobStatus(digest, 0, 0, False)

    def put(self, digest: str, size: int, offset: int, chunk: bytes | memoryview) -> BlobStatus:
        """Add ``chunk`` at ``offset`` of a blob of ``size`` bytes.

        A chunk that does not continue what is here changes nothing; the status tells where to go on.
        Raises :class:`TooLarge`, :class:`DiskFull`, :class:`Busy`, and :class:`StorageCorrupt` when the whole
        does not have the digest that was promised (nothing of it is kept then).
        """
        status = self.status(digest)
        if status.complete:
            return status
        if size > self._blob_bytes_max:
            raise TooLarge(f"a blob of {size} bytes is over blob_bytes_max={self._blob_bytes_max}")
        if offset < 0 or offset + len(chunk) > size:
            raise InvalidArgument(
                f"bytes {offset} to {offset + len(chunk)} lie outside a blob of {size} bytes"
            )
        if offset != status.received:
            return BlobStatus(digest, size, status.received, False)
        self._append(digest, offset, chunk)
        if offset + len(chunk) < size:
            return BlobStatus(digest, size, offset + len(chunk), False)
        self._complete(digest)
        return BlobStatus(digest, size, size, True)

    def store(self, content: bytes) -> str:
        """Keep ``content``; gives its digest."""
        digest = hashlib.sha256(content).hexdigest()
        if not self.status(digest).complete:
            (self._partial / digest).unlink(missing_ok=True)
            self._append(digest, 0, content)
            self._complete(digest)
        return digest

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``. Raises :class:`NotFound`."""
        try:
            with (self.path(digest)).open("rb") as blob:
                blob.seek(offset)
                return blob.read(length)
        except OSError as error:
            raise _translated(error, f"reading blob {digest[:12]}") from error

    def content(self, digest: str) -> bytes:
        """A whole blob at once. Raises :class:`NotFound`."""
        return self.path(digest).read_bytes()

    def path(self, digest: str) -> Path:
        """The file that holds a whole blob. Raises :class:`NotFound`."""
        check_digest(digest)
        path = self._whole / digest
        if not path.is_file():
            raise NotFound(
                f"this node does not hold blob {digest[:12]}…; ask a node that is listed as holder"
            )
        return path

    def intact(self, digest: str) -> bool:
        """Whether a whole blob still is what its digest says. Reads all of it. Raises :class:`NotFound`."""
        try:
            return _digest_of(self.path(digest)) == digest
        except OSError as error:
            raise _translated(error, f"reading blob {digest[:12]}") from error

    def whole(self) -> list[str]:
        """The digests of all blobs that are complete here, sorted."""
        try:
            return sorted(p.name for p in self._whole.iterdir() if _DIGEST.fullmatch(p.name))
        except OSError as error:
            raise _translated(error, "listing the blobs") from error

    def drop_unused(self, used: set[str], older_than_s: float) -> list[str]:
        """Drop whole blobs that are not in ``used`` and were stored before that time since the epoch.

        Gives their digests. A young blob may be on its way into use: uploaded, and not yet deployed.
        """
        unused = [d for d in self.whole() if d not in used]
        old = [d for d in unused if self._stored_s(d) < older_than_s]
        for digest in old:
            self.drop(digest)
        return old

    def _stored_s(self, digest: str) -> float:
        try:
            return (self._whole / digest).stat().st_mtime
        except FileNotFoundError:
            return math.inf  # it has just been dropped
        except OSError as error:
            raise _translated(error, f"looking at blob {digest[:12]}") from error

    def drop(self, digest: str) -> None:
        """Forget a blob, whole or partial. It is no error when it is not here."""
        check_digest(digest)
        try:
            (self._whole / digest).unlink(missing_ok=True)
            (self._partial / digest).unlink(missing_ok=True)
        except OSError as error:
            raise _translated(error, f"dropping blob {digest[:12]}") from error

    def _append(self, digest: str, offset: int, chunk: bytes | memoryview) -> None:
        path = self._partial / digest
        try:
            if offset == 0 and not path.exists():
                self._begin(path)
            with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as blob:
                blob.write(chunk)
        except FileNotFoundError as error:
            raise Busy(
                f"uploads_max={self._uploads_max} uploads are under way, and this one made room for others; "
                "begin again"
            ) from error
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, offset)
            raise _translated(error, f"writing blob {digest[:12]}") from error

    def _begin(self, path: Path) -> None:
        """Begin an upload. Drops those that were left alone for longest: whoever cares sends them again."""
        with self._beginning:
            ages = []
            for upload in self._partial.iterdir():
                with contextlib.suppress(FileNotFoundError):  # it has just become whole
                    ages.append((upload.stat().st_mtime, upload))
            ages.sort()
            for _, upload in ages[: max(0, len(ages) - self._uploads_max + 1)]:
                upload.unlink(missing_ok=True)
            path.touch()

    def _complete(self, digest: str) -> None:
        path = self._partial / digest
        try:
            actual = _digest_of(path)
            if actual != digest:
                path.unlink(missing_ok=True)
                raise StorageCorrupt(
                    f"what was uploaded has SHA-256 {actual[:12]}…, not {digest[:12]}…: it was damaged on "
                    "its way, or the digest belongs to other content; nothing was kept, upload it again"
                )
            _sync(path)
            path.rename(self._whole / digest)
            _sync(self._whole)
        except OSError as error:
            raise _translated(error, f"completing blob {digest[:12]}") from error


def check_digest(digest: str) -> None:
    """Raise :class:`InvalidArgument` unless ``digest`` is a SHA-256 in lower-case hexadecimal."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"{digest!r} is no SHA-256: 64 lower-case hexadecimal digits are expected")


def _digest_of(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as blob:
        while chunk := blob.read(_READ_BYTES):
            seen.update(chunk)
    return seen.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(error: OSError, doing: str) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{doing}: no room on this node's disk; nothing was kept, retry when there is")
    return StorageError(f"{doing}: {error.strerror or error}; look at the disk of this node")
