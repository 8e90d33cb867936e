"""A simulated PDX study from implantation to endpoint, written as a table that a fit reads, with what was planted.

    patients' tumours -> take -> passages -> mice of a model -> take -> growth into the window -> arms -> endpoint

Tumours grow and are treated by the equations of the fit (:mod:`vtrial.growth_laws`, :mod:`vtrial.treatment`): a
mouse i of model m under the joint effect rho of its arm has

    ln V(t)/V(0) = g_m [(1 - rho + delta_i) t + (loss rho - slowing) q(t)]

from its own randomisation on. What is measured is length and width, each with an error of its own, and
``V = length width^2 / 2``. Whoever outgrows the window between two measurements, is too slow for it, or is not needed
(drawn at random) does not enter the study; a mouse ends at the last day, at the volume or weight limit, or by a death
of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd

from vtrial.disk import whole
from vtrial.errors import InputError
from vtrial.growth_laws import waning_time
from vtrial.pdx_protocol import Protocol
from vtrial.priors import load_priors
from vtrial.store import RunFolder
from vtrial.treatment import combine

#: mice that a model is passed on to; it is lost where it takes in none of them
_MICE_PER_PASSAGE = 3
#: the passage that the median growth is that of
REFERENCE_PASSAGE = 4
_WEIGHT_G, _WEIGHT_SD, _WEIGHT_ERROR = 24.0, 1.5, 0.3
_WEIGHT_DAYS = 7.0  # half of a drug's loss of weight is there after about 5 days
_DETECTION_LIMIT_MM3 = 10.0


class SimulatedStudy(NamedTuple):
    """A study and what is behind it.

    Attributes
    ----------
    table : DataFrame, a row per measurement
        tumour_type, pdx_model, mouse, arm, day (since randomisation), volume_mm3 (0 where undetectable), length_mm,
        width_mm, body_weight_g, host_strain, implant_site, passage, source; and on a mouse's last row pfak (as a share
        of the model's own level), metastasis (0 or 1) and end (end of study, volume, weight, death).
    truth : DataFrame
        parameter (as in `diagnostics.csv`), planted.
    flow : DataFrame
        step, models, mice: from tumours implanted to mice at the end.
    readout : DataFrame
        arm, mice, tgi_pct (of the median model, day 21), pfak, metastasis (share of mice), and mice by how they ended.
    """

    table: pd.DataFrame
    truth: pd.DataFrame
    flow: pd.DataFrame
    readout: pd.DataFrame


class _Model(NamedTuple):
    name: str
    passage: int
    growth: float  # 1/day
    effect: dict[str, float]  # of every arm, the control 0


def simulate_study(protocol: Protocol) -> SimulatedStudy:
    """Run a protocol; the same seed gives the same study."""
    rng = np.random.default_rng(protocol.seed)
    models, steps = _established(rng, protocol)
    rows: list[dict[str, object]] = []
    counts: dict[str, int] = dict.fromkeys(
        ("implanted", "taken", "outgrew the window", "did not reach it", "surplus", "randomised"), 0
    )
    studied = 0
    for model in models:
        studied += _study_of(rng, protocol, model, rows, counts)
    steps += [("models with mice in the study", studied, counts["randomised"])]
    steps[-1:-1] = [(f"mice {what}", len(models), number) for what, number in counts.items()]
    if not rows:
        raise InputError("no mouse enters this study; implant more, or widen the window", key="implant")
    table = pd.DataFrame(rows)
    ends = table["end"].dropna().value_counts()
    steps += [
        (f"ended: {end}", studied, int(ends.get(end, 0))) for end in ("end of study", "volume", "weight", "death")
    ]
    flow = pd.DataFrame(steps, columns=["step", "models", "mice"])
    return SimulatedStudy(table, planted(protocol), flow, _readout(protocol, table))


def study_folder(protocol: Protocol, out: Path, run_dir: Path | None = None) -> dict[str, pd.DataFrame]:
    """Simulate a study and write volumes, truth, flow and readout, with a run of that table recovery too, as CSV.

    Raises
    ------
    InputError
        Where no mouse entered the study, or the run folder holds no `diagnostics.csv`.
    """
    found = simulate_study(protocol)
    tables = {"volumes": found.table, "truth": found.truth, "flow": found.flow, "readout": found.readout}
    if run_dir is not None:
        tables["recovery"] = recovered(found.truth, pd.read_csv(RunFolder(run_dir).file("diagnostics.csv")))
    for name, table in tables.items():
        with whole(Path(out).absolute() / f"{name}.csv") as aside:
            table.to_csv(aside, index=False, lineterminator="\n")
    return tables


def planted(protocol: Protocol) -> pd.DataFrame:
    """What the fit should find: names as in `diagnostics.csv`."""
    growth, rule, kind = protocol.growth, protocol.combination, protocol.tumour_type
    truth = {
        f"ln_growth_type[{kind}]": float(np.log(growth.median_per_day)),
        f"omega_ln_growth[{kind}]": growth.between_models,
        "omega_mouse": growth.between_mice,
        "loss": growth.loss,
        "slowing": growth.slowing,
    }
    for name, drug in protocol.drugs.items():
        truth |= {f"effect[{name} | {kind}]": drug.effect, f"omega_effect[{name} | {kind}]": drug.spread}
    together = [protocol.drugs_of(arm) for arm in protocol.study.arms]
    classes = load_priors().drug_class
    for pair in sorted({(a, b) for drugs in together for a in drugs for b in drugs if a < b}):
        name = " x ".join(sorted(map(classes, pair)))
        truth |= {f"phi[{name}]": rule.phi, f"gamma[{name}]": rule.gamma, "omega_combination": rule.spread}
    return pd.DataFrame({"parameter": list(truth), "planted": list(truth.values())})


def recovered(truth: pd.DataFrame, diagnostics: pd.DataFrame) -> pd.DataFrame:
    """Planted values beside a posterior: parameter, planted, mean, q05, q95, and whether inside that 90 % interval."""
    table = truth.merge(diagnostics[["parameter", "mean", "q05", "q95"]], on="parameter", how="left")
    table["inside"] = (table["planted"] >= table["q05"]) & (table["planted"] <= table["q95"])
    return table


def _established(rng: np.random.Generator, protocol: Protocol) -> tuple[list[_Model], list[tuple[str, int, int]]]:
    """Models that took and were passed on to the passage of the study, with what they grow and respond like."""
    implant, law = protocol.implant, protocol.growth
    count = implant.tumours
    odds = np.log(implant.first_take / (1.0 - implant.first_take)) + implant.take_log_odds_sd * rng.normal(size=count)
    takes = rng.binomial(implant.first_mice, 1.0 / (1.0 + np.exp(-odds)))
    passage = rng.integers(implant.passage[0], implant.passage[1] + 1, size=count)
    kept_at_a_passage = 1.0 - (1.0 - implant.take) ** _MICE_PER_PASSAGE
    lasts = rng.random(count) < kept_at_a_passage ** (passage - 1)
    alive = np.flatnonzero((takes > 0) & lasts)
    growth = law.median_per_day * np.exp(
        law.between_models * rng.normal(size=count) + implant.growth_per_passage * (passage - REFERENCE_PASSAGE)
    )
    effect = {name: drug.effect + drug.spread * rng.normal(size=count) for name, drug in protocol.drugs.items()}
    arms = {protocol.control: np.zeros(count)}
    for arm in protocol.study.arms:
        arms[arm] = _joint(rng, protocol, [effect[drug] for drug in protocol.drugs_of(arm)])
    models = [
        _Model(f"W-{i + 1:03d}", int(passage[i]), float(growth[i]), {arm: float(rho[i]) for arm, rho in arms.items()})
        for i in alive
    ]
    steps = [
        ("tumours implanted", count, count * implant.first_mice),
        ("tumours that took", int((takes > 0).sum()), int(takes.sum())),
        ("models at the passage of the study", len(models), 0),
    ]
    return models, steps


def _joint(rng: np.random.Generator, protocol: Protocol, singles: list[np.ndarray]) -> np.ndarray:
    """Joint effect of an arm in every model, [M]."""
    if len(singles) == 1:
        return singles[0]
    rule, number = protocol.combination, len(singles)
    stacked = jnp.asarray(np.stack(singles, axis=-1))
    pairs = (*stacked.shape, number)
    off = jnp.broadcast_to(1.0 - jnp.eye(number), pairs)
    joint = combine(stacked, rule.phi * off, rule.gamma * off, jnp.ones(stacked.shape, bool))
    return np.asarray(joint, np.float64) + rule.spread * rng.normal(size=stacked.shape[0])


def _visits(protocol: Protocol, until: int) -> np.ndarray:
    """Days of measurement from 0 to `until`."""
    gaps = protocol.study.measure_days
    days = np.cumsum([0, *(gaps[i % len(gaps)] for i in range(until))])
    return days[days <= until]


def _callipers(
    rng: np.random.Generator, protocol: Protocol, volume: np.ndarray, error: np.ndarray | float
) -> tuple[np.ndarray, ...]:
    """Length, width (mm) and volume (mm3) as read, of tumours of a true volume; `error` of one length, as a share."""
    flatness = protocol.study.flatness
    width = np.cbrt(2.0 * volume / flatness)
    length = flatness * width * np.exp(error * rng.normal(size=volume.shape))
    width = width * np.exp(error * rng.normal(size=volume.shape))
    return length, width, 0.5 * length * width**2


def _study_of(
    rng: np.random.Generator, protocol: Protocol, model: _Model, rows: list[dict[str, object]], counts: dict[str, int]
) -> int:
    """Mice of one model from implantation to the end: rows are added, counts kept; 1 if any mouse entered, else 0."""
    implant, study = protocol.implant, protocol.study
    arms = (protocol.control, *study.arms)
    size = int(rng.binomial(implant.mice, implant.take))
    counts["implanted"] += implant.mice
    counts["taken"] += size
    start = np.log(implant.start_volume_mm3) + implant.start_log_sd * rng.normal(size=size)
    own = protocol.growth.between_mice * rng.normal(size=size)
    days = _visits(protocol, study.wait_days)
    true = np.exp(start[:, None] + model.growth * (1.0 + own)[:, None] * days)
    error = study.calliper_cv * np.exp(study.calliper_log_sd * rng.normal(size=size))
    length, width, read = _callipers(rng, protocol, true, error[:, None])
    low, high = study.randomise_mm3
    reached = read >= low
    first = np.argmax(reached, axis=1)
    here = np.arange(size)
    never = ~reached.any(axis=1)
    outgrew = ~never & (read[here, first] > high)
    fit_for_it = np.flatnonzero(~never & ~outgrew)
    counts["did not reach it"] += int(never.sum())
    counts["outgrew the window"] += int(outgrew.sum())
    # drawn at random, in blocks of one mouse an arm: those that reach the window first are those that grow fast
    order = rng.permutation(fit_for_it)
    blocks = min(study.mice_per_arm, len(order) // len(arms))
    entered = order[: blocks * len(arms)]
    counts["surplus"] += len(order) - len(entered)
    counts["randomised"] += len(entered)
    for block in range(blocks):
        members = rng.permutation(entered[block * len(arms) : (block + 1) * len(arms)])
        for arm, mouse in zip(arms, members, strict=True):
            at = (mouse, first[mouse])
            baseline = (float(true[at]), float(length[at]), float(width[at]), float(read[at]))
            deviates = (float(own[mouse]), float(error[mouse]))
            rows += _mouse(rng, protocol, model, arm, block + 1, deviates, baseline)
    return int(blocks > 0)


def _mouse(
    rng: np.random.Generator,
    protocol: Protocol,
    model: _Model,
    arm: str,
    number: int,
    deviates: tuple[float, float],
    baseline: tuple[float, float, float, float],
) -> list[dict[str, object]]:
    """Rows of one mouse from randomisation on.

    `deviates` are its own rate (a share of growth) and the error of its callipers, `baseline` the true volume and the
    length, width and volume that let it in. That reading is too large on average, because a reading that happens to be
    large crosses the limit earlier; where it stands for day 0, tumours seem to grow slowly at first.
    """
    study, law, (own, error) = protocol.study, protocol.growth, deviates
    days = _visits(protocol, study.end_day)
    rho, waning = model.effect[arm], waning_time(days.astype(np.float64), law.loss_rate)
    course = (1.0 - rho + own) * days + (law.loss * rho - law.slowing) * waning
    true = baseline[0] * np.exp(model.growth * course)
    length, width, read = _callipers(rng, protocol, true, error)
    if not study.fresh_baseline:
        length[0], width[0], read[0] = baseline[1:]
    drugs = [protocol.drugs[name] for name in protocol.drugs_of(arm)]
    lost = 1.0 - np.prod([1.0 - drug.weight_loss * np.exp(0.5 * rng.normal()) for drug in drugs])
    weight = rng.normal(_WEIGHT_G, _WEIGHT_SD) * (1.0 - lost * (1.0 - np.exp(-days / _WEIGHT_DAYS)))
    weight = weight + _WEIGHT_ERROR * rng.normal(size=len(days))
    died = rng.exponential(1.0 / study.deaths_per_day) if study.deaths_per_day > 0 else np.inf
    too_large, too_light = read > study.volume_limit_mm3, weight < (1.0 - study.weight_limit) * weight[0]
    stops = np.flatnonzero(too_large | too_light)
    last = int(stops[0]) if len(stops) else len(days) - 1
    end = "end of study" if not len(stops) else "volume" if too_large[last] else "weight"
    if died < days[last]:
        last, end = max(int(np.searchsorted(days, died)) - 1, 0), "death"
    burden = np.trapezoid(true[: last + 1], days[: last + 1]) / 1000.0
    spread = study.metastasis_per_cm3_day * burden * float(np.prod([drug.metastasis for drug in drugs]))
    pfak = float(np.prod([drug.pfak for drug in drugs]) * np.exp(study.pfak_log_sd * rng.normal()))
    at_end = {"pfak": round(pfak, 3), "metastasis": int(rng.random() < -np.expm1(-spread)), "end": end}
    return [
        {
            "tumour_type": protocol.tumour_type,
            "pdx_model": model.name,
            "mouse": f"{model.name}-{arm.replace(' ', '')}-{number}",
            "arm": arm,
            "day": int(days[k]),
            "volume_mm3": round(float(read[k]), 1) if read[k] > _DETECTION_LIMIT_MM3 else 0.0,
            "length_mm": round(float(length[k]), 2),
            "width_mm": round(float(width[k]), 2),
            "body_weight_g": round(float(weight[k]), 1),
            "host_strain": protocol.implant.host_strain,
            "implant_site": protocol.implant.site,
            "passage": model.passage,
            "source": "simulated",
            **(at_end if k == last else {}),
        }
        for k in range(last + 1)
    ]


def _readout(protocol: Protocol, table: pd.DataFrame) -> pd.DataFrame:
    """What the study shows of every arm, as its authors would report it."""
    day = int(_visits(protocol, min(21, protocol.study.end_day))[-1])
    first = table.groupby("mouse")["volume_mm3"].first()
    then = table[table["day"] == day].set_index("mouse")
    then = then.assign(fold=then["volume_mm3"] / first.reindex(then.index))
    fold = then.groupby(["pdx_model", "arm"])["fold"].mean().unstack()
    last = table.dropna(subset=["end"])
    rows = []
    for arm, group in last.groupby("arm", sort=False):
        here = fold[arm] if arm in fold else pd.Series(np.nan, index=fold.index)
        tgi = 100.0 * (1.0 - (here - 1.0) / (fold[protocol.control] - 1.0))
        rows.append(
            {
                "arm": arm,
                "mice": len(group),
                "day": day,
                "tgi_pct": float(tgi.median()),
                "pfak": float(group["pfak"].astype(float).median()),
                "metastasis": float(group["metastasis"].astype(float).mean()),
                **{end: int((group["end"] == end).sum()) for end in ("end of study", "volume", "weight", "death")},
            }
        )
    return pd.DataFrame(rows)
