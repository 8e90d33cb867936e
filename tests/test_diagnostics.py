"""R-hat and effective sizes against the classical formulas, and gates that pass and fail where they should."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from vtrial.config import FitConfig
from vtrial.diagnostics import check_gates, summarise
from vtrial.errors import GateError
from vtrial.fitting import judge
from vtrial.store import RunFolder

CHAINS, NUM_DRAWS = 4, 500
CONFIG = FitConfig()


def tree_of(**changes) -> xr.DataTree:
    """A fit that passes: independent draws; `changes` replace values of "posterior" or "sample_stats" by name."""
    rng = np.random.default_rng(1)
    values = {
        "mu_effect": rng.normal(0.4, 0.1, (CHAINS, NUM_DRAWS)),
        "effect": rng.normal(size=(CHAINS, NUM_DRAWS, 2)),
        "ln_growth": rng.normal(size=(CHAINS, NUM_DRAWS, 3)),
        "diverging": np.zeros((CHAINS, NUM_DRAWS)),
        "tree_steps": np.full((CHAINS, NUM_DRAWS), 63),
    } | changes
    leading = {"chain": np.arange(CHAINS), "draw": np.arange(NUM_DRAWS)}
    axes = ("chain", "draw")
    posterior = xr.Dataset(
        {
            "mu_effect": (axes, values["mu_effect"]),
            "effect": ((*axes, "drug_type"), values["effect"]),
            "ln_growth": ((*axes, "pdx_model"), values["ln_growth"].astype(np.float32)),
        },
        coords={**leading, "drug_type": ["A | T", "B | T"], "pdx_model": ["M1", "M2", "M3"]},
    )
    stats = xr.Dataset({name: (axes, values[name]) for name in ("diverging", "tree_steps")}, coords=leading)
    return xr.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})


def gates_of(tree: xr.DataTree, config: FitConfig = CONFIG) -> dict[str, dict]:
    table = summarise(tree["posterior"].to_dataset())
    return {gate["name"]: gate for gate in check_gates(table, tree, config)}


def failed(tree: xr.DataTree, config: FitConfig = CONFIG) -> set[str]:
    return {name for name, gate in gates_of(tree, config).items() if not gate["passed"]}


def test_summary_of_independent_draws():
    tree = tree_of()
    table = summarise(tree["posterior"].to_dataset()).set_index("parameter")
    assert list(table.index) == ["mu_effect", "effect[A | T]", "effect[B | T]"], "the population level, by label"
    values = tree["posterior"]["mu_effect"].to_numpy()
    row = table.loc["mu_effect"]
    assert row["mean"] == pytest.approx(values.mean()) and row["sd"] == pytest.approx(values.std())
    assert row["q05"] == pytest.approx(np.quantile(values, 0.05)) and row["q95"] == pytest.approx(
        np.quantile(values, 0.95)
    )
    # independent draws: about 2,000 effective ones; the estimator's own relative SE is about 5 %
    assert 1500 < row["ess_bulk"] < 2600 and 1200 < row["ess_tail"] < 2600
    assert row["rhat"] < 1.01


def test_ess_of_an_autoregression_is_the_known_one():
    """n (1 - r) / (1 + r) effective draws of a Gaussian AR(1)."""
    rng, r = np.random.default_rng(2), 0.7
    chain = np.zeros((CHAINS, NUM_DRAWS))
    chain[:, 0] = rng.normal(size=CHAINS)
    for t in range(1, NUM_DRAWS):
        chain[:, t] = r * chain[:, t - 1] + np.sqrt(1 - r**2) * rng.normal(size=CHAINS)
    table = summarise(tree_of(mu_effect=chain)["posterior"].to_dataset()).set_index("parameter")
    expected = CHAINS * NUM_DRAWS * (1 - r) / (1 + r)
    # relative SE of the estimate: about sqrt(2 x 12 lags / 2,000) = 0.11
    assert abs(table.loc["mu_effect", "ess_bulk"] / expected - 1) < 0.4


def test_a_good_fit_passes_every_gate():
    gates = gates_of(tree_of())
    assert all(gate["passed"] for gate in gates.values()), gates
    assert len(gates) == 6
    assert gates["R-hat, population"]["limit"] == CONFIG.gates.rhat
    assert gates["share of divergent draws"]["value"] == 0.0


def test_a_first_look_is_judged_by_the_tail_of_its_weights():
    """exp(x) of an exponential with mean k is Pareto with that k; ArviZ shrinks k-hat to a half, by ten draws."""
    rng, tree, size = np.random.default_rng(7), tree_of(), 40
    tail = 3 * np.sqrt(CHAINS * NUM_DRAWS)
    for k in (0.3, 2.0):
        values = []
        for _ in range(size):
            log_weight = rng.exponential(k, (CHAINS, NUM_DRAWS))
            tree["sample_stats"] = tree["sample_stats"].to_dataset().assign(log_weight=(("chain", "draw"), log_weight))
            gate = gates_of(tree)["k-hat of the normal approximation"]
            assert gate["limit"] == 0.7 and gate["passed"] == (gate["value"] <= 0.7)
            values.append(gate["value"])
        expected = (tail * k + 10 * 0.5) / (tail + 10)
        # SE of one k-hat about (1 + k) / sqrt(tail); its bias is of the order of 1 / tail
        assert abs(np.mean(values) - expected) < 5 * (1 + k) / np.sqrt(tail * size) + (1 + k) / tail
        assert k < 0.7 or not np.any(np.array(values) <= 0.7)


def shifted(size: float) -> np.ndarray:
    draws = np.random.default_rng(3).normal(size=(CHAINS, NUM_DRAWS))
    draws[0] += size
    return draws


def test_a_chain_of_its_own_fails_r_hat_and_is_named():
    effect = np.stack([np.random.default_rng(4).normal(size=(CHAINS, NUM_DRAWS)), shifted(3.0)], axis=-1)
    gates = gates_of(tree_of(effect=effect))
    gate = gates["R-hat, population"]
    assert not gate["passed"] and gate["where"] == "effect[B | T]" and gate["value"] > 1.2
    assert not gates["bulk ESS, population"]["passed"]
    assert gates["R-hat, PDX models and arms"]["passed"]


def test_sticky_chains_fail_the_effective_size():
    slow = np.repeat(np.random.default_rng(5).normal(size=(CHAINS, NUM_DRAWS // 10)), 10, axis=1)
    gates = gates_of(tree_of(mu_effect=slow))
    assert not gates["bulk ESS, population"]["passed"]
    assert gates["bulk ESS, population"]["where"] == "mu_effect"
    assert gates["bulk ESS, population"]["value"] < 400


def test_pdx_models_have_a_wider_gate():
    ln_growth = np.random.default_rng(6).normal(size=(CHAINS, NUM_DRAWS, 3))
    ln_growth[..., 1] = shifted(0.35)
    gates = gates_of(tree_of(ln_growth=ln_growth))
    assert 1.01 < gates["R-hat, PDX models and arms"]["value"] < 1.05, "would fail the gate of the population"
    assert (
        gates["R-hat, PDX models and arms"]["passed"]
        and gates["R-hat, PDX models and arms"]["where"] == "ln_growth[M2]"
    )
    ln_growth[..., 1] = shifted(2.0)
    assert failed(tree_of(ln_growth=ln_growth)) == {"R-hat, PDX models and arms"}


def test_divergences_and_tree_depth_by_their_share():
    diverging = np.zeros((CHAINS, NUM_DRAWS))
    diverging[0, :2] = 1
    assert gates_of(tree_of(diverging=diverging))["share of divergent draws"]["value"] == 0.001
    assert failed(tree_of(diverging=diverging)) == set(), "at the limit is allowed"
    diverging[0, 2] = 1
    assert failed(tree_of(diverging=diverging)) == {"share of divergent draws"}
    steps = np.full((CHAINS, NUM_DRAWS), 2**CONFIG.max_tree_depth - 2)
    steps[:, :30] = 2**CONFIG.max_tree_depth - 1
    assert failed(tree_of(tree_steps=steps)) == {"share of draws at greatest tree depth"}
    steps[:, 25:] = 2**CONFIG.max_tree_depth - 2
    assert failed(tree_of(tree_steps=steps)) == set(), "exactly 5 %"


def test_a_parameter_that_never_moved_fails():
    stuck = np.full((CHAINS, NUM_DRAWS), 0.4)
    stuck[1] = 0.5
    gates = gates_of(tree_of(mu_effect=stuck))
    assert not gates["R-hat, population"]["passed"] and gates["R-hat, population"]["where"] == "mu_effect"


def test_not_a_number_is_the_worst():
    draws = np.random.default_rng(7).normal(size=(CHAINS, NUM_DRAWS))
    draws[2, 100] = np.nan
    gates = gates_of(tree_of(mu_effect=draws))
    assert not gates["R-hat, population"]["passed"] and gates["R-hat, population"]["value"] is None
    assert not gates["bulk ESS, population"]["passed"]


def test_limits_come_from_the_configuration():
    loose = FitConfig.model_validate({"gates": {"rhat": 9.0, "ess_bulk": 0, "ess_tail": 0, "rhat_pdx_model": 9.0}})
    effect = np.stack([shifted(1.0), shifted(1.0)], axis=-1)
    assert failed(tree_of(effect=effect)) and not failed(tree_of(effect=effect), loose)


@pytest.mark.parametrize(
    ("name", "quick", "advice"),
    [
        ("R-hat, population", False, "give fit.warmup and fit.draws more"),
        ("tail ESS, population", False, "give fit.warmup and fit.draws more"),
        ("share of divergent draws", False, "raise fit.target_accept"),
        ("share of draws at greatest tree depth", False, "raise fit.max_tree_depth"),
        ("R-hat, population", True, "run it without --quick"),
        ("k-hat of the normal approximation", False, "leave out fit.sampler"),
        ("k-hat of the normal approximation", True, "leave out fit.sampler"),
    ],
)
def test_the_verdict_says_what_failed_and_what_to_do(tmp_path, name: str, quick: bool, advice: str) -> None:
    folder = RunFolder(tmp_path / "run").create()
    folder.update_manifest({"quick": quick})
    gate = {"name": name, "limit": 1.01, "value": 1.25, "where": "loss", "passed": False}
    passed = gate | {"name": "share of divergent draws", "passed": True}
    judge({"passed": True, "gates": [passed]}, folder)
    with pytest.raises(GateError) as caught:
        judge({"passed": False, "gates": [passed, gate]}, folder)
    message = str(caught.value)
    assert f": {name} 1.25 at loss (limit 1.01); " in message
    assert advice in message and message.endswith("(docs/explanation/what-can-go-wrong.md has more)")
