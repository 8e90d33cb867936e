"""Arrays as npz with the hash of their own content: one rename makes both true, and nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

_DIGEST_ENTRY = "__sha256__"


def write_arrays(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers and text.

    Raises
    ------
    ValueError
        An array of objects, or a name that is taken.
    """
    plain = {key: np.asarray(array) for key, array in arrays.items()}
    if wrong := [key for key, array in plain.items() if array.dtype.hasobject or key == _DIGEST_ENTRY]:
        raise ValueError(f"{wrong[0]!r} cannot be stored: only arrays of numbers and text, under another name")
    _savez(stream, {**plain, _DIGEST_ENTRY: np.asarray(_sha256(plain))})


def read_arrays(stream: IO[bytes]) -> dict[str, np.ndarray] | None:
    """Read what `write_arrays` wrote; None where it is damaged."""
    try:
        arrays = _loadz(stream)
        intact = str(arrays.pop(_DIGEST_ENTRY)) == _sha256(arrays)
    except MemoryError:
        raise
    except Exception:  # damaged bytes raise whatever zip, zlib and NumPy's header reader come upon
        return None
    return arrays if intact else None


def _savez(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    # Not numpy.savez: it takes the names as keyword arguments, where "file" would clash.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, array in arrays.items():
            info = zipfile.ZipInfo(f"{key}.npy")
            # counts are mostly zeros; draws do not get smaller
            info.compress_type = zipfile.ZIP_DEFLATED if array.dtype.kind in "iu" else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _loadz(stream: IO[bytes]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(stream) as archive:
        # Checksums before headers: a damaged shape could ask for any amount of memory.
        if archive.testzip() is not None:
            raise ValueError("a checksum is wrong")
        for name in archive.namelist():
            with archive.open(name) as entry:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
    return arrays


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = arrays[key]
        digest.update(json.dumps([key, array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
