"""The sampler on a posterior known in closed form, and what may not change its draws."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

from vtrial import inference
from vtrial.checkpoint import Checkpoint
from vtrial.config import FitConfig
from vtrial.diagnostics import arviz
from vtrial.errors import VtrialError
from vtrial.inference import (
    STATISTICS,
    block_runner,
    constrain,
    fit,
    initial_state,
    make_sampler,
    sample_blocks,
    share_adaptation,
    sharing_times,
)
from vtrial.store import RunFolder
from vtrial.variational import first_guess, normal_draws, variational_start

CPU = jax.devices("cpu")
SIGMA = 0.5
#: chance alone fails one comparison of a million at 5 standard errors
ERRORS = 5.0


class Line(NamedTuple):
    """Data of a regression with known noise."""

    columns: jax.Array  # [n, 2]
    measured: jax.Array  # [n]


def line_model(line: Line) -> None:
    """Gaussian regression: its posterior is normal and known; `scale` has no data and must keep its prior."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.LogNormal(0.3, 0.4))
    numpyro.deterministic("twice", 2.0 * scale)
    mean = line.columns @ beta
    numpyro.sample("measured", dist.Normal(mean, SIGMA).to_event(1), obs=line.measured)


@pytest.fixture(scope="module")
def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    day = np.linspace(0.0, 2.0, 12)
    columns = np.stack([np.ones_like(day), day], axis=1)
    return columns, columns @ [1.0, -0.7] + SIGMA * rng.normal(size=len(day))


def exact(numbers) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the posterior of beta."""
    columns, measured = numbers
    covariance = np.linalg.inv(columns.T @ columns / SIGMA**2 + np.eye(2) / 4.0)
    return covariance @ columns.T @ measured / SIGMA**2, covariance


def line_of(numbers) -> Line:
    return Line(*map(jnp.asarray, numbers))


WARMUP = 60


class Prepared(NamedTuple):
    sampler: Any
    start: Any
    line: Line
    run: Any  # two chains on two devices


@pytest.fixture(scope="module")
def prepared(numbers) -> Prepared:
    with jax.enable_x64(True):
        line = line_of(numbers)
        guess = first_guess(jax.random.key(1), line_model, line, {})
        start = variational_start(jax.random.key(2), line_model, line, guess, 400)
        sampler = make_sampler(line_model, line, start, num_warmup=WARMUP, target_accept=0.8, max_tree_depth=6)
        return Prepared(sampler, jax.tree.map(np.asarray, start), line, block_runner(sampler, 2, CPU[:2], WARMUP))


def drawn(
    prepared: Prepared, key: int, total: int, block: int, kept: Checkpoint | None = None
) -> dict[str, np.ndarray]:
    """All draws [chain, total, ...] of a run in blocks, statistics included."""
    with jax.enable_x64(True):
        states = initial_state(jax.random.key(key), prepared.sampler, prepared.start, 2)
        blocks = list(
            sample_blocks(prepared.run, states, prepared.line, np.ones(total, bool), block, kept, num_warmup=WARMUP)
        )
    ends = [0, *sharing_times(WARMUP), total]
    lengths = [min(block, end - i) for start, end in itertools.pairwise(ends) for i in range(start, end, block)]
    assert [b.stats["num_steps"].shape[1] for b in blocks] == lengths
    return {
        name: np.concatenate([{**b.draws, **b.stats}[name] for b in blocks], axis=1)
        for name in (*blocks[0].draws, *STATISTICS)
    }


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_first_guess_takes_given_values_and_unconstrains_them(numbers):
    with jax.enable_x64(True):
        values = {"scale": jnp.asarray(2.0), "beta": jnp.asarray([0.5, -1.0])}
        guess = first_guess(jax.random.key(0), line_model, line_of(numbers), values)
        default = first_guess(jax.random.key(0), line_model, line_of(numbers), {})
    assert set(guess) == {"beta", "scale"}, "neither data nor deterministics are parameters"
    np.testing.assert_allclose(guess["scale"], np.log(2.0), rtol=1e-12)
    np.testing.assert_allclose(guess["beta"], [0.5, -1.0])
    assert all(v.dtype == np.float64 for v in guess.values())
    # the mean of a log-normal is exp(0.3 + 0.4^2 / 2)
    np.testing.assert_allclose(default["scale"], 0.38, rtol=1e-12)
    np.testing.assert_array_equal(default["beta"], 0.0)


def test_variational_start_is_the_best_factorised_normal(prepared, numbers):
    """Mean-field on a normal posterior: exact mean, variances that are the inverse of the precision's diagonal."""
    mean, covariance = exact(numbers)
    narrow = 1.0 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    start = prepared.start
    # Adam at its last learning rate of 3e-4 and one sample a step leaves noise of a fraction of the posterior SD
    np.testing.assert_array_less(np.abs(start.mean["beta"] - mean), 0.5 * narrow)
    np.testing.assert_array_less(np.abs(np.log(start.scale["beta"] / narrow)), 0.4)
    assert abs(start.mean["scale"] - 0.3) < 0.5 * 0.4 and abs(np.log(start.scale["scale"] / 0.4)) < 0.4
    assert start.losses.shape == (400,) and start.losses[-50:].mean() < start.losses[:50].mean()


