"""Where compiled programs are kept, and what a manifest says of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from vtrial import devices
from vtrial.errors import InputError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VTRIAL_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = devices.cache_folder()
    assert folder is not None and folder.parent == tmp_path / "home/.cache/vtrial"
    assert folder.name.startswith(f"jaxlib-{devices.versions(('jaxlib',))['jaxlib']}-")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert devices.cache_folder() == tmp_path / "xdg/vtrial" / folder.name
    monkeypatch.setenv("VTRIAL_CACHE", str(tmp_path / "own"))
    assert devices.cache_folder() == tmp_path / "own" / folder.name
    monkeypatch.setenv("VTRIAL_CACHE", "OFF")
    assert devices.cache_folder() is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    assert devices.cache_folder() == tmp_path / "jax"


@pytest.fixture
def jax_settings():
    kept = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    yield
    for name, value in kept.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("jax_settings")
def test_configure_keeps_compiled_programs_and_places_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTRIAL_CACHE", str(tmp_path / "cache"))
    placement = devices.configure()
    assert placement.fit == "cpu" and placement.trial in ("cpu", "cuda")
    assert jax.config.jax_compilation_cache_dir == str(devices.cache_folder())
    assert [entry.stat().st_mode & 0o777 for entry in (tmp_path / "cache").iterdir()] == [0o700]
    assert devices.configure() == placement
    assert devices.device_for("cpu") == jax.devices("cpu")[0]
    assert devices.devices_for("cpu") == jax.devices("cpu")


@pytest.mark.usefixtures("jax_settings")
def test_a_cache_that_cannot_be_written_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VTRIAL_CACHE", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    devices.configure()
    assert jax.config.jax_compilation_cache_dir is None


def test_description_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads(json.dumps(devices.describe()))
    assert {"platform", "kind", "count", "fit", "versions", "machine"} == set(described)
    assert described["fit"] == {"platform": "cpu", "kind": "cpu", "count": len(jax.devices("cpu"))}
    assert described["versions"]["jax"] == jax.__version__
    assert described["machine"]["cores"] >= 1
    assert devices.versions(("no-such-package-here",))["no-such-package-here"] is None


def test_an_absent_platform_is_named_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_cpu(kind: str) -> list:
        if kind != "cpu":
            raise RuntimeError(f"Unknown backend: '{kind}' requested")
        return ["cpu 0", "cpu 1"]

    monkeypatch.setattr(jax, "devices", only_cpu)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"^--device: no cuda device: JAX found 2 cpu device.*make install EXTRAS=cuda13"
    ):
        devices.devices_for("cuda")
    assert devices.devices_for("auto") == ["cpu 0", "cpu 1"]


@pytest.mark.gpu
def test_auto_is_the_gpu_for_the_trial_and_the_cpu_for_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTRIAL_CACHE", "off")
    if jax.default_backend() != "gpu":
        pytest.skip("needs a CUDA device")
    assert devices.configure() == ("cuda", "cpu")
    assert devices.describe()["platform"] == "cuda"
