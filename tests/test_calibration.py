import numpy as np
import pytest

from vtrial.calibration import KHAT_LIMIT, Calibration, Smoother, Teacher
from vtrial.translation import ClassTerms

SIZE = 3000
SD = {"common": 0.5, "class": 0.5, "drug": 0.4, "noise": 0.4}
#: (drug, class) of five arms and the value that each trial saw
ARMS = (("a", "X", 0.9), ("a", "X", 1.1), ("b", "X", 0.7), ("c", "Y", 0.8), ("d", "Y", 0.2))


def tree(seed: int = 0):
    """Draws of a linear Gaussian tree: common -> class -> drug -> what a trial sees with noise."""
    rng = np.random.default_rng(seed)
    z = {name: rng.standard_normal(SIZE) for name in ("common", "X", "Y", "a", "b", "c", "d", "t")}
    common = SD["common"] * z["common"]
    classes = {name: common + SD["class"] * z[name] for name in ("X", "Y")}
    drugs = {d: classes[c] + SD["drug"] * z[d] for d, c in (("a", "X"), ("b", "X"), ("c", "Y"), ("d", "Y"), ("t", "X"))}
    return common, classes, drugs


def calibration(values=ARMS, seed: int = 0) -> tuple[Calibration, dict[str, np.ndarray]]:
    common, classes, drugs = tree(seed)
    none = np.zeros(SIZE)
    teachers = [Teacher(i, d, c, -0.5 * ((y - drugs[d]) / SD["noise"]) ** 2) for i, (d, c, y) in enumerate(values)]
    terms = {name: ClassTerms(value, none) for name, value in classes.items()}
    return Calibration(teachers, terms, ClassTerms(common, none)), drugs


def exact(target: str, target_class: str, values) -> tuple[float, float]:
    """Posterior mean and SD of a drug's value by conditioning the joint normal."""
    names = [*[d for d, _, _ in values], target]
    classes = [*[c for _, c, _ in values], target_class]
    n = len(values)
    cov = np.array(
        [
            [
                SD["common"] ** 2
                + (classes[i] == classes[j]) * SD["class"] ** 2
                + (names[i] == names[j]) * SD["drug"] ** 2
                for j in range(n + 1)
            ]
            for i in range(n + 1)
        ]
    )
    seen = cov[:n, :n] + SD["noise"] ** 2 * np.eye(n)
    gain = np.linalg.solve(seen, cov[:n, n])
    return float(gain @ [y for *_, y in values]), float(np.sqrt(cov[n, n] - gain @ cov[:n, n]))


@pytest.mark.parametrize(("target", "target_class"), [("a", "X"), ("b", "X"), ("d", "Y"), ("t", "X")])
def test_weights_are_the_posterior_of_a_linear_gaussian_tree_independent_derivation(target, target_class) -> None:
    """A drug with trials, and one without, against conditioning of the joint normal.

    Four Monte Carlo standard errors, and the bias of the kernel: it blurs the condition by h = D^(-1/6) SD, which takes
    h^2 / (1 + h^2) = 6 % off what other drugs and classes say; no shift here is above 0.8.
    """
    learnt, drugs = calibration()
    found = learnt.weights({target: target_class}, left_out=())
    mean, sd = exact(target, target_class, ARMS)
    blur = SIZE ** (-1 / 3) / (1 + SIZE ** (-1 / 3))
    weighted = float(found.weight @ drugs[target])
    assert found.khat < KHAT_LIMIT
    assert found.power == 1.0
    assert abs(weighted - mean) < 4 * sd / np.sqrt(found.ess) + blur * 0.8
    spread = float(np.sqrt(found.weight @ (drugs[target] - weighted) ** 2))
    assert abs(spread / sd - 1) < 4 / np.sqrt(2 * found.ess) + blur


def test_what_is_left_out_is_not_seen() -> None:
    """Whatever the left-out trials saw, the weights are bitwise the same."""
    changed = (*ARMS[:1], ("a", "X", -9.0), ("b", "X", 7.0), *ARMS[3:])
    for drugs in ({"a": "X"}, {"t": "X"}, {"c": "Y", "a": "X"}):
        first = calibration()[0].weights(drugs, left_out=[1, 2])
        second = calibration(changed)[0].weights(drugs, left_out=[1, 2])
        np.testing.assert_array_equal(first.weight, second.weight)
        assert first.teachers == 3


def test_nothing_learnt_leaves_the_prior() -> None:
    found = calibration()[0].weights({"a": "X"}, left_out=range(5))
    assert (found.ess, found.teachers, found.power) == (SIZE, 0, 1.0)
    np.testing.assert_allclose(found.weight, 1 / SIZE)


def test_degenerate_weights_use_a_power_of_the_likelihood_and_say_so() -> None:
    """A trial that only one draw in thousands can explain is tempered until k-hat is below the limit."""
    learnt, drugs = calibration((("a", "X", 6.0), ("a", "X", 6.5)))
    sharp = Calibration(
        [Teacher(0, "a", "X", -0.5 * ((5.0 - drugs["a"]) / 0.01) ** 2)],
        {"X": ClassTerms(tree()[1]["X"], np.zeros(SIZE))},
        ClassTerms(tree()[0], np.zeros(SIZE)),
    )
    found = sharp.weights({"a": "X"}, left_out=())
    assert found.power < 1.0
    assert found.khat <= KHAT_LIMIT or found.power == 0.0
    assert learnt.weights({"a": "X"}, left_out=()).weight.sum() == pytest.approx(1.0)


def test_smoothing_keeps_a_constant_and_follows_a_function() -> None:
    rng = np.random.default_rng(3)
    given = ClassTerms(rng.standard_normal(SIZE), rng.standard_normal(SIZE))
    smooth = Smoother(given)
    # float32 sums of 3,000 weights that add up to 1
    np.testing.assert_allclose(smooth.log_mean(np.full(SIZE, -700.0)), -700.0, atol=1e-5)
    found = smooth.log_mean(0.5 * given.ln_kill_scale)
    assert np.corrcoef(found, given.ln_kill_scale)[0, 1] > 0.98
