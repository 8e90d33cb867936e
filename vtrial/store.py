"""The run folder: its files, a lock that dies with its process, and a manifest of hashes.

Nothing here is a pickle, so opening a stranger's run folder runs no code of theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtrial.array_file import read_arrays, write_arrays
from vtrial.disk import ASIDE, disk_faults, file_sha256, whole
from vtrial.errors import InputError
from vtrial.yamlfile import nearest

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MANIFEST = "manifest.json"
POSTERIOR = "posterior.nc"
ORR_DRAWS = "orr_draws.nc"
KIND = "vtrial run folder"
FOLDER_FORMAT = 1

_LOCK = ".lock"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")


def default_run_dir(root: str | os.PathLike[str], name: str, key: str) -> Path:
    """Folder of a run: ``root/name/key``; name and key cannot lead out of ``root``."""
    for what, text in (("run name", name), ("run key", key)):
        if not _NAME.match(text):
            raise InputError(f"the {what} must be 1 to 64 of a-z, 0-9, _ and -, found {text[:80]!r}")
    return Path(root) / name / key


def made_by(manifest: Mapping[str, Any]) -> str:
    """The version that made a run folder, in words."""
    device = manifest.get("device")
    versions = device.get("versions") if isinstance(device, dict) else None
    return f"vtrial {versions.get('vtrial')}"[:80] if isinstance(versions, dict) else "another vtrial"


class RunFolder:
    """A folder that holds one run.

    Parameters
    ----------
    path : path
        The folder; it need not exist yet (see `create`).
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(os.path.abspath(path))

    def __repr__(self) -> str:
        """Name the folder."""
        return f"RunFolder({str(self.path)!r})"

    def create(self) -> RunFolder:
        """Make the folder and an empty manifest, or check that the folder there is a run folder; `lock` calls it.

        Raises
        ------
        InputError
            Where the folder holds something else, or cannot be written.
        """
        self._refuse_foreign()
        if not (self.path / MANIFEST).exists():
            self.write_json(MANIFEST, {"kind": KIND, "folder_format": FOLDER_FORMAT, "files": {}})
        self.manifest()
        return self

    def _refuse_foreign(self) -> None:
        with disk_faults(self.path):
            there = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        strangers = sorted(name for name in there if name != _LOCK and not name.startswith(ASIDE))
        if strangers and MANIFEST not in there:
            message = f"is not a run folder: it has no {MANIFEST} but holds {strangers[0][:80]!r}"
            raise InputError(f"{message}; choose a new or empty folder with --out", file=self.path)

    def manifest(self) -> dict[str, Any]:
        """Read the manifest.

        Raises
        ------
        InputError
            Where this is no run folder, the manifest is damaged, or a newer version wrote it.
        """
        file = self.path / MANIFEST
        if not self.path.is_dir():
            there = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
            near = nearest(self.path.name, (one.name for one in there))
            raise InputError(f"is not a run folder: there is no such folder{near}", file=self.path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            runs = sorted(self.path.glob(f"*/{MANIFEST}"), key=lambda one: one.stat().st_mtime)
            near = f"; did you mean {str(runs[-1].parent)!r}, the last of {len(runs)} in it?" if runs else ""
            raise InputError(f"is not a run folder: it has no {MANIFEST}{near}", file=self.path) from None
        except (OSError, ValueError, RecursionError) as error:
            reason = (getattr(error, "strerror", None) or "it is not JSON").lower()
            raise InputError(f"is damaged or not of a run folder: {reason}", file=file) from None
        if not isinstance(data, dict) or data.get("kind") != KIND or not isinstance(data.get("files"), dict):
            raise InputError(f"is not the manifest of a run folder (its kind must be {KIND!r})", file=file)
        version = data.get("folder_format")
        if not isinstance(version, int) or version > FOLDER_FORMAT:
            message = f"was made by {made_by(data)} in folder format {version!r}; this one reads up to {FOLDER_FORMAT}"
            raise InputError(message, file=file)
        return data

    def update_manifest(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Lay entries over the top level of the manifest and return the new one; only for the holder of the lock."""
        data = {**self.manifest(), **entries}
        self.write_json(MANIFEST, data)
        return data

    def exists(self, name: str) -> bool:
        """Whether the folder holds a file of that name."""
        return self.file(name).is_file()

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        file = self.file(name)
        with disk_faults(file), contextlib.suppress(FileNotFoundError):
            file.unlink()

    def file(self, name: str) -> Path:
        """Path of a file in this folder; a name that leads out of it is an InputError."""
        parts = name.split("/")
        if "\\" in name or "\0" in name or any(part.startswith(".") or not part for part in parts):
            message = "a file of a run folder needs a plain relative name without leading dots"
            raise InputError(f"{message}, found {name[:80]!r}", file=self.path)
        file = self.path / name
        if not file.parent.resolve().is_relative_to(self.path.resolve()):
            raise InputError(f"{name[:80]!r} leads out of the run folder through a link", file=self.path)
        return file

    def holder(self) -> str | None:
        """Who works on this folder, in words; None where nobody does."""
        try:
            handle = os.open(self.path / _LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            if _ended_here(handle):  # most folders: the lock need not be touched, so no start can be refused meanwhile
                return None
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(handle)
        except OSError:
            return None
        finally:
            os.close(handle)
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[RunFolder]:
        """Create the folder where needed and hold it alone; the system frees it when the process ends, however it ends.

        Raises
        ------
        InputError
            Where another process holds it, with its id, host and start; where `create` would raise.
        """
        file = self.path / _LOCK
        self._refuse_foreign()  # before anything is written there
        with disk_faults(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            try:
                with disk_faults(self.path):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"is in use by {_holder(handle)}; wait for it or stop it", file=self.path) from None
            since = datetime.now(UTC).isoformat("T", "seconds")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
            with disk_faults(self.path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(holder).encode(), 0)
                self._sweep()
            self.create()
            yield self
        finally:
            # The file itself stays: deleting it would let two processes each lock a file of that name.
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what a killed process left aside; only the holder of the lock writes, so nothing in use is lost."""
        for left in self.path.rglob(f"{ASIDE}*"):
            left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path to write to, in the same folder; at the end it becomes ``name``, after an error it is removed."""
        with whole(self.file(name)) as aside:
            yield aside

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all."""
        with self.writing(name) as aside:
            aside.write_bytes(content)
        return self.file(name)

    def write_text(self, name: str, text: str) -> Path:
        """Write UTF-8 text whole or not at all."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, data: Any) -> Path:
        """Write JSON, keys in the given order; NaN and infinity are a ValueError."""
        return self.write_text(name, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_csv(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table without its index; equal tables give equal bytes."""
        return self.write_text(name, table.to_csv(index=False, lineterminator="\n"))

    def write_posterior(self, tree: xr.DataTree, name: str = POSTERIOR, keep_float64: Iterable[str] = ()) -> Path:
        """Write a tree as compressed netCDF and its hash into the manifest.

        Parameters
        ----------
        tree : DataTree
            Its float64 variables are stored as float32; coordinates keep their type.
        name : str
            Name of the file.
        keep_float64 : iterable of str
            Names of variables, in any group, that float32 would not hold well enough.
        """
        kept = frozenset(keep_float64)
        plain = tree.map_over_datasets(_without_encoding)
        encoding = {node.path: _encoding(node, kept) for node in plain.subtree}
        # In memory first: HDF5 that meets a full disk leaves an object behind whose closing crashes the interpreter.
        content = bytes(plain.to_netcdf(engine="h5netcdf", encoding=encoding))
        files = self.manifest()["files"]
        # Without an entry the file counts as unfinished, so that a kill in between never looks like damage.
        if files.pop(name, None) is not None:
            self.update_manifest({"files": files})
        path = self.write_bytes(name, content)
        self.update_manifest({"files": {**files, name: {"sha256": hashlib.sha256(content).hexdigest()}}})
        return path

    def has_posterior(self, name: str = POSTERIOR) -> bool:
        """Whether a finished posterior is there (its hash is checked when it is opened)."""
        return self.exists(name) and name in self.manifest()["files"]

    def open_posterior(self, name: str = POSTERIOR) -> xr.DataTree:
        """Open a posterior, lazily; close it, or use it in a ``with`` statement.

        Raises
        ------
        InputError
            Where it is missing, unfinished, or not what was written.
        """
        import xarray as xr

        file = self.file(name)
        entry = self.manifest()["files"].get(name)
        if not file.is_file() or not isinstance(entry, dict):
            state = "was not finished" if file.is_file() else "is missing"
            raise InputError(f"{state}; run the fit again with the same command", file=file)
        try:
            if file_sha256(file) != entry.get("sha256"):
                message = "is damaged: its content is not what the manifest records; delete it and run the fit again"
                raise InputError(message, file=file)
            return xr.open_datatree(file, engine="h5netcdf")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot be opened: {_reason(error)}", file=file) from error

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write arrays of numbers and text; see `vtrial.array_file`."""
        with self.writing(name) as aside, aside.open("wb") as stream:
            write_arrays(stream, arrays)
        return self.file(name)

    def load_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read what `save_arrays` wrote.

        Raises
        ------
        InputError
            Where it is missing or damaged; nothing in it is ever executed.
        """
        file = self.file(name)
        try:
            stream = file.open("rb")
        except FileNotFoundError:
            raise InputError("is missing", file=file) from None
        except OSError as error:
            raise InputError(f"cannot be read: {_reason(error)}", file=file) from None
        with stream:
            arrays = read_arrays(stream)
        if arrays is None:
            raise InputError("is damaged: its content does not have the hash it records; delete it", file=file)
        return arrays


def _without_encoding(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_encoding()


def _encoding(node: xr.DataTree, kept: frozenset[str]) -> dict[str, dict[str, Any]]:
    encoding: dict[str, dict[str, Any]] = {}
    for key, variable in node.to_dataset(inherit=False).variables.items():
        if variable.dtype.kind in "fiub" and variable.ndim and variable.size:
            encoding[str(key)] = {"zlib": True, "complevel": 4}
        if variable.dtype == np.float64 and key not in node.coords and key not in kept:
            encoding.setdefault(str(key), {})["dtype"] = "float32"
    return encoding


def _holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(found['pid'])} on {str(found['host'])[:80]} since {str(found['since'])[:40]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _ended_here(handle: int) -> bool:
    """Whether the lock file names a process of this machine that is no more."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        return found["host"] == socket.gethostname() and not Path(f"/proc/{int(found['pid'])}").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