def test_draws_of_the_normal_approximation_and_their_weights(prepared, numbers):
    """Independent normals with the moments of the start; weights are posterior over approximation, up to a constant."""
    start, number = prepared.start, 4000
    with jax.enable_x64(True):
        found = normal_draws(jax.random.key(8), line_model, line_of(numbers), start, 2, number // 2)
    assert found.draws["beta"].shape == (2, number // 2, 2) and found.stats["log_weight"].shape == (2, number // 2)
    log_q = np.zeros((2, number // 2))
    for name in ("beta", "scale"):
        z = (found.draws[name] - np.asarray(start.mean[name])) / np.asarray(start.scale[name])
        assert np.all(np.abs(z.mean((0, 1))) < ERRORS / np.sqrt(number))
        assert np.all(np.abs(z.var((0, 1)) - 1) < ERRORS * np.sqrt(2 / number))
        log_q += stats.norm.logpdf(z).reshape(2, number // 2, -1).sum(-1)
    rho = np.corrcoef(found.draws["beta"].reshape(-1, 2).T)[0, 1]
    assert abs(rho) < ERRORS / np.sqrt(number), "what is correlated in the posterior is not here"
    np.testing.assert_allclose(found.stats["potential_energy"], found.stats["energy"])
    weight = -found.stats["potential_energy"] - log_q - found.stats["log_weight"]
    np.testing.assert_allclose(weight, weight[0, 0], rtol=1e-9)
    assert not found.stats["diverging"].any() and not found.stats["num_steps"].any()
    # importance weights make up for what the approximation lacks
    log_weight = found.stats["log_weight"].ravel()
    share = np.exp(log_weight - np.logaddexp.reduce(log_weight))
    mean, covariance = exact(numbers)
    beta = found.draws["beta"].reshape(-1, 2)
    errors = np.sqrt((share[:, None] ** 2 * (beta - mean) ** 2).sum(0))
    assert np.all(np.abs(share @ beta - mean) < ERRORS * errors)
    product = (beta - mean).prod(1)
    error = np.sqrt((share**2 * (product - covariance[0, 1]) ** 2).sum())
    assert abs(share @ product - covariance[0, 1]) < ERRORS * error


def test_a_start_that_diverges_says_so(numbers):
    columns, measured = numbers
    with jax.enable_x64(True):
        line = line_of((columns, np.full_like(measured, np.nan)))
        guess = {"beta": jnp.zeros(2), "scale": jnp.zeros(())}
        with pytest.raises(VtrialError, match="variational start diverged"):
            variational_start(jax.random.key(2), line_model, line, guess, 5)


def test_draws_have_the_moments_of_the_exact_posterior(prepared, numbers):
    draws = drawn(prepared, 3, 660, 60)
    kept = {name: draws[name][:, 60:] for name in ("beta", "scale")}
    mean, covariance = exact(numbers)
    expected = {
        "first": (kept["beta"][..., 0], mean[0], np.sqrt(covariance[0, 0])),
        "second": (kept["beta"][..., 1], mean[1], np.sqrt(covariance[1, 1])),
        "scale": (kept["scale"], 0.3, 0.4),
    }
    for name, (values, centre, sd) in expected.items():
        size = float(arviz.ess(values))
        spread = float(arviz.ess((values - values.mean()) ** 2))
        assert size > 100, name
        assert abs(values.mean() - centre) < ERRORS * sd / np.sqrt(size), name
        # the variance of a normal sample has relative SE sqrt(2 / n)
        assert abs(values.var() / sd**2 - 1.0) < ERRORS * np.sqrt(2.0 / spread), name
    rho = np.corrcoef(kept["beta"][..., 0].ravel(), kept["beta"][..., 1].ravel())[0, 1]
    exact_rho = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    size = min(float(arviz.ess(kept["beta"][..., j])) for j in range(2))
    assert abs(np.arctanh(rho) - np.arctanh(exact_rho)) < ERRORS / np.sqrt(size), "Fisher's z"
    assert not draws["diverging"][:, 60:].any()
    assert 0.6 < draws["accept_prob"][:, 60:].mean() < 0.98, "adapted towards 0.8"


def test_blocks_do_not_change_the_draws(prepared):
    assert_same(drawn(prepared, 5, 90, 60), drawn(prepared, 5, 90, 30))
    assert_same(drawn(prepared, 5, 90, 45), drawn(prepared, 5, 90, 30))


def test_chains_share_what_they_have_adapted(prepared):
    """One step size and one set of variances from the end of the warm-up, in the form that NumPyro keeps them."""
    with jax.enable_x64(True):
        states = initial_state(jax.random.key(5), prepared.sampler, prepared.start, 2)
        states, *_ = prepared.run(states, prepared.line, length=WARMUP)
        own, shared = states.adapt_state, share_adaptation(states).adapt_state
        after, _, stats = prepared.run(share_adaptation(states), prepared.line, length=30)
    variances = np.asarray(own.inverse_mass_matrix)
    assert np.any(variances[0] != variances[1])
    np.testing.assert_allclose(shared.inverse_mass_matrix, np.tile(variances.mean(0), (2, 1)), rtol=1e-14)
    np.testing.assert_allclose(shared.step_size, np.sqrt(np.prod(np.asarray(own.step_size))), rtol=1e-14)
    for name in ("mass_matrix_sqrt", "mass_matrix_sqrt_inv"):
        # a chain whose variances are those of the mean would hold this very factor
        power = np.log(np.asarray(getattr(own, name))) / np.log(variances)
        np.testing.assert_allclose(getattr(shared, name), shared.inverse_mass_matrix**power, rtol=1e-10)
    np.testing.assert_array_equal(after.adapt_state.step_size, shared.step_size)
    np.testing.assert_array_equal(after.adapt_state.inverse_mass_matrix, shared.inverse_mass_matrix)
    assert np.asarray(stats["accept_prob"]).mean() > 0.6


def test_the_step_size_is_adapted_to_the_shared_variances(prepared):
    """Chains enter the last window with the same variances, and leave it with these and a step size of their own."""
    seen = []

    def watched(states, arrays, *, length):
        after, *made = prepared.run(states, arrays, length=length)
        seen.append(tuple(each.adapt_state._replace(rng_key=None) for each in (states, after)))
        return after, *made

    drawn(prepared._replace(run=watched), 5, 90, WARMUP)
    assert [int(after.window_idx[0]) for _, after in seen] == [2, 3, 3], "two windows end in the first block"
    (_, first), (entered, left), (drawing, last) = jax.tree.map(np.asarray, seen)
    assert np.any(np.diff(first.inverse_mass_matrix, axis=0) != 0.0)
    np.testing.assert_array_equal(np.diff(entered.inverse_mass_matrix, axis=0), 0.0)
    np.testing.assert_array_equal(left.inverse_mass_matrix, entered.inverse_mass_matrix)
    assert np.all(np.diff(left.step_size) != 0.0) and np.all(left.step_size != entered.step_size)
    np.testing.assert_array_equal(np.diff(drawing.step_size), 0.0)
    np.testing.assert_array_equal(last.step_size, drawing.step_size)


def test_blocks_of_all_lengths_are_one_program(prepared):
    """The model is traced no more when another length is asked for; more than there is room for is refused."""
    traced = []

    def step(state, arrays):
        traced.append(1)
        return prepared.sampler.step(state, arrays)

    with jax.enable_x64(True):
        run = block_runner(prepared.sampler._replace(step=step), 2, CPU[:1], 20)
        states = initial_state(jax.random.key(5), prepared.sampler, prepared.start, 2)
        states, draws, stats = run(states, prepared.line, length=20)
        once = len(traced)
        assert once > 0 and draws["beta"].shape == (2, 20, 2) and stats["num_steps"].shape == (2, 20)
        _, draws, stats = run(states, prepared.line, length=7)
        assert (
            draws["beta"].shape == (2, 7, 2) and stats["num_steps"].shape == (2, 7) and np.all(stats["num_steps"] > 0)
        )
        with pytest.raises(ValueError, match="21 iterations in a block with room for 20"):
            run(states, prepared.line, length=21)
    assert len(traced) == once


def test_devices_do_not_change_the_draws(prepared):
    assert len(CPU) >= 2, "conftest asks for two"
    with jax.enable_x64(True):
        alone = prepared._replace(run=block_runner(prepared.sampler, 2, CPU[:1], WARMUP))
    two = drawn(prepared, 5, 60, 60)
    assert_same(two, drawn(alone, 5, 60, 60))
    assert np.all(two["beta"][0] != two["beta"][1]), "chains differ"


class Folder(NamedTuple):
    """A run folder and the checkpoint in it, as a new process would open them."""

    folder: RunFolder

    def opened(self) -> Checkpoint:
        return Checkpoint(self.folder, "fit", {"fit key": "0f"})

    def pieces(self) -> list[Path]:
        return sorted(self.folder.path.glob("checkpoints/fit-*/iterations-*.npz"))


@pytest.fixture
def kept(tmp_path: Path) -> Folder:
    return Folder(RunFolder(tmp_path / "run").create())


def test_a_killed_fit_goes_on_to_the_same_draws(prepared, kept, caplog):
    """Killed in the warm-up, between the blocks, and with a damaged block; another length of blocks in between."""
    undisturbed = drawn(prepared, 5, 90, 30)
    assert_same(drawn(prepared, 5, 90, 30, kept.opened()), undisturbed)
    written = {file: file.read_bytes() for file in kept.pieces()}
    assert [file.name for file in written] == [f"iterations-{done:08d}.npz" for done in (0, 30, 54, 60)]
    for file in kept.pieces()[1:]:
        file.unlink()
    calls = []

    def counting(*arguments, length):
        calls.append(length)
        return prepared.run(*arguments, length=length)

    watched = prepared._replace(run=counting)
    with jax.enable_x64(True):
        states = initial_state(jax.random.key(5), prepared.sampler, prepared.start, 2)
        blocks = list(
            sample_blocks(counting, states, prepared.line, np.ones(90, bool), 60, kept.opened(), num_warmup=WARMUP)
        )
    assert calls == [24, 6, 30], "the first block is not made again"
    for name in ("beta", "scale"):
        np.testing.assert_array_equal(np.concatenate([b.draws[name] for b in blocks], axis=1), undisturbed[name])
    # a damaged block is named, made again, and leaves the same bytes
    for file, content in written.items():
        file.write_bytes(content)
    damaged = kept.pieces()[1]
    damaged.write_bytes(written[damaged][:-200] + bytes(200))
    calls.clear()
    caplog.clear()
    assert_same(drawn(watched, 5, 90, 30, kept.opened()), undisturbed)
    assert calls == [24]
    assert f"{damaged}: is damaged: its content does not have the hash it records; it is computed again" in caplog.text
    assert {file: file.read_bytes() for file in kept.pieces()} == written


def test_a_signal_waits_until_its_block_is_stored(prepared, kept):
    def interrupted(*arguments, length):
        result = prepared.run(*arguments, length=length)
        signal.raise_signal(signal.SIGINT)
        return result

    # a job in the background of a shell starts with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            drawn(prepared._replace(run=interrupted), 5, 90, 30, kept.opened())
    finally:
        signal.signal(signal.SIGINT, before)
    assert [file.name for file in kept.pieces()] == ["iterations-00000000.npz"]
    assert_same(drawn(prepared, 5, 90, 30, kept.opened()), drawn(prepared, 5, 90, 30))


def test_the_key_decides_the_draws(prepared):
    one, again, other = (drawn(prepared, key, 60, 60) for key in (7, 7, 8))
    assert_same(one, again)
    assert np.all(one["beta"][:, 0] != other["beta"][:, 0])


def test_constrain_gives_sites_and_deterministics(prepared):
    rng = np.random.default_rng(0)
    draws = {"beta": rng.normal(size=(2, 7, 2)), "scale": rng.normal(size=(2, 7))}
    with jax.enable_x64(True):
        every = constrain(line_model, prepared.line, draws)
        chosen = constrain(line_model, prepared.line, draws, ("twice",), batch=3)
    np.testing.assert_allclose(every["scale"], np.exp(draws["scale"]), rtol=1e-12)
    np.testing.assert_allclose(every["twice"], 2.0 * np.exp(draws["scale"]), rtol=1e-12)
    np.testing.assert_array_equal(every["beta"], draws["beta"])
    assert set(chosen) == {"twice"}
    np.testing.assert_array_equal(chosen["twice"], every["twice"])


def test_fit_runs_all_stages(numbers, kept, monkeypatch):
    """Three chains on two devices run on one. Again, from the checkpoint: nothing is sampled, the same comes out."""
    config = FitConfig(chains=3, warmup=60, draws=50, thin=2, block=40, svi_steps=150, max_tree_depth=6)
    told = []

    def fitted():
        with jax.enable_x64(True):
            values, sites = {"scale": jnp.asarray(1.0)}, ("beta", "twice")
            return fit(
                jax.random.key(11), line_model, line_of(numbers), values, config, sites,
                lambda *step: told.append(step), CPU, checkpoint=kept.opened(),
            )  # fmt: skip

    result = fitted()
    assert set(result.values) == {"beta", "twice"}
    assert result.values["beta"].shape == (3, 50, 2) and result.values["twice"].shape == (3, 50)
    assert all(result.stats[name].shape == (3, 50) for name in STATISTICS), "warm-up is not kept"
    steps = [*(("warm-up", done, 160) for done in (40, 54, 60)), *(("draws", done, 160) for done in (100, 140, 160))]
    assert told == [("variational start", 0, 150), *steps]
    assert set(result.seconds) == {"start", "sample", "constrain"}
    monkeypatch.setattr(inference, "variational_start", None)
    monkeypatch.setattr(inference, "block_runner", lambda *_: None)
    again = fitted()
    for one, other in ((again.values, result.values), (again.stats, result.stats), (again.draws, result.draws)):
        assert_same(one, other)
    np.testing.assert_array_equal(again.losses, result.losses)
    # rank of the exact median among the draws, by the sign test at the smallest effective size
    mean, _ = exact(numbers)
    for j in range(2):
        below = np.mean(result.values["beta"][..., j] < mean[j])
        size = float(arviz.ess((result.values["beta"][..., j] < mean[j]).astype(float)))
        assert abs(below - 0.5) < ERRORS * 0.5 / np.sqrt(size)
    middle = stats.norm.cdf(np.log(result.values["twice"] / 2.0), 0.3, 0.4)
    assert abs(middle.mean() - 0.5) < ERRORS * np.sqrt(1 / 12 / float(arviz.ess(middle)))
    # a quick look: the same start, and no chain is run
    config = config.model_copy(update={"sampler": "variational"})
    look = fitted()
    assert look.draws["beta"].shape == (3, 50, 2) and look.values["twice"].shape == (3, 50)
    np.testing.assert_array_equal(look.losses, result.losses)
    assert {*look.stats} == {*STATISTICS, "log_weight"} and told[-1] == ("variational start", 0, 150)
