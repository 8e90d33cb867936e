"""A run that is killed, stopped, or out of disk, and the same command again: it goes on to the same bytes."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vtrial import cli
from vtrial.errors import InputError, InterruptedRun
from vtrial.store import RunFolder

EXPERIMENT = """\
name: tiny
data: {path: table.csv, source: made for a test, synthetic: true, constants: {study: T, tumour_type: BRCA}}
fit: {svi_steps: 50}
mice: {min_models: 3}
quick: {fit: {block: 25, gates: {rhat: 9.0, ess_bulk: 1.0, ess_tail: 1.0, rhat_pdx_model: 9.0, divergences: 1.0}}}
trial:
  visits: {every_days: 56, until_days: 224}
  cohorts:
    - tumour_type: BRCA
      arms:
        - {name: trametinib 2 mg, drugs: {trametinib: {dose: 2 mg, repeat: 1 d}}}
"""
#: seconds; a machine may be busy with other things
PATIENCE = 1800
TABLES = ("orr.csv", "posterior.nc", "mouse_response.csv", "diagnostics.csv", "figures/waterfall.csv")


class Bench:
    """A tiny experiment in a folder of its own, compiled programs that are kept, and a run that nothing disturbed."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        rng = np.random.default_rng(0)
        lines = ["pdx_model,mouse,arm,day,volume_mm3"]
        for model in range(3):
            for arm, rate in (("untreated", 0.05), ("trametinib", 0.02)):
                for day in range(0, 29, 4):
                    volume = np.exp(5.3 + (rate + 0.01 * model) * day + rng.normal(0.0, 0.1))
                    lines.append(f"PDX-{model},m{model}{arm[0]},{arm},{day},{volume:.1f}")
        self.environment = {
            "PYTHONPATH": str(Path(cli.__file__).parent.parent),
            "VTRIAL_CACHE": str(folder / "cache"),
            # nothing here is long enough to be worth optimised code, which takes half a minute more to compile
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
            "JAX_PLATFORMS": "cpu",
        }
        (folder / "table.csv").write_text("\n".join(lines) + "\n")
        (folder / "exp.yaml").write_text(EXPERIMENT)
        assert self.begin("whole").wait(timeout=PATIENCE) == 0, self.said()

    def begin(self, out: str | Path, *command: str) -> subprocess.Popen[bytes]:
        """Start a command, `vtrial run` where none is given; what it says on stderr goes to `said`."""
        paths = self.environment | {"PYTHONWARNINGS": "error"}
        arguments = command or ("run", "exp.yaml", "--quick", "--out", str(out))
        self.count += 1
        with (self.folder / f"said-{self.count}").open("wb") as said, open(os.devnull, "wb") as nothing:
            process = [sys.executable, "-m", "vtrial", *arguments]
            return subprocess.Popen(process, cwd=self.folder, env=os.environ | paths, stdout=nothing, stderr=said)

    def refused(self, *command: str) -> str:
        """What a command says that ends as bad input does."""
        assert self.begin("", *command).wait(timeout=PATIENCE) == InputError.exit_code, self.said()
        assert "Traceback" not in self.said()
        return self.said()

    def said(self) -> str:
        """What the last command said."""
        return (self.folder / f"said-{self.count}").read_text()

    def pieces(self, out: str | Path, stage: str) -> list[str]:
        return sorted(file.name for file in (self.folder / out).glob(f"checkpoints/{stage}-*/*.npz"))

    def tables(self, out: str | Path) -> dict[str, bytes]:
        return {name: (self.folder / out / name).read_bytes() for name in TABLES}

    def finishes_as_undisturbed(self, out: str | Path) -> None:
        running = self.begin(out)
        assert running.wait(timeout=PATIENCE) == 0, self.said()
        assert self.tables(out) == self.tables("whole")
        assert self.files(out) == self.files("whole"), "no checkpoint is left"

    def files(self, out: str | Path) -> set[str]:
        home = self.folder / out
        return {str(entry.relative_to(home)) for entry in home.rglob("*")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def killed(running: subprocess.Popen[bytes]) -> None:
    running.kill()
    assert running.wait() == -signal.SIGKILL


def once(running: subprocess.Popen[bytes], seen: Callable[[], object]) -> None:
    """Wait until something is seen of a running command."""
    while not seen():
        assert running.poll() is None, "the command ended first"
        time.sleep(0.005)


@pytest.mark.workflow
def test_a_run_that_is_killed_or_stopped_goes_on(bench: Bench) -> None:
    # killed in the variational start, before anything is kept
    running = bench.begin("broken")
    once(running, lambda: "variational start" in bench.said())
    folder = RunFolder(bench.folder / "broken")
    with pytest.raises(InputError, match=f"is in use by process {running.pid} on .+ since "), folder.lock():
        pass
    killed(running)
    # killed at a block or within one
    running = bench.begin("broken")
    once(running, lambda: len(bench.pieces("broken", "fit")) > 4)
    killed(running)
    kept = bench.pieces("broken", "fit")
    assert kept[-1] == "start.npz" and not folder.exists("posterior.nc")
    # stopped in the trial as Slurm stops it
    running = bench.begin("broken")
    once(running, lambda: bench.pieces("broken", "trial"))
    assert "the fit goes on from its checkpoint" in bench.said()
    running.send_signal(signal.SIGUSR1)
    assert running.wait(timeout=PATIENCE) == InterruptedRun.exit_code
    assert bench.said().splitlines()[-1] == f"vtrial: {cli.STOPPED}"
    assert bench.pieces("broken", "trial") and not bench.pieces("broken", "fit")
    bench.finishes_as_undisturbed("broken")
    for out, resumed in (("broken", True), ("whole", False)):
        assert RunFolder(bench.folder / out).manifest()["fit"]["resumed"] is resumed
    assert "the fit of key" in bench.said() and "the trial goes on from its checkpoint" in bench.said()
    # not a test of its own, so that workers side by side do not each make the undisturbed run
    what_cannot_be_read_is_named(bench)


@pytest.mark.workflow
def test_an_interrupted_kernel_leaves_a_checkpoint_that_is_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop button of Jupyter in the middle of a fit, and the same cell again: the tables of an undisturbed run."""
    jupyter_client = pytest.importorskip("jupyter_client", reason="needs Jupyter: pip install vtrial[dev]")
    for name, value in bench.environment.items():
        monkeypatch.setenv(name, value)
    cell = 'from vtrial.cli import main\nmain(["run", "exp.yaml", "--quick", "--out", "kernel"])'
    told: list[str] = []

    def hear(message: dict) -> None:
        content = message["content"]
        told.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    manager = jupyter_client.KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(bench.folder))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        asked = client.execute(cell)
        until = time.monotonic() + PATIENCE
        while len(bench.pieces("kernel", "fit")) < 3:
            assert time.monotonic() < until and manager.is_alive()
            time.sleep(0.005)
        manager.interrupt_kernel()
        answer = None
        while answer is None:
            assert manager.is_alive() and time.monotonic() < until, "the kernel did not outlive its interruption"
            with contextlib.suppress(queue.Empty):
                answer = client.get_shell_msg(timeout=1)
        assert answer["parent_header"]["msg_id"] == asked and answer["content"]["status"] == "ok"
        assert bench.pieces("kernel", "fit") and not RunFolder(bench.folder / "kernel").exists("posterior.nc")
        client.execute_interactive(cell, output_hook=hear, timeout=PATIENCE)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "the fit goes on from its checkpoint" in "".join(told)
    assert [text for text in told if text][-1] == "0"
    assert bench.tables("kernel") == bench.tables("whole")


def what_cannot_be_read_is_named(bench: Bench) -> None:
    shutil.copytree(bench.folder / "whole", bench.folder / "copy")
    folder = RunFolder(bench.folder / "copy")
    posterior, manifest = folder.file("posterior.nc"), folder.manifest()
    whole = posterior.read_bytes()
    posterior.write_bytes(whole[:1000] + bytes(byte ^ 1 for byte in whole[1000:1004]) + whole[1004:])
    for command in (("simulate", "copy"), ("report", "copy"), ("run", "exp.yaml", "--quick", "--out", "copy")):
        assert f"{posterior}: is damaged: its content is not what the manifest records" in bench.refused(*command)
    posterior.write_bytes(whole)
    # of a run that did not finish: the tables may be of the run before
    folder.update_manifest({"finished": None})
    assert "is of a run that did not finish; the same `vtrial run` goes on" in bench.refused("report", "copy")
    # of another version: what it cannot have known, and numbers that this one makes otherwise
    device = {**manifest["device"], "versions": {**manifest["device"]["versions"], "vtrial": "0.0.7"}}
    folder.write_json("manifest.json", {**manifest, "device": device, "formats": {"fit": 0, "run": 0}})
    told = bench.refused("simulate", "copy", "--set", "fit.seed=8")
    assert "was made by vtrial 0.0.7 with formats {'fit': 0, 'run': 0}, and this is vtrial " in told
    text = folder.file("experiment.yaml").read_text()
    folder.write_text("experiment.yaml", text + "gone: 1\n")
    told = bench.refused("simulate", "copy")
    assert "gone: " in told and "; the run folder was made by vtrial 0.0.7 with formats" in told
    # a folder of the first version, whose manifest says less, opens
    folder.write_text("experiment.yaml", text)
    folder.write_json("manifest.json", {k: v for k, v in manifest.items() if k not in ("formats", "finished")})
    assert bench.begin("", "simulate", "copy").wait(timeout=PATIENCE) == 0, bench.said()


@pytest.mark.slow
def test_twenty_of_twenty_kills_resume_to_the_same_bytes(bench: Bench) -> None:
    """SIGKILL at moments spread at random over a whole run, from the start of the process to its end."""
    begun = time.monotonic()
    bench.finishes_as_undisturbed("warm")
    seconds = time.monotonic() - begun
    rng = np.random.default_rng(20)
    moments = seconds * (np.arange(20) + rng.random(20)) / 20
    hit: Counter[str] = Counter()
    for number, moment in enumerate(rng.permutation(moments)):
        out = f"kill-{number}"
        running = bench.begin(out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(timeout=moment)
        where = bench.said().splitlines()[-1:]  # it may have said nothing yet
        running.kill()
        assert running.wait() in (-signal.SIGKILL, 0)  # 0: this time the run was faster than the moment
        hit[where[0].partition(" ")[2] if where else "starting"] += 1
        bench.finishes_as_undisturbed(out)
        shutil.rmtree(bench.folder / out)
    print(f"20 of 20, over {seconds:.1f} s; the last lines before the kills: {dict(hit)}")
    assert len(hit) >= 3, "more than one stage was hit"


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


@pytest.mark.slow
def test_a_full_disk_loses_nothing(bench: Bench) -> None:
    """A disk that is full in the middle of the draws, then larger, then read-only."""
    with small_disk(bench.folder / "disk") as disk:
        out = disk / "run"
        command = ("run", "exp.yaml", "--quick", "--out", str(out))
        told = bench.refused(*command)
        assert "cannot be written: the disk is full; free some space and run the same command again" in told
        kept = bench.pieces(out, "fit")
        assert len(kept) > 1 and not list(out.rglob(".aside*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        bench.finishes_as_undisturbed(out)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "cannot be written: the disk is read-only; choose another folder with --out" in bench.refused(*command)
        assert bench.tables(out) == bench.tables("whole")
        assert bench.begin("", "simulate", str(out)).wait(timeout=PATIENCE) == 0, bench.said()
