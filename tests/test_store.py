"""The run folder: whole files or none, one writer, damage named."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vtrial.disk import file_sha256
from vtrial.errors import InputError
from vtrial.store import KIND, MANIFEST, POSTERIOR, RunFolder, default_run_dir


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "lgsoc" / "0f").create()


@pytest.fixture
def tree() -> xr.DataTree:
    random = np.random.default_rng(0)
    coords = {"chain": [0, 1], "draw": np.arange(50), "drug": ["trametinib", "<b>&ö"]}
    posterior = xr.Dataset(
        {
            "kill": (("chain", "draw", "drug"), random.normal(size=(2, 50, 2))),
            "energy": (("chain", "draw"), random.normal(size=(2, 50)) + 1e9),
        },
        coords=coords,
        attrs={"created_by": "test"},
    )
    stats = xr.Dataset({"diverging": (("chain", "draw"), np.zeros((2, 50), bool)), "step": ((), 0.25)})
    return xr.DataTree.from_dict({"/posterior": posterior, "/sample_stats": stats})


def names(folder: RunFolder) -> list[str]:
    return sorted(entry.relative_to(folder.path).as_posix() for entry in folder.path.rglob("*") if entry.is_file())


def test_name_and_key_cannot_leave_the_root(tmp_path: Path) -> None:
    assert default_run_dir(tmp_path, "lgsoc", "0f3a") == tmp_path / "lgsoc" / "0f3a"
    for name, key in [
        ("..", "0f"),
        ("a/b", "0f"),
        ("a", "../0f"),
        ("", "0f"),
        ("a\n", "0f"),
        ("/etc", "0f"),
        ("A", "0f"),
    ]:
        with pytest.raises(InputError, match="must be 1 to 64 of a-z, 0-9, _ and -, found"):
            default_run_dir(tmp_path, name, key)


def test_writes_are_exact_and_leave_nothing_aside(folder: RunFolder) -> None:
    folder.write_bytes("a.bin", b"\x00\r\n")
    folder.write_text("figures/a.svg", "µ\n")
    folder.write_json("b.json", {"z": 1, "a": "µ"})
    folder.write_csv("orr.csv", pd.DataFrame({"arm": ["a,b", "c"], "mean": [0.1, 1 / 3]}))
    assert (folder.path / "a.bin").read_bytes() == b"\x00\r\n"
    assert (folder.path / "b.json").read_text() == '{\n  "z": 1,\n  "a": "µ"\n}\n'
    assert (folder.path / "orr.csv").read_bytes() == b'arm,mean\n"a,b",0.1\nc,0.3333333333333333\n'
    assert names(folder) == ["a.bin", "b.json", "figures/a.svg", MANIFEST, "orr.csv"]
    assert folder.exists("figures/a.svg")
    folder.remove("figures/a.svg")
    folder.remove("figures/a.svg")
    assert not folder.exists("figures/a.svg")
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("b.json", {"a": float("nan")})
    assert '"z": 1' in (folder.path / "b.json").read_text()


def test_an_interrupted_write_leaves_the_old_file(folder: RunFolder) -> None:
    folder.write_text("orr.csv", "old")
    with pytest.raises(KeyboardInterrupt), folder.writing("orr.csv") as aside:
        assert aside.parent == folder.path
        aside.write_text("half of the n")
        raise KeyboardInterrupt
    assert (folder.path / "orr.csv").read_text() == "old"
    assert names(folder) == [MANIFEST, "orr.csv"]


BAD_NAMES = ["../a", "/etc/passwd", "a/../../b", ".lock", "", "a//b", "a/", "figures/.hidden", "a\\b", "a\0b", "."]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_stay_in_the_folder(folder: RunFolder, name: str) -> None:
    with pytest.raises(InputError, match="plain relative name without leading dots, found"):
        folder.write_text(name, "x")
    assert names(folder) == [MANIFEST]


def test_a_link_does_not_lead_out(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (folder.path / "figures").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leads out of the run folder"):
        folder.write_text("figures/a.svg", "x")
    assert list((tmp_path / "outside").iterdir()) == []


def test_manifest_is_kept_and_updated(folder: RunFolder) -> None:
    folder.update_manifest({"seed": 1, "gates": {"rhat": 1.0}})
    folder.update_manifest({"seed": 2})
    manifest = RunFolder(folder.path).create().manifest()
    assert (manifest["kind"], manifest["seed"], manifest["gates"]) == (KIND, 2, {"rhat": 1.0})


DAMAGED = [
    (None, "has no manifest.json"),
    ("", "is damaged"),
    ("{", "is damaged"),
    ("[" * 100_000, "is damaged"),
    ("[]", "is not the manifest of a run folder"),
    ('{"kind": "other", "files": {}}', f"must be '{KIND}'"),
    (f'{{"kind": "{KIND}"}}', "is not the manifest of a run folder"),
    (f'{{"kind": "{KIND}", "files": {{}}}}', "folder format None"),
    (f'{{"kind": "{KIND}", "files": {{}}, "folder_format": 99}}', "folder format 99; this one reads up to 1"),
    (
        f'{{"kind": "{KIND}", "files": {{}}, "folder_format": 99, "device": {{"versions": {{"vtrial": "9.9"}}}}}}',
        "made by vtrial 9.9",
    ),
    (f'{{"kind": "{KIND}", "files": {{}}, "folder_format": 99, "device": []}}', "made by another vtrial"),
]


@pytest.mark.parametrize(("text", "expected"), DAMAGED)
def test_damaged_manifests_are_named(tmp_path: Path, text: str | None, expected: str) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError) as caught:
        RunFolder(tmp_path).manifest()
    assert str(caught.value).startswith(str(tmp_path))
    assert expected in str(caught.value)


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for use in (RunFolder(tmp_path).create, RunFolder(tmp_path).lock().__enter__):
        with pytest.raises(
            InputError, match=r"is not a run folder: it has no manifest.json but holds 'thesis.tex'.*--out"
        ):
            use()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="cannot be written: a part of its path is a file"):
        RunFolder(tmp_path / "thesis.tex" / "run").create()
    with pytest.raises(InputError, match="cannot be written: a part of its path is a file"):
        RunFolder(tmp_path / "thesis.tex").create()
    with pytest.raises(InputError, match="there is no such folder"):
        RunFolder(tmp_path / "none").manifest()


HOLD = """
import sys, time
from vtrial.store import RunFolder
with RunFolder(sys.argv[1]).lock() as folder:
    aside = folder.path / ".aside-1-orr.csv"
    aside.write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_works_and_a_kill_frees_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with (
                pytest.raises(InputError, match=rf"is in use by process {process.pid} on .+ since 20.*wait"),
                folder.lock(),
            ):
                pass
        finally:
            process.send_signal(signal.SIGKILL)
    assert ".aside-1-orr.csv" in names(folder)
    with folder.lock():
        assert names(folder) == [".lock", MANIFEST]  # the half file of the killed process is gone
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} "), RunFolder(folder.path).lock():
            pass
    with folder.lock():
        pass


