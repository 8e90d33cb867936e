"""A new study: experiment, priors and a table of synthetic mice that run as they are; the schema of experiments."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vtrial.config import Experiment
from vtrial.errors import InputError

SCHEMA = "experiment.schema.json"
#: arm -> mean and SD over PDX models of the fraction of growth removed
ARMS = {
    "vehicle": (0.0, 0.0),
    "trametinib": (0.7, 0.3),
    "drug-x": (0.5, 0.3),
    "trametinib + drug-x": (1.1, 0.35),
}
NUM_MODELS = 12
DAYS = range(0, 29, 4)


def schema() -> dict[str, Any]:
    """JSON schema of the experiment file, for editors."""
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vtrial experiment"}
    return {**Experiment.model_json_schema(), **title}


def schema_text() -> str:
    """`schema` as the text of a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def new_study(folder: str | os.PathLike[str], seed: int = 1) -> Path:
    """Write a study that runs as it is; returns its experiment file.

    Parameters
    ----------
    folder : path
        New or empty; its last part becomes the name of the experiment.
    seed : int
        Of the synthetic mice.

    Raises
    ------
    InputError
        Where the folder holds something, its name cannot name an experiment, or it cannot be written.
    """
    target = Path(os.path.abspath(folder))
    name = target.name
    try:
        Experiment.model_validate({"name": name, "data": {"path": "data", "source": "new"}})
    except ValueError:
        message = "cannot name a study; allowed are 1 to 64 of a-z, 0-9, _ and -, the first a letter or digit"
        raise InputError(f"{message}, found {name[:80]!r}", file=target) from None
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError("is there already and not empty; choose a new folder", file=target)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed: an interrupted command leaves no half a study.
        aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
        try:
            (aside / "data").mkdir()
            for file, text in _files(name, seed).items():
                (aside / file).write_text(text, encoding="utf-8")
            aside.chmod(0o755)
            os.replace(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot be written: {(error.strerror or str(error)).lower()}", file=target) from None
    return target / "experiment.yaml"


def _files(name: str, seed: int) -> dict[str, str]:
    templates = resources.files("vtrial") / "templates"
    experiment = (templates / "experiment.yaml").read_text(encoding="utf-8")
    return {
        "experiment.yaml": experiment.replace("NAME", name).replace("EXPERIMENT", f"{name}/experiment.yaml"),
        "priors.yaml": (templates / "priors.yaml").read_text(encoding="utf-8"),
        SCHEMA: schema_text(),
        "data/volumes.csv": synthetic_table(seed),
    }


def synthetic_table(seed: int) -> str:
    """CSV of mice drawn from a formula: exponential growth about PDX models, arms that remove a fraction of it."""
    rng = np.random.default_rng(seed)
    lines = ["tumour_type,pdx_model,mouse,arm,day,volume_mm3,body_weight_g,source"]
    growth = 0.06 * np.exp(0.3 * rng.standard_normal(NUM_MODELS))
    for model in range(NUM_MODELS):
        for arm, (mean, spread) in ARMS.items():
            effect = mean + spread * rng.standard_normal()
            start, rate = rng.normal(5.2, 0.25), growth[model] * (1.0 - effect + rng.normal(0.0, 0.2))
            # mice differ in how well they can be measured, as in real tables
            error, weight = 0.1 * np.exp(rng.normal(0.0, 0.4)), rng.normal(24.0, 1.5)
            for day in DAYS:
                volume = np.exp(start + rate * day + rng.normal(0.0, error))
                shown = 0.0 if volume <= 10.0 else volume
                who = f"M{model + 1:02d},M{model + 1:02d}-{arm.replace(' ', '')},{arm}"
                lines.append(f"ovarian,{who},{day},{shown:.1f},{weight + rng.normal(0, 0.3):.1f},synthetic")
                if volume > 1500.0:  # as a study would end it
                    break
    return "\n".join(lines) + "\n"
