"""A run in a notebook: `vtrial.load` opens a run folder, shows it, and simulates other arms from its posterior."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from vtrial.config import Experiment
from vtrial.errors import InputError
from vtrial.experiment import load_resolved, with_settings
from vtrial.inputs import Inputs, marks, read_inputs, warn
from vtrial.progress import reporting
from vtrial.store import RunFolder
from vtrial.yamlfile import nearest

if TYPE_CHECKING:
    import xarray as xr
    from plotly.graph_objects import Figure

    from vtrial.devices import Kind

#: one arm as in an experiment file: drug -> {"dose": "2 mg", "repeat": "1 d", ...}
Regimen = Mapping[str, Mapping[str, Any]]


class Patients(NamedTuple):
    """A sample of virtual patients under every arm; patient i is the same person in each."""

    waterfall: pd.DataFrame  # arm, subgroup, patient, best_change_pct (percent of baseline), response
    spider: pd.DataFrame  # arm, patient, day, change_pct (percent of baseline)


@dataclass(frozen=True, eq=False)
class Trial:
    """What one simulation of the virtual trial gave.

    Attributes
    ----------
    table : DataFrame
        Rows of orr.csv.
    superiority : DataFrame
        tumour_type, subgroup, arm, against, probability.
    sample : Patients
        The patient sample.
    marks : tuple of str
        What must be said first: quick, synthetic data, or a fit that did not pass its gates.
    further : DataFrame
        Rows of endpoints.csv; empty where an earlier version simulated.
    """

    table: pd.DataFrame = field(repr=False)
    superiority: pd.DataFrame = field(repr=False)
    sample: Patients = field(repr=False)
    marks: tuple[str, ...] = ()
    further: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    def orr(self, endpoint: str | None = None) -> pd.DataFrame:
        """Response rates, a row per tumour type, arm and subgroup; see `vtrial.report.forest_data`.

        Parameters
        ----------
        endpoint : str, optional
            confirmed_orr, unconfirmed_orr or dcr; left out, the main one. All come from the same patients.

        Raises
        ------
        InputError
            No such endpoint.
        """
        from vtrial.report.tables import forest_data

        known = [name for name in dict.fromkeys(self.table["endpoint"]) if ":" not in name]
        if endpoint is not None and endpoint not in known:
            raise InputError(f"must be one of {', '.join(known)}, found {endpoint!r}", key="endpoint")
        return forest_data(self.table, endpoint)

    def endpoints(self) -> pd.DataFrame:
        """Every other endpoint of the same patients: PFS, duration of response, ...; the columns of endpoints.csv.

        Raises
        ------
        InputError
            Where the run is of a version that wrote none.
        """
        if self.further.empty:
            raise InputError("holds no endpoints.csv; `vtrial run` writes it", file="the run")
        return self.further

    def patients(self) -> Patients:
        """The patient sample: tables of the waterfall and of the spider."""
        return self.sample

    def plot_orr(self) -> Figure:
        """The forest of predicted response rates beside the published ones."""
        from vtrial.report import orr_forest

        figure = orr_forest(self.table)
        return figure.update_layout(title="; ".join(self.marks)) if self.marks else figure

    def plot_waterfall(self, arm: str, tumour_type: str | None = None) -> Figure:
        """Best change in size of the patients of one arm; of the first cohort that has it, unless one is named."""
        from vtrial.report import waterfall

        return waterfall(self._sampled(self.sample.waterfall, arm, tumour_type), arm)

    def plot_spider(self, arm: str, tumour_type: str | None = None) -> Figure:
        """Change in size over time of the patients of one arm; as `plot_waterfall`."""
        from vtrial.report import spider

        own = self._sampled(self.sample.waterfall, arm, tumour_type)
        responses = dict(zip(own["patient"].astype(str), own["response"].astype(str), strict=True))
        return spider(self._sampled(self.sample.spider, arm, tumour_type), arm, responses)

    def _sampled(self, frame: pd.DataFrame, arm: str, tumour_type: str | None) -> pd.DataFrame:
        """Rows of one arm of one cohort: two cohorts may have an arm of one name."""
        own = frame[frame["arm"] == self._arm(arm)]
        types = list(dict.fromkeys(own["tumour_type"]))
        if tumour_type is not None and tumour_type not in types:
            raise InputError(f"no cohort with this arm is called {tumour_type!r}; there are: {', '.join(types)}")
        return own[own["tumour_type"] == (tumour_type or types[0])]

    def _arm(self, arm: str) -> str:
        arms = list(dict.fromkeys(self.sample.waterfall["arm"]))
        if arm not in arms:
            raise InputError(f"no arm {arm!r}{nearest(arm, arms)}; arms: {', '.join(arms)}", key="arm")
        return arm

    def __str__(self) -> str:
        """The table of response rates as plain text."""
        from vtrial.report.tables import format_orr_table

        return "\n".join([*(mark.upper() for mark in self.marks), format_orr_table(self.table)])

    def _repr_html_(self) -> str:
        from vtrial.report.tables import counts, percent, percent_interval, records

        rows = [
            [
                *(row[name] for name in ("tumour_type", "arm", "subgroup")),
                f"{percent(row['mean'])} {percent_interval(row['q05'], row['q95'])}",
                counts(row),
            ]
            for row in records(self.orr())
        ]
        head = ["tumour type", "arm", "subgroup", "predicted ORR, mean and 90 % interval", "published"]
        shown = pd.DataFrame(rows, columns=head).to_html(index=False, escape=True, border=0)
        return f"{_first(self.marks)}{shown}"


class Run:
    """A run folder, opened.

    Parameters
    ----------
    path : path
        The folder that `vtrial run` left. Nothing in it is changed.

    Raises
    ------
    InputError
        Where it is not a run folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._folder = RunFolder(path)
        self.manifest = self._folder.manifest()

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, with every default."""
        return load_resolved(self._folder.file("experiment.yaml"), bool(self.manifest.get("quick", False)))

    @property
    def marks(self) -> tuple[str, ...]:
        """What must be said first: quick, synthetic data, or a fit that did not pass its gates."""
        return tuple(marks(self.experiment, self.manifest))

    @cached_property
    def inputs(self) -> Inputs:
        """Priors, table and evidence that the run read; they must still lie where they were."""
        return read_inputs(self.experiment)

    @cached_property
    def posterior(self) -> xr.DataTree:
        """The posterior, read lazily; `arviz.from_netcdf(run.path / "posterior.nc")` is ArviZ's own view of it."""
        return self._folder.open_posterior()

    @property
    def pdx_models(self) -> list[str]:
        """Names of the PDX models of the fit."""
        return [str(name) for name in self.posterior["posterior"]["pdx_model"].to_numpy()]

    @cached_property
    def trial(self) -> Trial:
        """The trial that the run simulated."""
        figures = ("figures/superiority.csv", "figures/waterfall.csv", "figures/spider.csv")
        names = ("orr.csv", *figures, "endpoints.csv")
        if not self._folder.exists(names[0]):
            raise InputError("holds no orr.csv: only a fit was run; `vtrial run` simulates the trial", file=self.path)
        tables = [self.table(name) if self._folder.exists(name) else pd.DataFrame() for name in names]
        return Trial(tables[0], tables[1], Patients(*tables[2:4]), self.marks, tables[4])

    def table(self, name: str) -> pd.DataFrame:
        """A CSV table of the run folder, such as ``mouse_response.csv``; only an empty cell is missing.

        Raises
        ------
        InputError
            No such table, or a damaged one.
        """
        from vtrial.report.gather import read_table

        file = self._folder.file(name)
        if not file.is_file():
            there = sorted(str(one.relative_to(self.path)) for one in self.path.rglob("*.csv"))
            near = nearest(name, there)
            raise InputError(f"is not there{near}; tables of the run: {', '.join(there) or 'none'}", file=file)
        table = read_table(self._folder, name)
        return pd.read_csv(file) if table is None else table  # without rows it still has its columns

    def orr(self, endpoint: str | None = None) -> pd.DataFrame:
        """Response rates, a row per tumour type, arm and subgroup; see `Trial.orr`."""
        return self.trial.orr(endpoint)

    def endpoints(self) -> pd.DataFrame:
        """Every other endpoint of the same patients, without simulating again; see `Trial.endpoints`."""
        return self.trial.endpoints()

    def patients(self) -> Patients:
        """The patient sample of the run: tables of the waterfall and of the spider."""
        return self.trial.patients()

    def plot_orr(self) -> Figure:
        """The forest of predicted response rates beside the published ones."""
        return self.trial.plot_orr()

    def pdx_curves(self, pdx_model: str | None = None) -> pd.DataFrame:
        """Measured and fitted volumes of the mice of a PDX model, or of all; see `vtrial.fitted.fitted_curves`."""
        from vtrial.fitted import fitted_curves

        return fitted_curves(self.posterior, self.inputs.dataset, pdx_model)

    def plot_pdx(self, pdx_model: str) -> Figure:
        """Fitted curves (median, 90 % interval) over the volumes of a PDX model, a panel per arm."""
        from vtrial.report import curves

        dataset = self.inputs.dataset
        untreated = [arm for arm, drugs in dataset.arms.items() if not drugs]
        return curves(self.pdx_curves(pdx_model), pdx_model, dataset.detection_limit_mm3, untreated)

    def simulate(
        self,
        arms: Mapping[str, Regimen] | Sequence[Mapping[str, Any]] | None = None,
        *,
        tumour_type: str | None = None,
        visits: Mapping[str, int] | None = None,
        patients: int | None = None,
        draws: int | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        device: Kind = "auto",
    ) -> Trial:
        """Simulate other arms, schedules or visits from the posterior of this run, without fitting again.

        Parameters
        ----------
        arms : mapping or sequence, optional
            Name of the arm -> drug -> dose and schedule as in an experiment file
            (``{"T 1 mg": {"trametinib": {"dose": "1 mg", "repeat": "1 d"}}}``), or whole arms as mappings. They take
            the place of the arms of the cohort of `tumour_type`, and only that cohort is simulated. Left out, the
            cohorts of the run.
        tumour_type : str, optional
            Of the patients; left out, that of the first cohort. One that the run knows keeps its subgroups.
        visits : mapping, optional
            Days of assessment, as ``trial.visits`` of an experiment file.
        patients, draws, seed : int, optional
            Patients per draw and arm, posterior draws, seed of the patients; left out, as in the run. With the same
            seed patient i is the same person as in the run. Time is cut where a drug of any arm is switched on or
            off, so that a rate moves by about 0.01 points where the other arms change.
        settings : mapping, optional
            Any other settings, such as ``{"trial": {"confirmation": False}}``.
        device : {"auto", "cpu", "cuda"}
            Where the trial runs.

        Raises
        ------
        InputError
            A fault in the arms or settings, named by its key; or a fit that is not that of these settings.
        """
        said = "run.simulate"
        trial: dict[str, Any] = {
            name: value
            for name, value in (("visits", visits), ("patients", patients), ("draws", draws), ("seed", seed))
            if value is not None
        }
        if arms is not None or tumour_type is not None:
            trial["cohorts"] = [self._cohort(arms, tumour_type)]
        experiment = with_settings(self.experiment, settings or {}, said)
        experiment = with_settings(experiment, {"trial": _listed(trial)}, said)
        inputs = read_inputs(experiment)
        if self.manifest.get("fit", {}).get("key") != inputs.fit_key:
            message = "the settings, table or priors of the fit have changed since; run `vtrial run` on the experiment"
            raise InputError(message, file=self.path)
        warn(inputs)
        from vtrial.devices import configure

        configure(device, "auto")
        from vtrial.simulation import trial_stage

        with reporting(_console()) as progress:
            result = trial_stage(inputs, self._folder, device, progress)
        sample = Patients(result.waterfall, result.spider)
        said = tuple(marks(experiment, self.manifest))
        return Trial(result.orr, result.superiority, sample, said, result.endpoints)

    def _cohort(self, arms: Any, tumour_type: str | None) -> dict[str, Any]:
        """The cohort to simulate, as an experiment file would hold it."""
        known = self.experiment.trial.cohorts
        wanted = tumour_type or (known[0].tumour_type if known else None)
        if wanted is None:
            raise InputError("the run has no cohort; name the tumour type of the patients", key="tumour_type")
        own = next((cohort for cohort in known if cohort.tumour_type == wanted), None)
        written = {"tumour_type": wanted} if own is None else own.model_dump(mode="python")
        if arms is None:
            if own is None and known:
                written["arms"] = known[0].model_dump(mode="python")["arms"]
                for arm in written["arms"]:  # what was observed elsewhere was not observed here
                    arm["observed"] = ()
            return written
        if isinstance(arms, Mapping):
            arms = [{"name": name, "drugs": drugs} for name, drugs in arms.items()]
        return written | {"arms": list(arms)}

    def __repr__(self) -> str:
        """Name of the experiment, what must be said first, and the folder."""
        said = f" ({', '.join(self.marks)})" if self.marks else ""
        return f"<vtrial run of {self.experiment.name!r}{said} in {str(self.path)!r}>"

    def _repr_html_(self) -> str:
        experiment, fit = self.experiment, self.manifest.get("fit", {})
        verdict = {True: "passed", False: "NOT PASSED"}.get(fit.get("passed", None), "no fit")
        facts = {
            "folder": str(self.path),
            "started": self.manifest.get("started", "-"),
            "table": f"{experiment.data.path}: {fit.get('mice', '-')} mice of {fit.get('pdx_models', '-')} PDX models",
            "gates of the fit": f"{verdict}, {fit.get('draws', '-')} draws",
        }
        rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
        answer = self.trial._repr_html_() if self._folder.exists("orr.csv") else _first(self.marks)
        title = html.escape(experiment.title or experiment.name)
        return f"<h4>{title}</h4><table>{rows}</table>{answer}"


def _first(said: Sequence[str]) -> str:
    return "".join(f"<p><strong>{html.escape(mark.upper())}</strong></p>" for mark in said)


def _listed(value: Any) -> Any:
    """Mappings and tuples of a caller as the plain data that a file would give."""
    if isinstance(value, Mapping):
        return {str(key): _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _console() -> Any:
    """A console for progress in Jupyter with widgets or on a terminal; None elsewhere, where the log tells it."""
    from rich.console import Console

    console = Console()
    # without widgets rich can only warn in Jupyter
    has_bar = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return console if has_bar else None
