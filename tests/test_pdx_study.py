"""A simulated PDX study: what the protocol says holds in the table, and plain slopes find what was planted."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vtrial import cli
from vtrial.dataset import read_dataset
from vtrial.errors import InputError
from vtrial.pdx_protocol import Protocol, read_protocol
from vtrial.pdx_study import planted, recovered, simulate_study
from vtrial.posterior import POPULATION

SMALL = {
    "seed": 3,
    "tumour_type": "OV",
    "implant": {"tumours": 20, "first_mice": 6, "first_take": 0.5, "mice": 15},
    "drugs": {
        "avutometinib": {"effect": 0.8, "weight_loss": 0.1},
        "defactinib": {"effect": 0.3, "pfak": 0.25, "metastasis": 0.3},
    },
    "study": {"arms": ["avutometinib", "defactinib", "avutometinib + defactinib"]},
}


def protocol(**changes: dict) -> Protocol:
    """The small study with settings of its sections laid over."""
    settings = copy.deepcopy(SMALL)
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return Protocol.model_validate(settings)


@pytest.fixture(scope="module")
def study():
    return simulate_study(protocol())


def test_the_same_seed_is_the_same_study(study) -> None:
    again = simulate_study(protocol())
    pd.testing.assert_frame_equal(study.table, again.table)
    other = simulate_study(Protocol.model_validate(SMALL | {"seed": 4}))
    assert not other.table["volume_mm3"].equals(study.table["volume_mm3"])


def test_mice_enter_within_the_window_and_leave_as_the_protocol_says(study) -> None:
    config, table = protocol().study, study.table
    first = table[table["day"] == 0]
    assert len(first) == table["mouse"].nunique()
    # measured anew on the day of the reading that let them in: both within 5 SDs, of a mouse whose callipers
    # err 3 SDs worse than the usual ones
    slack = 2 * 5 * 0.05 * np.exp(3 * 0.3) * np.sqrt(5)
    low, high = config.randomise_mm3
    assert first["volume_mm3"].between(low * np.exp(-slack), high * np.exp(slack)).all()
    entered = simulate_study(protocol(study={**SMALL["study"], "fresh_baseline": False})).table
    entered = entered[entered["day"] == 0]
    assert entered["volume_mm3"].between(low, high).all()
    # a reading that lets a mouse in is too large on average: 2 standard errors of the difference of two means
    difference = np.log(entered["volume_mm3"]).mean() - np.log(first["volume_mm3"]).mean()
    spread = np.sqrt(
        np.log(entered["volume_mm3"]).var() / len(entered) + np.log(first["volume_mm3"]).var() / len(first)
    )
    assert difference > 2 * spread
    assert set(table.groupby("mouse")["day"].diff().dropna()) == {3, 4}
    last = table.groupby("mouse").tail(1)
    assert last["end"].notna().all() and table["end"].notna().sum() == len(last)
    volume = last["end"] == "volume"
    assert volume.any() and (last.loc[volume, "volume_mm3"] > config.volume_limit_mm3).all()
    before = table[table["end"].isna()]
    assert (before["volume_mm3"] <= config.volume_limit_mm3).all()
    done = last[last["end"] == "end of study"]
    assert (done["day"] > config.end_day - max(config.measure_days)).all() and (last["day"] <= config.end_day).all()
    # blocks of one mouse an arm
    sizes = first.groupby(["pdx_model", "arm"]).size().unstack(fill_value=0)
    assert (sizes.nunique(axis=1) == 1).all() and sizes.to_numpy().max() <= config.mice_per_arm


def test_callipers_err_in_two_directions(study) -> None:
    table = study.table[study.table["volume_mm3"] > 0]
    volume = 0.5 * table["length_mm"] * table["width_mm"] ** 2
    # lengths are rounded to 0.01 mm, volumes to 0.1 mm3: relative 0.005 (1/L + 2/W) + 0.05 / V at most
    allowed = 0.005 * (1 / table["length_mm"] + 2 / table["width_mm"]) + 0.05 / table["volume_mm3"]
    assert ((volume / table["volume_mm3"] - 1.0).abs() <= 1.05 * allowed).all()
    ratio = np.log(table["length_mm"] / table["width_mm"])
    # two readings of 5 %, spread 0.3 on the log: mean square 2 x 0.05^2 exp(2 x 0.3^2); readings of a mouse share their
    # error, so that the mice are what the standard error counts
    expected = 0.05 * np.sqrt(2.0) * np.exp(0.3**2)
    assert abs(ratio.std() - expected) < 4.0 * expected / np.sqrt(table["mouse"].nunique()) + 0.002  # and the rounding


def test_the_flow_adds_up(study) -> None:
    flow = study.flow.set_index("step")
    mice = flow["mice"]
    taken = sum(mice[f"mice {x}"] for x in ("outgrew the window", "did not reach it", "surplus", "randomised"))
    assert taken == mice["mice taken"] <= mice["mice implanted"]
    ended = sum(mice[f"ended: {end}"] for end in ("end of study", "volume", "weight", "death"))
    assert ended == mice["mice randomised"] == study.table["mouse"].nunique()
    models = flow["models"]
    assert models["models with mice in the study"] == study.table["pdx_model"].nunique()
    assert models["tumours implanted"] >= models["tumours that took"] >= models["models at the passage of the study"]


def test_biomarkers_are_read_at_the_end(study) -> None:
    readout = study.readout.set_index("arm")
    mice = readout["mice"].to_numpy()
    # the median of n log-normals: standard error about 1.25 x 0.3 / sqrt(n) on the log
    error = 4.0 * 1.25 * 0.3 / np.sqrt(mice)
    expected = np.log([1.0, 1.0, 0.25, 0.25])
    order = ["vehicle", "avutometinib", "defactinib", "avutometinib + defactinib"]
    assert np.all(np.abs(np.log(readout.loc[order, "pfak"].to_numpy()) - expected) < error)
    assert readout.loc["avutometinib + defactinib", "metastasis"] < readout.loc["vehicle", "metastasis"]


def test_a_tumour_that_hardly_takes_makes_few_models() -> None:
    rare = simulate_study(protocol(implant={"tumours": 60, "first_take": 0.02, "take_log_odds_sd": 0.0}))
    took = int(rare.flow.set_index("step").loc["tumours that took", "models"])
    expected = 60 * (1.0 - 0.98**6)
    assert abs(took - expected) < 4.0 * np.sqrt(expected * (1.0 - expected / 60))
    with pytest.raises(InputError, match="no mouse enters this study"):
        simulate_study(protocol(implant={"tumours": 1, "mice": 1}))


def test_slopes_find_what_was_planted() -> None:
    """Without noise of tumours but that of models and mice, growth and effects are means of straight slopes."""
    plain = protocol(
        implant={"tumours": 150, "mice": 30, "growth_per_passage": 0.0},
        growth={"loss": 0.0, "slowing": 0.0, "median_per_day": 0.04},
        study={"arms": ["avutometinib", "defactinib"], "volume_limit_mm3": 1e9, "deaths_per_day": 0.0},
    )
    table = simulate_study(plain).table
    table = table[table["volume_mm3"] > 0]
    slope = table.groupby(["pdx_model", "arm", "mouse"])[["day", "volume_mm3"]].apply(
        lambda mouse: np.polyfit(mouse["day"], np.log(mouse["volume_mm3"]), 1)[0]
    )
    of_model = slope.groupby(["pdx_model", "arm"]).mean().unstack()
    growth = of_model["vehicle"]
    number = len(of_model)
    assert number > 100
    spread = np.log(growth).std() / np.sqrt(number)
    assert abs(np.log(growth).mean() - np.log(0.04)) < 4.0 * spread + 0.2**2 / 6  # the mean of 3 mice, on the log
    for drug, effect in (("avutometinib", 0.8), ("defactinib", 0.3)):
        # a ratio of sums has no bias of a noisy denominator
        rho = 1.0 - of_model[drug].sum() / growth.sum()
        residual = of_model[drug] - (1.0 - rho) * growth
        assert abs(rho - effect) < 4.0 * residual.std() / np.sqrt(number) / growth.mean(), drug


def test_what_was_planted_carries_the_names_of_a_fit() -> None:
    truth = planted(protocol()).set_index("parameter")["planted"]
    assert truth["effect[avutometinib | OV]"] == 0.8 and truth["phi[FAK x RAF/MEK]"] == 0.5
    # diagnostics.csv has the population alone: of anything else a fit would seem not to find what was planted
    assert {name.split("[")[0] for name in truth.index} <= set(POPULATION)
    found = recovered(
        pd.DataFrame({"parameter": ["loss", "slowing"], "planted": [0.4, 0.1]}),
        pd.DataFrame({"parameter": ["loss", "x"], "mean": [0.5, 0.0], "q05": [0.3, 0.0], "q95": [0.7, 0.0]}),
    )
    assert found["inside"].tolist() == [True, False]


def test_the_command_writes_a_table_that_the_reader_takes(tmp_path: Path, capsys, repository: Path) -> None:
    file = repository / "experiments" / "data" / "workflow_protocol.yaml"
    assert cli.main(["pdx-study", str(file), "--out", str(tmp_path / "s")]) == 0
    out = capsys.readouterr().out
    assert "mice randomised" in out and "tgi_pct" in out
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["flow.csv", "readout.csv", "truth.csv", "volumes.csv"]
    made = read_dataset(tmp_path / "s" / "volumes.csv", control=["vehicle"], constants={"study": "x"})
    assert set(made.drugs) == {"avutometinib", "defactinib"} and len(made.arms) == 4
    # the table that ships is of this protocol: random numbers are NumPy's, the last digit of a volume is the platform's
    shipped = pd.read_csv(repository / "experiments" / "data" / "workflow.csv.gz")
    fresh = pd.read_csv(tmp_path / "s" / "volumes.csv")
    assert shipped["mouse"].tolist() == fresh["mouse"].tolist()
    np.testing.assert_allclose(shipped["volume_mm3"], fresh["volume_mm3"], atol=0.11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"study": {"arms": ["avutometinib + defactinob"]}},
            "names a drug that is not under drugs: 'defactinob'; did you mean 'defactinib'?",
        ),
        ({"study": {"randomise_mm3": [250, 150]}}, "must be two volumes above 0"),
        ({"implant": {"passage": [3, 2]}}, "must be two passages from 1 on"),
        ({"implant": {"first_take": 1.5}}, "first_take"),
    ],
)
def test_a_protocol_that_cannot_be(tmp_path: Path, change: dict, message: str) -> None:
    import yaml

    settings = copy.deepcopy(SMALL)
    for section, values in change.items():
        settings[section] = {**settings[section], **values}
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(InputError) as raised:
        read_protocol(file)
    assert message in str(raised.value) and "p.yaml:" in str(raised.value)
