"""An object of the bucket as a file on this machine: resumed where it broke off, and checked before it is believed.

Below the folder, an object has the path that it has in the bucket. Beside it a ``.json`` tells its ETag and size,
before the first byte, and its SHA-256 when all is there. The next call goes on after the last byte that is on the
disk, and only if the object is still the same one. The file goes when it is read; what is told of it stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from closingbell.errors import ConfigurationError, MalformedResponseError
from closingbell.sources.flatfiles.bucket import CHUNK, Bucket
from closingbell.sources.flatfiles.errors import ChangedError, malformed

#: An ETag that is the MD5 of its object: one that was not uploaded in parts.
_MD5: Final = re.compile(r'"(?P<digest>[0-9a-f]{32})"')

#: Seconds between two looks at a file that somebody else is at.
_LOOK: Final = 0.1


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object: its ETag, in quotes, and its size in bytes."""

    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """An object that is here in full.

    Attributes:
        path: where.
        version: which.
        sha256: of its bytes, in hexadecimal.
    """

    path: Path
    version: Version
    sha256: str


@contextmanager
def fetched(bucket: Bucket, key: str, folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Fetched]:
    """An object, as a file below ``folder`` for the time of the block; at most one request.

    The file is gone after the block, and after a block that ends with a MalformedResponseError so is what is told of
    it. After any other error it stays, to be gone on with.

    Args:
        bucket: where it is.
        key: its path in the bucket.
        folder: where files go.
        waiting: called again and again while somebody else is at the same file; may raise.

    Raises:
        MalformedResponseError: fewer or other bytes came than the service says it has. What came of a body that was
            cut off stays for the next call; what is wrong does not.
        ConfigurationError: the folder cannot be written.
        ClosingbellError: as :meth:`Bucket.get`.
    """
    path = folder / key
    with _writing(), _alone(path, waiting) as file:
        version = _known(path, file) or _received(bucket, key, path, file)
        found = Fetched(path, version, _checked(file, key, path, version))
        note(found)
        try:
            yield found
        except MalformedResponseError:
            _forget(path, file)
            raise
        path.unlink()


def note(found: Fetched, **more: object) -> None:
    """Keep what is known of an object beside it; ``more`` is what was found in it."""
    told = {**asdict(found.version), "sha256": found.sha256, **more}
    partial = found.path.with_name(found.path.name + ".json.new")
    partial.write_text(json.dumps(told, indent=2, default=str) + "\n")
    partial.replace(_note_of(found.path))


def _known(path: Path, file: IO[bytes]) -> Version | None:
    """The version of the object that is here in full, if it is."""
    version = _told(path)
    return version if version and version.size == _size(file) else None


def _received(bucket: Bucket, key: str, path: Path, file: IO[bytes]) -> Version:
    """Write what is missing of an object."""
    known, have = _told(path), _size(file)
    if known is None or have > known.size:
        known, have = None, 0
    try:
        head, chunks = bucket.get(key, have, known.etag if known and have else None)
        version = Version(head.etag, head.total)
        if head.start and version != known:
            raise ChangedError("the flat file was replaced while it was fetched", value=key)
    except ChangedError:
        _forget(path, file)
        raise
    file.truncate(head.start)  # a service without ranges sends all of it once more
    _note_of(path).write_text(json.dumps(asdict(version)) + "\n")
    for chunk in chunks:
        file.write(chunk)
        file.flush()  # what a kill leaves behind is not fetched again; nor what a cut does, but for the socket's buffer
    return version


def _checked(file: IO[bytes], key: str, path: Path, version: Version) -> str:
    """The SHA-256 of a file that has the size and, where the ETag tells it, the MD5 that it should."""
    have = _size(file)
    if have != version.size:
        if have > version.size:
            _forget(path, file)
        raise malformed("the flat file's body was cut off", key, f"{have:,} of {version.size:,} bytes came")
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    file.seek(0)
    while chunk := file.read(CHUNK):
        sha.update(chunk)
        md5.update(chunk)
    said = _MD5.fullmatch(version.etag)
    if said and said["digest"] != md5.hexdigest():
        _forget(path, file)
        raise malformed("the flat file's bytes are not those of its ETag", key, f"{md5.hexdigest()} is not {said[0]}")
    return sha.hexdigest()


@contextmanager
def _alone(path: Path, waiting: Callable[[], None]) -> Iterator[IO[bytes]]:
    """The file, ours alone among all threads and processes; it may be a new, empty one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        waiting()
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK)
                continue
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue  # whoever had it is done with it
            yield file
            return


@contextmanager
def _writing() -> Iterator[None]:
    """Let what the disk says become an error of ours."""
    try:
        yield
    except OSError as error:
        fix = "Free space there, or set CLOSINGBELL_HOME to a folder that can be written."
        raise ConfigurationError("a flat file cannot be kept", value=error, fix=fix) from None


def _told(path: Path) -> Version | None:
    """The version of the object of which some bytes may be here."""
    try:
        told = json.loads(_note_of(path).read_text())
        return Version(str(told["etag"]), int(told["size"])) if told["etag"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _forget(path: Path, file: IO[bytes]) -> None:
    file.truncate(0)
    _note_of(path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")
