"""The stages after the fit: new mice read out by mRECIST, and the virtual trial, from a posterior on disk to tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from vtrial.checkpoint import Checkpoint, from_under, held_back, under
from vtrial.config import TrialConfig
from vtrial.devices import Kind, device_for, devices_for
from vtrial.engagement import COLUMNS as ENGAGEMENT_COLUMNS
from vtrial.engagement import engagement_rows
from vtrial.inhibition import COLUMNS as TGI_COLUMNS
from vtrial.inhibition import inhibition, inhibition_rows
from vtrial.inputs import Inputs, marks
from vtrial.outcomes import Counts, EndpointCounts
from vtrial.posterior import Draws, shape_of
from vtrial.predict import predict_arms
from vtrial.progress import Progress
from vtrial.ranks import COLUMNS as RANK_COLUMNS
from vtrial.ranks import rank_rows
from vtrial.rates import COLUMNS, orr_draws, orr_rows, response_rates, superiority
from vtrial.response import RECIST_VERSIONS, RecistRule
from vtrial.sample import SPIDER, SWIMMER, WATERFALL, sample_tables
from vtrial.stopping import StoppingRule
from vtrial.store import POSTERIOR, RunFolder
from vtrial.times import COLUMNS as ENDPOINT_COLUMNS
from vtrial.times import PFS_COLUMNS, draw_endpoints, endpoint_rows, ends_by_day, pfs_rows, survival_curves
from vtrial.translation import PriorSampler, plan_cohort
from vtrial.trial import Endpoints, simulate, trajectories


def mice_stage(inputs: Inputs, folder: RunFolder, device: Kind, progress: Progress) -> float:
    """Write `mouse_response.csv`; returns seconds."""
    begun = time.perf_counter()
    config = inputs.experiment.mice
    progress("mice", 0, 1)
    with folder.open_posterior() as tree, jax.default_device(device_for(device)):
        draws = Draws(tree, config.replicates)
        rule = stopping_rule(tree, config.leaving_odds_ratio)
        table = predict_arms(
            jax.random.key(config.seed),
            draws,
            inputs.dataset,
            inputs.drug_class,
            rule,
            min_models=config.min_models,
            shape=shape_of(tree),
        )
    # a trailing column, empty where there is nothing to warn of, so that the table never travels without its caveat
    table["note"] = "; ".join(marks(inputs.experiment, folder.manifest()))
    folder.write_csv("mouse_response.csv", table)
    return round(time.perf_counter() - begun, 2)


def stopping_rule(tree: Any, leaving_odds_ratio: float = 1.0) -> StoppingRule:
    """The frozen stopping rule that a posterior carries, with the odds of leaving so many times those of its table."""
    coefficient = jnp.asarray(tree["constant_data"]["stopping_coefficient"].to_numpy(), "float32")
    return StoppingRule(coefficient, float(tree.attrs["stopping_gap_days"])).with_odds(leaving_odds_ratio)


class TrialResult(NamedTuple):
    """What the trial stage gives back."""

    orr: pd.DataFrame
    draws: xr.DataTree
    superiority: pd.DataFrame
    endpoints: pd.DataFrame
    tgi: pd.DataFrame  # empty where nothing is kept
    ranks: pd.DataFrame
    waterfall: pd.DataFrame
    spider: pd.DataFrame
    swimmer: pd.DataFrame
    engagement: pd.DataFrame
    pfs: pd.DataFrame
    origins: dict[str, str]
    seconds: float  # the whole stage
    simulated_seconds: float  # of which making and reading patients, compiled already
    compile_seconds: float  # the first piece of every size, less what its patients take
    patients: int  # draws x patients x arms; what the null models give them besides is not counted


def trial_stage(
    inputs: Inputs, folder: RunFolder, device: Kind, progress: Progress, *, keep: bool = False
) -> TrialResult:
    """Simulate every cohort and return the tables; writes nothing but, with `keep`, a checkpoint of its counts.

    With `keep` new mice of every cohort are simulated too.
    """
    experiment, config = inputs.experiment, inputs.experiment.trial
    begun, simulated, running, compiling = time.perf_counter(), 0, 0.0, 0.0
    rule = recist_rule(config)
    warnings = marks(experiment, folder.manifest())
    orr, rate_draws, better, endpoints, survival, samples, origins = [], {}, [], [], [], [], {}
    engaged: list[pd.DataFrame] = []
    tgi, ranks = [], []
    key_prior, key_patients = jax.random.split(jax.random.key(config.seed))
    key_mice = jax.random.fold_in(key_prior, 1)
    checkpoint = _checkpoint(inputs, folder, device) if keep else None
    with folder.open_posterior() as tree, jax.default_device(device_for(device)):
        draws = Draws(tree, config.draws)
        sampler = PriorSampler(key_prior, inputs.priors, draws.size)
        between_trials = sampler.entry("translation.between_trials")
        for index, cohort in enumerate(config.cohorts):
            plan = plan_cohort(
                *(key_prior, cohort, config.visits, draws, inputs.priors, experiment.data.aliases),
                engraftment_bias=config.engraftment_bias,
                cut_off=config.cut_off,
            )
            parts, also, pfs, times, step, total = [], [], [], [], piece_size(draws.size), draws.size
            days = np.zeros(0)
            for first in range(0, total, step):
                piece = slice(first, min(first + step, total))

                def count(plan=plan, piece=piece):
                    return simulate(
                        key_patients,
                        plan.trial(piece),
                        rule,
                        num_patients=config.patients,
                        endpoints=Endpoints(len(plan.arms), config.confirmation, config.blinded_reader, days=True),
                        numbers=config.numbers,
                        first_draw=piece.start,
                        devices=devices_for(device),
                    )

                name = f"cohort-{index}-draws-{first:08d}-{piece.stop:08d}"
                (counts, more), seconds = _stored_counts(checkpoint, name, count)
                if seconds is not None:
                    times.append((seconds, piece.stop - first))
                parts.append(counts)
                also.append(draw_endpoints(counts, more, config.visits.days(), config.confirmation))
                days, by_end = ends_by_day(more, config.visits.days())
                pfs.append(survival_curves(by_end[:, :, -1])["pfs"])
                progress(f"trial, {cohort.label or cohort.tumour_type}", piece.stop, total)
            counts = jax.tree.map(lambda *x: np.concatenate(x), *parts)
            here = _running(times)
            running, compiling = running + here[0], compiling + here[1]
            simulated += sum(size for _, size in times) * config.patients * len(plan.arms)
            rates, number = response_rates(plan, counts, config.confirmation), len(plan.arms)
            orr.append(
                orr_rows(cohort, plan, rates, config.seed + 1000 * index, config.patients, between_trials, warnings)
            )
            rate_draws[f"cohort_{index + 1}"] = orr_draws(
                cohort, plan, rates, config.patients, between_trials, draws.index
            )
            better.append(superiority(cohort, plan, rates))
            origins.update({f"{drug}, {cohort.tumour_type}": word for drug, word in plan.origin.items()})
            found = {
                name: (unit, np.concatenate([one[name][1] for one in also])) for name, (unit, _) in also[0].items()
            }
            endpoints.append(endpoint_rows(cohort, plan, found, warnings))
            groups = [*(plan.subgroups if cohort.subgroups else ()), "all"]
            main, *_ = rates
            ranks.append(rank_rows(cohort.tumour_type, groups, main, plan.arms, rates[main][:, :number], warnings))
            if keep:
                day = float(experiment.mice.tgi_day)
                mice = inhibition(
                    jax.random.fold_in(key_mice, index), plan, draws, shape_of(tree), day, config.engraftment_bias
                )
                tgi.append(inhibition_rows(cohort, plan, mice, day, warnings))
                names = [" + ".join(one) for one in mice.drugs]
                ranks.append(rank_rows(cohort.tumour_type, groups, "mouse_tgi", names, mice.median, warnings))
            survival.append(pfs_rows(cohort, plan, np.concatenate(pfs), days))
            shown = min(inputs.experiment.report.patients_shown, draws.size)
            course = trajectories(key_patients, plan.trial(slice(shown)), rule, numbers=config.numbers)
            engaged.append(engagement_rows(cohort, sampler, inputs.priors))
            samples.append(sample_tables(cohort.tumour_type, plan, course, rule, config.confirmation))

    def joined(frames: Sequence[pd.DataFrame], columns: Sequence[str] = ()) -> pd.DataFrame:
        return pd.concat(frames, ignore_index=True) if len(frames) else pd.DataFrame(columns=list(columns))

    waterfall, spider, swimmer = zip(*samples, strict=True) if samples else ((), (), ())
    return TrialResult(
        orr=joined(orr, COLUMNS),
        draws=xr.DataTree.from_dict({"/": xr.Dataset(attrs={"marks": "; ".join(warnings)}), **rate_draws}),
        superiority=joined(better),
        endpoints=joined(endpoints, ENDPOINT_COLUMNS),
        tgi=joined(tgi, TGI_COLUMNS),
        ranks=joined(ranks, RANK_COLUMNS),
        waterfall=joined(waterfall, WATERFALL),
        spider=joined(spider, SPIDER),
        swimmer=joined(swimmer, SWIMMER),
        engagement=joined(engaged, ENGAGEMENT_COLUMNS),
        pfs=joined(survival, PFS_COLUMNS),
        origins=origins,
        seconds=round(time.perf_counter() - begun, 2),
        simulated_seconds=round(running, 3),
        compile_seconds=round(compiling, 3),
        patients=simulated,
    )


def recist_rule(config: TrialConfig) -> RecistRule:
    """The version of RECIST, with what the protocol changes of it."""
    changes = config.protocol.model_dump(exclude_none=True)
    return RECIST_VERSIONS[config.recist]._replace(**changes)


#: draws of one piece at most: counted by the day, two years of five arms in two subgroups take 1 MB a draw to read
MOST_DRAWS = 500


def piece_size(num_draws: int) -> int:
    """Draws that are simulated in one call: a tenth of all, so that progress is seen and little is lost, in memory."""
    return min(max(num_draws // 10, 1), MOST_DRAWS)


def _checkpoint(inputs: Inputs, folder: RunFolder, device: Kind) -> Checkpoint:
    posterior = str(folder.manifest()["files"][POSTERIOR]["sha256"])
    decides = {"run key": inputs.run_key, "posterior": posterior, "platform": device_for(device).platform}
    return Checkpoint(folder, "trial", decides)


def _stored_counts(
    checkpoint: Checkpoint | None, piece: str, count: Callable[[], tuple[Counts, EndpointCounts | None]]
) -> tuple[tuple[Counts, EndpointCounts], float | None]:
    """The counts that a checkpoint holds, else those that `count` makes, which the checkpoint then holds.

    Also the seconds that making them took, None where nothing was made.
    """
    if (kept := checkpoint.load(piece) if checkpoint else None) is not None:
        counts, endpoints = from_under("counts", kept), from_under("endpoints", kept)
        given: dict[str, Any] = dict.fromkeys(EndpointCounts._fields) | endpoints
        return (Counts(**counts), EndpointCounts(**given)), None  # pyright: ignore[reportArgumentType]
    with held_back():
        begun = time.perf_counter()
        made, more = jax.tree.map(np.asarray, count())
        assert more is not None
        seconds = time.perf_counter() - begun
        if checkpoint:
            asked = {name: leaf for name, leaf in more._asdict().items() if leaf is not None}
            checkpoint.save(piece, under("counts", made._asdict()) | under("endpoints", asked))
    return (made, more), seconds


def _running(times: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Seconds that the pieces (seconds, draws) of a cohort take once compiled, and seconds of compiling.

    The first piece of each size compiles. The others tell how long a draw takes; where there is no other, nothing does,
    and compiling counts as running.
    """
    sizes = [size for _, size in times]
    warm = [one for place, one in enumerate(times) if one[1] in sizes[:place]]
    total = sum(seconds for seconds, _ in times)
    if not warm:
        return total, 0.0
    running = sum(seconds for seconds, _ in warm) / sum(size for _, size in warm) * sum(sizes)
    return min(running, total), max(total - running, 0.0)
