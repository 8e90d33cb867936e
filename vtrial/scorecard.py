"""`vtrial validate`: from a fitted run to a folder of scores of published arms."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vtrial.errors import GateError, InputError
from vtrial.priors import Priors, load_priors, shipped_folder
from vtrial.store import RunFolder
from vtrial.yamlfile import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from vtrial.run import Devices
    from vtrial.taught import Settings

_PAGE = "validation.html"


def choose_run(devices: Devices, console: Console | None) -> tuple[Path, str]:
    """The run to judge where none is named, fitted where that has not been done, and the sentence that says which.

    The fit of the real curves where their table lies beside the checkout, else that of the synthetic twin.

    Raises
    ------
    InputError
        Where there is no folder of experiments: the package was installed without one.
    """
    from vtrial import run as pipeline
    from vtrial.experiment import load_experiment

    folder = shipped_folder().parent / "experiments"
    if not folder.is_dir():
        raise InputError("there are no experiments beside the package; name a fitted run with --run RUN_DIR")
    real = load_experiment(folder / "pdxe.yaml")
    if real.data_path().is_file():
        chosen, word = real, "REAL MICE: experiments/pdxe.yaml, the PDX encyclopaedia."
    else:
        chosen = load_experiment(folder / "lgsoc.yaml")
        word = (
            f"SYNTHETIC MICE: the table of experiments/pdxe.yaml is not at {real.data_path()}; the fit of "
            "experiments/lgsoc.yaml, a synthetic twin, stands in. These scores say nothing about real mice."
        )
    try:
        return pipeline.fit(chosen, None, devices=devices, console=console), word
    except GateError as failure:
        if failure.folder is None:
            raise
        return Path(failure.folder), f"{word} THE FIT DID NOT PASS ITS GATES."


def answer(summary: pd.DataFrame, coverage: Mapping[str, int]) -> list[str]:
    """The result in sentences: whether mice help, against what, in which arms, and whether the intervals hold."""
    words = {"no_mice": "the same pipeline without mice", "meta": "a meta-analysis without mice"}
    lines = []
    for against, text in words.items():
        for name in ("all arms", "drug and tumour type in the mice", "combinations"):
            found = summary[(summary["against"] == against) & (summary["arms_of"] == name)]
            if found.empty:
                continue
            row = found.iloc[0]
            verdict = "undecided"
            if row["high"] < 0:
                verdict = "mice help"
            elif row["low"] > 0:
                verdict = "mice are worse"
            lines.append(
                f"Against {text}, {name} ({row['arms']} arms of {row['trials']} trials): {verdict}; CRPS "
                f"{100 * row['crps']:.1f} against {100 * row['crps_other']:.1f} points, difference "
                f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]."
            )
    held = "within" if coverage["misses"] <= coverage["most"] else "MORE THAN"
    lines.append(
        f"90 % intervals miss {coverage['misses']} of {coverage['arms']} arms ({coverage['below']} below, "
        f"{coverage['above']} above), {held} what chance allows (at most {coverage['most']})."
    )
    return lines


def median_lines(medians: pd.DataFrame) -> list[str]:
    """How many published medians lie in their 90 % intervals.

    Parameters
    ----------
    medians
        Of :class:`vtrial.validation.Validation`.
    """
    from vtrial.scoring import most_misses

    lines = []
    names = {"ttr": "time to response", "pfs": "progression free survival"}
    for endpoint, name in names.items():
        part = medians[(medians["endpoint"] == endpoint) & medians["counted"]]
        if part.empty:
            continue
        teachers = part[part["role"] == "calibration"]
        memory = int((part["certainty"] == "recalled").sum())
        inside, own = int(part["inside"].sum()), int(teachers["inside"].sum())
        lines.append(
            f"Median {name}: {inside} of {len(part)} published ones lie in their 90 % intervals (chance misses at "
            f"most {most_misses(len(part))}), {own} of {len(teachers)} in calibration arms; {memory} are from memory."
        )
    return lines


def shrinkage_lines(shrinkage: pd.DataFrame) -> list[str]:
    """How many published counts of patients with any shrinkage lie in their 90 % intervals.

    Parameters
    ----------
    shrinkage
        Of :class:`vtrial.validation.Validation`.
    """
    part = shrinkage[shrinkage["counted"]]
    if part.empty:
        return []
    own = part[part["role"] == "calibration"]
    return [
        f"Any shrinkage of target lesions: {int(part['inside'].sum())} of {len(part)} published counts lie in their "
        f"90 % intervals, {int(own['inside'].sum())} of {len(own)} in calibration arms."
    ]


def of_classes(priors: Priors, classes: Sequence[str]) -> Priors:
    """The priors with those published arms only whose drugs are all of these mechanism classes; all if none is named.

    Raises
    ------
    InputError
        No such class, or no such arm.
    """
    if not classes:
        return priors
    known = sorted({drug.drug_class for drug in priors.drugs.values()})
    for name in classes:
        if name not in known:
            part = next((own for own in known if name.casefold() in own.casefold().split("/")), None)
            near = f"; did you mean {part!r}?" if part else nearest(name, known)
            raise InputError(f"no class {name!r}{near}; there are {', '.join(known)}", key="--classes")
    dosed = (arm for arm in priors.trials if arm.drugs)
    kept = tuple(arm for arm in dosed if {priors.drug_class(drug) for drug in arm.drugs} <= set(classes))
    if not kept:
        raise InputError(f"no published arm has drugs of {', '.join(classes)} alone", key="--classes")
    return replace(priors, trials=kept)


def validate(
    run_dir: Path,
    word: str,
    out: Path,
    settings: Settings,
    *,
    quick: bool,
    console: Console | None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Score the published arms with the fit of a run; writes tables and validation.html.

    Parameters
    ----------
    run_dir
        A fitted run; read only.
    word
        What the mice are, in a sentence.
    out
        Folder of the results.
    settings
        Size and seed.
    quick
        Whether the page must say that it is a first look.
    console
        For progress.
    classes
        See :func:`of_classes`.
    """
    from vtrial.experiment import load_resolved
    from vtrial.inputs import marks
    from vtrial.posterior import Draws
    from vtrial.progress import reporting
    from vtrial.report.validation_page import validation_page
    from vtrial.validation import validate as score_arms

    begun, folder = time.perf_counter(), RunFolder(run_dir)
    manifest = folder.manifest()
    # not the table: a run is judged where its data are not
    experiment = load_resolved(folder.file("experiment.yaml"), bool(manifest.get("quick", False)))
    priors = of_classes(load_priors(experiment.prior_paths()), classes)
    if not folder.has_posterior():
        raise InputError("holds no posterior; `vtrial fit` writes it", file=folder.path)
    with folder.open_posterior() as tree, reporting(console) as progress:
        draws = Draws(tree, settings.mice)
        found = score_arms(draws, priors, experiment.data.aliases, settings, progress)
    said = [word, *marks(experiment, manifest)] if word else list(marks(experiment, manifest))
    if quick:
        said.append("QUICK: few draws; scores are noisy.")
    if classes:
        said.append(f"ARMS OF {', '.join(classes)} ALONE: the others are neither predicted nor learnt from.")
    lines = answer(found.summary, found.coverage)
    ess, size = found.scores["ess"], settings.mice * settings.copies
    lines.append(f"Smallest effective number of draws {ess.min():.0f} of {size}, median {ess.median():.0f}.")
    lines += median_lines(found.medians) + shrinkage_lines(found.shrinkage)
    run = [] if word else ["--run", str(run_dir)]
    size = ["--draws", str(size), "--patients", str(settings.patients)]
    size += ["--classes", ",".join(classes)] if classes else []
    size += ["--teach", "orr"] if settings.endpoints == ("orr",) else []
    command = shlex.join(["vtrial", "validate", "--out", str(out), *run, *size])
    target = RunFolder(out)
    with target.lock():
        target.write_csv("validation.csv", found.scores)
        target.write_csv("not_predicted.csv", found.not_predicted)
        target.write_csv("summary.csv", found.summary)
        target.write_csv("medians.csv", found.medians)
        target.write_csv("shrinkage.csv", found.shrinkage)
        page = validation_page(
            found.scores,
            found.not_predicted,
            found.summary,
            found.medians,
            found.shrinkage,
            answer=lines,
            marks=said,
            command=command,
            date=time.strftime("%Y-%m-%d"),
            mice=f"{experiment.name}, fit {str(manifest.get('fit', {}).get('key', ''))[:12]}",
        )
        target.write_text(_PAGE, page)
        target.update_manifest(
            {
                "validation": {
                    "fit": manifest.get("fit", {}).get("key"),
                    "priors": priors.sha256,
                    "draws": size,
                    "patients": settings.patients,
                    "seed": settings.seed,
                    "endpoints": list(settings.endpoints),
                    "classes": list(classes),
                    "seconds": round(time.perf_counter() - begun, 1),
                    "coverage": dict(found.coverage),
                }
            }
        )
    return {"marks": said, "answer": lines, "page": target.path / _PAGE}
