"""Pieces of a run: what is read again, what is not, and signals that wait for them."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtrial import checkpoint
from vtrial.checkpoint import STOP_SIGNALS, Checkpoint, clear, held_back, state_arrays, state_from
from vtrial.store import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").create()


def opened(folder: RunFolder, key: str = "0f") -> Checkpoint:
    return Checkpoint(folder, "fit", {"fit key": key})


def test_what_another_version_left_is_named_and_not_used(folder, caplog, monkeypatch):
    caplog.set_level("INFO", "vtrial")
    opened(folder).save("start", {"a": np.zeros(3)})
    assert opened(folder).load("start") is not None and "goes on from its checkpoint" in caplog.text
    caplog.clear()
    monkeypatch.setattr(checkpoint, "versions", lambda names: dict.fromkeys(names, "9.9"))
    newer = opened(folder)
    assert newer.load("start") is None
    assert "is of another fit" in caplog.text and f"jax '{jax.__version__}' (now '9.9')" in caplog.text
    assert "it is not used" in caplog.text
    newer.save("start", {"a": np.ones(3)})
    monkeypatch.undo()
    assert np.all(opened(folder).load("start")["a"] == 0.0), "both stay: the older version would go on with its own"
    clear(folder, "trial")
    assert opened(folder).load("start") is not None
    clear(folder, "fit")
    assert sorted(file.name for file in folder.path.iterdir()) == ["manifest.json"]


def test_a_checkpoint_of_another_processor_is_used_and_said(folder, caplog, monkeypatch):
    opened(folder).save("start", {"a": np.zeros(3)})
    monkeypatch.setattr(checkpoint, "processor", lambda: "other")
    assert opened(folder).load("start") is not None
    assert "was begun on another processor" in caplog.text


def test_another_key_reads_nothing(folder, caplog):
    opened(folder).save("start", {"a": np.zeros(3)})
    assert opened(folder, "aa").load("start") is None
    assert "fit key '0f' (now 'aa'); it is not used" in caplog.text


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_state_comes_back_bit_for_bit(folder, impl):
    """Keys, whole numbers, NaN, the sign of zero and subnormals."""
    with jax.enable_x64(True):
        odd = jnp.asarray([np.nan, -0.0, 5e-324, 1 / 3])
        keys = jax.random.split(jax.random.key(3, impl=impl), 2)
        state = {"z": {"ln_growth": odd, "b/[c]": jnp.int32(4)}, "key": keys, "deep": (jnp.asarray(True), [odd[1:]])}
        opened(folder).save("piece", state_arrays(state))
        found = state_from(opened(folder).load("piece"), state)
        assert jax.tree.structure(found) == jax.tree.structure(state)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(jax.random.normal(found["key"][1]), jax.random.normal(keys[1]))
        assert np.asarray(found["z"]["ln_growth"]).tobytes() == np.asarray(odd).tobytes()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_waits_for_the_end_of_the_block(number):
    heard, done = [], []
    before = signal.signal(number, lambda *_: heard.append("handler"))
    try:
        with held_back():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append(list(heard))
        assert done == [[]] and heard == ["handler"]
        signal.raise_signal(number)
        assert len(heard) == 2, "afterwards as before"
    finally:
        signal.signal(number, before)


def test_a_thread_beside_the_main_one_is_left_alone():
    done = []

    def work():
        with held_back():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