def test_posterior_comes_back_with_its_labels(folder: RunFolder, tree: xr.DataTree) -> None:
    assert not folder.has_posterior()
    with pytest.raises(InputError, match=r"posterior.nc: is missing; run the fit again"):
        folder.open_posterior()
    path = folder.write_posterior(tree, keep_float64=["energy"])
    assert folder.has_posterior()
    with folder.open_posterior() as opened:
        posterior = opened["posterior"].to_dataset()
        assert posterior["kill"].dtype == np.float32
        assert posterior["energy"].dtype == np.float64
        assert posterior["kill"].encoding["zlib"] and posterior["kill"].encoding["complevel"] == 4
        assert list(posterior["drug"].values) == ["trametinib", "<b>&ö"]
        assert posterior.attrs["created_by"] == "test"
        # float32 keeps 24 bits
        np.testing.assert_allclose(posterior["kill"], tree["posterior"]["kill"], rtol=2.0**-24)
        np.testing.assert_array_equal(posterior["energy"], tree["posterior"]["energy"])
        assert opened["sample_stats"]["diverging"].dtype == bool
        assert opened["sample_stats"]["step"].item() == 0.25
    assert tree["posterior"]["kill"].dtype == np.float64
    first = file_sha256(path)
    folder.write_posterior(tree, keep_float64=["energy"])
    assert file_sha256(path) == first  # equal trees, equal bytes
    with folder.open_posterior() as opened:
        again = opened.load()
    folder.write_posterior(again)  # what was read carries encodings of its own
    with folder.open_posterior() as opened:
        assert opened["posterior"]["energy"].dtype == np.float32


def test_damaged_or_unfinished_posteriors_are_named(folder: RunFolder, tree: xr.DataTree) -> None:
    path = folder.write_posterior(tree)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"posterior.nc: is damaged: .*run the fit again"):
        folder.open_posterior()
    path.write_bytes(content[:1000])
    with pytest.raises(InputError, match="is damaged"):
        folder.open_posterior()
    folder.update_manifest({"files": {POSTERIOR: {"sha256": file_sha256(path)}}})
    with pytest.raises(InputError, match="cannot be opened"):
        folder.open_posterior()
    folder.update_manifest({"files": {}})
    assert not folder.has_posterior()
    with pytest.raises(InputError, match="was not finished"):
        folder.open_posterior()


