"""What every test shares: how strict JAX is, and where the data beside the checkout lie."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Two host devices, so that what is spread over devices is spread in tests too; JAX reads this once, at its first use.
_TWO_DEVICES = "--xla_force_host_platform_device_count=2"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_TWO_DEVICES}".strip()

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# A silent broadcast of [N] against [M, N] is how shape errors become wrong numbers.
jax.config.update("jax_numpy_rank_promotion", "raise")

_REPOSITORY = Path(__file__).resolve().parent.parent

# Compiling is most of the tests' time: what one worker or pass has compiled, the next one with the same JAX reads.
jax.config.update("jax_compilation_cache_dir", str(_REPOSITORY / "build" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

_CORE = (
    "base",
    "growth",
    "exposure",
    "treatment",
    "response",
    "mrecist",
    "endpoints",
    "sobol",
    "patients",
    "course",
    "counting",
    "trial",
)

# Annotated shapes of the core are checked at every call, under pytest only; an int passes for a float, as for pyright.
if importlib.util.find_spec("beartype") is not None:
    _CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    jaxtyping.install_import_hook([f"vtrial.{module}" for module in _CORE], _CHECKER)


def _folder_beside_checkout(name: str) -> Path:
    folder = _REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"needs the folder shared/{name} beside the checkout, which is not here")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real tables; the test is skipped where it is absent."""
    return _folder_beside_checkout("data")


@pytest.fixture(scope="session")
def shared_facts() -> Path:
    """Folder of the published results; the test is skipped where it is absent."""
    return _folder_beside_checkout("facts")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Top of the checkout, for the shipped priors and experiments."""
    return _REPOSITORY


@pytest.fixture
def strict_dtypes() -> Iterator[None]:
    """No implicit change of dtype; for tests of the core (NumPyro itself does not run under it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Path]:
    """A run folder without a posterior: its name, the mean rate of each arm (SD 0.1), the ESS of the fit, settings."""
    import json

    from vtrial.experiment import load_experiment, resolved_yaml
    from vtrial.new import new_study

    def make(
        name: str, rates: dict[str, float], *, sd: float = 0.1, ess: float = 1e6, sets: Sequence[str] = ()
    ) -> Path:
        study, run = tmp_path / "study", tmp_path / name
        if not study.exists():
            new_study(study)
        run.mkdir()
        (run / "experiment.yaml").write_text(resolved_yaml(load_experiment(study / "experiment.yaml", sets), run))
        fit = {"passed": True, "key": "0", "draws": 2000, "mice": 48, "pdx_models": 12, "gates": []}
        manifest = {"kind": "vtrial run folder", "folder_format": 1, "files": {}, "quick": False, "fit": fit}
        (run / "manifest.json").write_text(json.dumps(manifest))
        head = "arm,tumour_type,subgroup,endpoint,kind,num_patients,mean,sd,q05,q25,q50,q75,q95"
        rows = [
            f"{arm},ovarian,all,{endpoint},{kind},40,{rate},0.1,{rate / 2},{rate},{rate},{rate},{min(1.5 * rate, 1)},,,"
            for arm, rate in rates.items()
            for endpoint in ("confirmed_orr", "dcr")
            for kind in ("population", "predictive")
        ]
        columns = f"{head},observed_responders,observed_patients,source"
        (run / "orr.csv").write_text("\n".join([columns, *rows]) + "\n")
        (run / "diagnostics.csv").write_text(f"parameter,rhat,ess_bulk,ess_tail\nloss,1.0,{ess},{ess}\n")
        return run

    return make
