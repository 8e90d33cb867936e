"""Files that appear whole or not at all, and what a disk refuses in words.

A file is written aside in the same folder, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from vtrial.errors import InputError

#: beginning of the name of a file that is being written
ASIDE = ".aside-"
_DISK_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is read-only; choose another folder with --out",
    errno.EACCES: "permission denied; choose another folder with --out",
    errno.EPERM: "permission denied; choose another folder with --out",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EIO: "the disk reports an input/output error",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EEXIST: "a part of its path is a file, not a folder",
    errno.EISDIR: "a folder of that name is in the way",
    errno.ENOLCK: "the file system gives no file locks; choose a folder on another disk with --out",
    errno.EOPNOTSUPP: "the file system gives no file locks; choose a folder on another disk with --out",
}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, as hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Give a path to write to, beside `file`; at the end it becomes `file`, after an error it is removed."""
    aside = file.with_name(f"{ASIDE}{os.getpid()}-{file.name}")
    try:
        with disk_faults(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            _flushed(aside)
            os.replace(aside, file)
            _flushed(file.parent)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one InputError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        raise InputError(f"cannot be written: {_DISK_FAULTS[error.errno]}", file=path) from error


def _flushed(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
