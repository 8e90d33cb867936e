"""What this machine offers a run and what it lacks, as lines to print."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vtrial.devices import cache_folder, configure, cuda_hint, devices_for, machine, versions
from vtrial.errors import VtrialError

#: what `pyproject.toml` asks for
DEPENDENCIES = (
    "jax",
    "jaxlib",
    "optax",
    "numpyro",
    "pandas",
    "arviz",
    "xarray",
    "h5netcdf",
    "h5py",
    "scipy",
    "pydantic",
    "PyYAML",
    "typer",
    "rich",
    "matplotlib",
    "plotly",
    "jinja2",
    "openpyxl",
    "jaxtyping",
)


def findings() -> Iterator[str]:
    """One line a finding; the last ones say what is missing, or that nothing is."""
    missing = []
    installed = versions(("vtrial", *DEPENDENCIES))
    yield f"python       {installed.pop('python')}  {sys.executable}"
    yield f"vtrial       {installed.pop('vtrial') or 'not installed, run from a checkout'}"
    for name, found in installed.items():
        yield f"{name:<12} {found or 'MISSING'}"
        if found is None:
            missing.append(f"{name} is not installed: make install")
    here = machine()
    yield f"machine      {here['system']} {here['architecture']}, {here['cores']} cores, {here['cpu']}"
    yield from _devices(missing)
    total, available = _memory()
    yield f"memory       {_size(total)} in all" + (f", {_size(available)} free" if available else "")
    disk = shutil.disk_usage(Path.cwd())
    yield f"disk         {_size(disk.free)} free here of {_size(disk.total)}"
    cache = cache_folder()
    if cache is None:
        yield "cache        off: every run compiles anew (VTRIAL_CACHE)"
    else:
        files = [entry.stat().st_size for entry in cache.iterdir() if entry.is_file()] if cache.is_dir() else []
        yield f"cache        {cache}, {len(files)} files, {_size(sum(files))}"
    if hint := cuda_hint():
        missing.append(hint)
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "JAX_ENABLE_X64"):
        if name in os.environ:
            yield f"environment  {name}={os.environ[name][:80]}"
    yield from (f"missing      {one}" for one in missing)
    if not missing:
        yield "nothing is missing"


def _devices(missing: list[str]) -> Iterator[str]:
    try:
        configure()
        for kind in ("cpu", "cuda"):
            try:
                found = devices_for(kind)
            except VtrialError:
                yield f"{kind:<12} no device"
                continue
            memory = (found[0].memory_stats() or {}).get("bytes_limit") if kind == "cuda" else None
            limit = f", {_size(memory)} each" if memory else ""
            yield f"{kind:<12} {len(found)} device(s), {found[0].device_kind}{limit}"
    except Exception as error:  # a broken JAX is a finding, not a failure
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield "devices      none"
        missing.append(f"JAX does not start: {reason[:200]}")


def _memory() -> tuple[int, int | None]:
    """Bytes of memory in all, and available where the system tells."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return total, next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    except OSError:
        return total, None


def _size(num_bytes: int) -> str:
    value, units = float(num_bytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{num_bytes} B"