ARRAYS = {
    "key_data": np.array([1, 2**32 - 1], np.uint32),
    "file": np.linspace(0, 1, 1000).reshape(10, 100),
    "names": np.array(["a", "ö"]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "a/b": np.array([True, False]),
}


def test_arrays_come_back_bit_by_bit(folder: RunFolder) -> None:
    path = folder.save_arrays("checkpoints/block-3.npz", ARRAYS)
    again = folder.load_arrays("checkpoints/block-3.npz")
    assert set(again) == set(ARRAYS)
    for key, array in ARRAYS.items():
        assert again[key].dtype == array.dtype
        assert again[key].shape == array.shape
        assert again[key].tobytes() == array.tobytes()
    with np.load(path, allow_pickle=False) as plain:  # an ordinary npz
        assert plain["scalar"] == 3.5


def test_any_damage_to_arrays_is_seen(folder: RunFolder) -> None:
    path = folder.save_arrays("state.npz", ARRAYS)
    content = path.read_bytes()
    random = np.random.default_rng(1)
    cut = [content[:0], content[:10], content[: len(content) // 2], content[:-1], content + b"x" * 70_000]
    flipped = []
    for place in random.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        flipped.append(bytes(damaged))
    seen = 0
    for damaged in cut + flipped:
        path.write_bytes(damaged)
        try:
            again = folder.load_arrays("state.npz")
        except InputError as error:
            seen += 1
            assert str(error).startswith(f"{path}: is damaged")
        else:  # a byte of the zip container that carries nothing
            assert all(again[key].tobytes() == array.tobytes() for key, array in ARRAYS.items())
    assert seen > 50
    with pytest.raises(InputError, match="is missing"):
        folder.load_arrays("none.npz")


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("boom",))


def test_no_pickle_is_written_or_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    with pytest.raises(ValueError, match="only arrays of numbers and text"):
        folder.save_arrays("a.npz", {"a": np.array([Boom()], object)})
    np.savez(folder.path / "b.npz", a=np.array([Boom()], object))
    (folder.path / "c.npz").write_bytes(pickle.dumps(Boom()))
    np.savez(folder.path / "d.npz", a=np.zeros(3))  # no hash
    for name in ("b.npz", "c.npz", "d.npz"):
        with pytest.raises(InputError, match="is damaged"):
            folder.load_arrays(name)
    assert not (folder.path / "boom").exists()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no mount command: {error}")
    if refused.returncode:
        pytest.skip(f"a mount is refused here: {refused.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_or_read_only_disk_is_one_clear_error(tmp_path: Path, tree: xr.DataTree) -> None:
    with small_disk(tmp_path / "disk") as disk:
        folder = RunFolder(disk / "run").create()
        folder.write_text("orr.csv", "old")
        with pytest.raises(InputError, match=r"orr.csv: cannot be written: the disk is full; free some space"):
            folder.write_bytes("orr.csv", bytes(400_000))
        with pytest.raises(InputError, match="the disk is full"):
            folder.save_arrays("a.npz", {"a": np.random.default_rng(0).normal(size=100_000)})
        large = xr.DataTree.from_dict(
            {"/posterior": xr.Dataset({"a": ("n", np.random.default_rng(0).normal(size=10**5))})}
        )
        with pytest.raises(InputError, match=r"posterior.nc: cannot be written: the disk is full"):
            folder.write_posterior(large)
        assert (folder.path / "orr.csv").read_text() == "old"
        assert names(folder) == [MANIFEST, "orr.csv"]
        folder.write_posterior(tree)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for use in (folder.lock().__enter__, RunFolder(disk / "new").create, lambda: folder.write_text("a", "b")):
            with pytest.raises(InputError, match="cannot be written: the disk is read-only; choose another folder"):
                use()
        with folder.open_posterior() as opened:  # reading goes on
            assert "kill" in opened["posterior"]


LIMITED = """
import resource, sys
from vtrial.errors import InputError
from vtrial.store import RunFolder
folder = RunFolder(sys.argv[1]).create()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    folder.write_bytes("orr.csv", bytes(2000))
except InputError as error:
    print(error)
"""


def test_a_write_that_the_system_stops_is_one_clear_error(tmp_path: Path) -> None:
    """Like a full disk, where no disk can be mounted."""
    run = [sys.executable, "-c", LIMITED, str(tmp_path / "run")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert (
        printed
        == f"{tmp_path / 'run' / 'orr.csv'}: cannot be written: the file would be larger than the system allows\n"
    )
    assert names(RunFolder(tmp_path / "run")) == [MANIFEST]
