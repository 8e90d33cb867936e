"""What a run has computed so far, piece by piece, in `checkpoints/` of its folder, so that a killed run goes on.

A piece is one npz that carries its own SHA-256 and appears whole or not at all: nothing is written twice, and a kill
costs the piece that was being computed. Pieces lie in a folder named after everything that decides their bytes, so a
piece of other settings or of another version of JAX is never read. A finished stage leaves none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtrial.devices import processor, versions
from vtrial.errors import InputError
from vtrial.store import RunFolder

CHECKPOINTS = "checkpoints"
#: the signals that ask a run to stop; Slurm sends the last where `--signal=B:USR1@60` asks for it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

_ABOUT = "about.json"
_PACKAGES = ("vtrial", "jax", "jaxlib", "numpyro", "optax")
LOG = logging.getLogger("vtrial")


class Checkpoint:
    """The pieces of one stage; only for the holder of the folder's lock.

    Parameters
    ----------
    folder : RunFolder
        Where `checkpoints/` lies.
    stage : str
        A word of letters: pieces of several stages lie side by side.
    decides : mapping of str to str
        What decides the numbers of the stage beside the versions of the packages: keys, hashes, the platform.

    Attributes
    ----------
    resumed : bool
        Whether pieces were there when it was opened.
    """

    def __init__(self, folder: RunFolder, stage: str, decides: Mapping[str, str]):
        packages = {name: version or "none" for name, version in versions(_PACKAGES).items() if name != "python"}
        about = {**decides, **packages}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._folder, self._stage, self._home = folder, stage, f"{CHECKPOINTS}/{stage}-{digest}"
        self._about = {"decides": about, "processor": processor()}
        self.resumed = self._begun = folder.exists(f"{self._home}/{_ABOUT}")
        self._say_what_is_there()

    def load(self, piece: str) -> dict[str, np.ndarray] | None:
        """Arrays of a piece; None where it is missing, or damaged, which is said: it is then computed again."""
        name = f"{self._home}/{piece}.npz"
        if not self._folder.exists(name):
            return None
        try:
            return self._folder.load_arrays(name)
        except InputError as error:
            LOG.warning("%s: %s; it is computed again", error.file, error.message.partition(";")[0])
            return None

    def save(self, piece: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a piece, flushed to the disk, whole or not at all."""
        if not self._begun:
            self._folder.write_json(f"{self._home}/{_ABOUT}", self._about)
            self._begun = True
        self._folder.save_arrays(f"{self._home}/{piece}.npz", arrays)

    def _say_what_is_there(self) -> None:
        stage = self._stage
        for file in sorted(self._folder.path.glob(f"{CHECKPOINTS}/{stage}-*/{_ABOUT}")):
            found = _read(file)
            if file.parent.name != self._home.rpartition("/")[2]:
                decides, own = found.get("decides", {}), self._about["decides"]
                other = [f"{name} {decides.get(name)!r} (now {own[name]!r})" for name in own]
                other = [text for text, name in zip(other, own, strict=True) if decides.get(name) != own[name]]
                LOG.warning("%s is of another %s: %s; it is not used", file.parent, stage, ", ".join(other))
            elif found.get("processor") != self._about["processor"]:
                message = "the last bits of what follows may differ from those of an undisturbed run"
                LOG.warning("%s was begun on another processor: %s", file.parent, message)
            else:
                LOG.info("the %s goes on from its checkpoint", stage)


def clear(folder: RunFolder, stage: str = "") -> None:
    """Remove the pieces of a stage, or of all; those of other settings and versions too."""
    for home in folder.path.glob(f"{CHECKPOINTS}/{stage}*"):
        shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder.path / CHECKPOINTS).rmdir()  # where it is empty


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a signal to stop wait for the end of this block, so that what is being computed is stored first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[signal.Signals] = []

    def note(number: int, frame: object) -> None:
        caught.append(signal.Signals(number))

    before = {one: signal.signal(one, note) for one in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in caught[:1]:
            # not raised again: `vtrial.signals` would take it for a second Ctrl-C and end the process at once
            if callable(handler := before[number]):
                handler(number, None)
            else:
                signal.raise_signal(number)


def under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of a piece, named ``prefix/name``."""
    return {f"{prefix}/{name}": np.asarray(value) for name, value in arrays.items()}


def from_under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `under`: the arrays of a piece that carry the prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): v for name, v in arrays.items() if name.startswith(f"{prefix}/")}


def state_arrays(states: Any) -> dict[str, np.ndarray]:
    """A pytree of JAX arrays as arrays of a piece, named by the paths of its leaves; random keys become their data."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(states)
    return {
        "state" + jax.tree_util.keystr(path): np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in leaves
    }


def state_from(arrays: Mapping[str, np.ndarray], like: Any) -> Any:
    """Undo `state_arrays`; `like` gives the structure, and tells which leaves are keys."""
    import jax

    def restored(path: Any, leaf: Any) -> Any:
        value = jax.numpy.asarray(arrays["state" + jax.tree_util.keystr(path)])
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else value

    return jax.tree_util.tree_map_with_path(restored, like)


def _is_key(leaf: Any) -> bool:
    import jax

    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(file: Any) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
