"""Which processor does what: the only place where JAX is configured, and only when a run asks for it."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from vtrial.errors import InputError

Kind = Literal["auto", "cpu", "cuda"]
Device: TypeAlias = Any  # jax.Device, which is no type to a type checker

MAX_CPU_DEVICES = 8
_PLUGIN = "jax_cuda13_plugin"
_log = logging.getLogger(__name__)


class Placement(NamedTuple):
    """The platform of each stage, "cpu" or "cuda"."""

    trial: Kind
    fit: Kind


def configure(kind: Kind = "auto", fit_kind: Kind = "auto") -> Placement:
    """Set JAX up before its first use in this process, and decide where the stages run.

    The CPU is seen as one device a core (at most 8), so that chains and blocks of patients run side by side; compiled
    programs are kept on disk (see `cache_folder`). ``JAX_PLATFORMS`` and ``XLA_FLAGS`` of the environment are
    respected. Called again, or after JAX was used, it changes nothing and only decides.

    Parameters
    ----------
    kind : {"auto", "cpu", "cuda"}
        Of the virtual trial; auto is the GPU where there is one.
    fit_kind : {"auto", "cpu", "cuda"}
        Of the fit; auto is the CPU, on which small fits are faster.

    Raises
    ------
    InputError
        CUDA is asked for and absent: there is no silent fallback.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", min(num_cores(), MAX_CPU_DEVICES))
        except RuntimeError:
            _log.debug("JAX was used before: it keeps the CPU devices that it has")
    if not os.environ.get("JAX_PLATFORMS") and kind == "cpu" and fit_kind in ("auto", "cpu"):
        jax.config.update("jax_platforms", "cpu")  # else a process would take memory on a GPU that it never uses
    _keep_compiled(cache_folder())
    trial = _platform(kind, ("cuda", "cpu"), "--device")
    return Placement(trial, _platform(fit_kind, ("cpu", "cuda"), "--fit-device"))


def devices_for(kind: Kind) -> list[Device]:
    """All devices of a platform; "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    InputError
        There is none.
    """
    return _found(_platform(kind, ("cuda", "cpu"), "--device"))


def fit_kind(kind: Kind) -> Kind:
    """Platform of the fit: "auto" is the CPU, on which small fits in float64 are faster."""
    return _platform(kind, ("cpu", "cuda"), "--fit-device")


def device_for(kind: Kind) -> Device:
    """The first of `devices_for`."""
    return devices_for(kind)[0]


def describe(kind: Kind = "auto", fit_kind: Kind = "auto") -> dict[str, Any]:
    """What a run ran on, for its manifest: platform, kind and count of the devices, versions, machine.

    ``platform``, ``kind`` and ``count`` are those of the trial; ``fit`` holds the same three of the fit.
    """
    placement = Placement(
        _platform(kind, ("cuda", "cpu"), "--device"), _platform(fit_kind, ("cpu", "cuda"), "--fit-device")
    )

    def of(chosen: Kind) -> dict[str, Any]:
        found = _found(chosen)
        return {"platform": chosen, "kind": str(found[0].device_kind), "count": len(found)}

    return {**of(placement.trial), "fit": of(placement.fit), "versions": versions(), "machine": machine()}


def versions(names: tuple[str, ...] = ("vtrial", "jax", "jaxlib", "numpyro")) -> dict[str, str | None]:
    """Installed versions by package, None where it is not installed, and that of Python."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def machine() -> dict[str, Any]:
    """System, processor and number of cores, without names of hosts or users."""
    model = _cpuinfo("model name") or platform.processor() or platform.machine()
    return {"system": platform.system(), "architecture": platform.machine(), "cpu": model, "cores": num_cores()}


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path | None:
    """Folder of compiled programs; None where it is switched off.

    ``VTRIAL_CACHE`` names another root, or is "off"; ``JAX_COMPILATION_CACHE_DIR`` goes first. The default root is
    ``vtrial`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Below it each version of jaxlib and each kind of processor has a
    folder of its own: on a shared home, code compiled for one processor could stop another with an illegal instruction.
    """
    if own := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(own)
    root = os.environ.get("VTRIAL_CACHE", "")
    if root.strip().lower() == "off":
        return None
    if not root:
        base = os.environ.get("XDG_CACHE_HOME", "")
        root = os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "vtrial")
    return Path(root).expanduser().absolute() / f"jaxlib-{versions(('jaxlib',))['jaxlib']}-{processor()}"


def processor() -> str:
    """A short name of what the processor can do: equal names run the same compiled code."""
    features = (_cpuinfo("flags") or _cpuinfo("Features") or platform.processor()).encode()
    return f"{platform.machine()}-{hashlib.sha256(features).hexdigest()[:8]}"


def cuda_hint() -> str | None:
    """What makes an NVIDIA GPU of this machine usable; None where nothing is missing, or there is no such GPU."""
    if not Path("/proc/driver/nvidia/version").exists():
        return None
    if importlib.util.find_spec(_PLUGIN) is None:
        return "an NVIDIA driver is here but JAX has no CUDA plugin: make install EXTRAS=cuda13"
    return None


def _platform(kind: Kind, order: tuple[Kind, Kind], option: str) -> Kind:
    if kind == "auto":
        return order[0] if _found(order[0]) else order[1]
    if _found(kind):
        return kind
    other = order[1] if order[0] == kind else order[0]
    found = f"JAX found {len(_found(other))} {other} device(s)"
    asked = os.environ.get("JAX_PLATFORMS")
    if asked:
        what = f"JAX_PLATFORMS={asked[:40]} leaves it out; unset it"
    elif kind == "cuda" and importlib.util.find_spec(_PLUGIN) is None:
        what = "install the CUDA plugin with `make install EXTRAS=cuda13`"
    else:
        what = "the CUDA plugin is installed, but no driver and GPU answer it (see nvidia-smi)"
    raise InputError(f"no {kind} device: {found}; {what}, or leave {option} at auto", key=option)


def _found(kind: Kind) -> list[Device]:
    import jax

    try:
        return list(jax.devices(kind))
    except (RuntimeError, AssertionError) as error:  # an assertion where JAX_PLATFORMS leaves no platform at all
        if not isinstance(error, AssertionError) and "Unable to initialize backend" not in str(error):
            return []
        if asked := os.environ.get("JAX_PLATFORMS"):
            message = f"names {asked[:40]!r}, which JAX cannot start here; unset it, or set it to cpu"
            raise InputError(message, key="JAX_PLATFORMS") from None
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(f"JAX cannot start: {reason[:300]}; JAX_PLATFORMS=cpu leaves a broken GPU out") from None


def _keep_compiled(folder: Path | None) -> None:
    import jax

    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.info("compiled programs are not kept: %s: %s", folder, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # hundreds of small programs are seconds


def _cpuinfo(field: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            return next((line.partition(":")[2].strip() for line in stream if line.startswith(field)), "")
    except OSError:
        return ""
