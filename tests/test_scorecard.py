from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vtrial import cli, experiment, posterior, scorecard, validation
from vtrial.priors import load_priors
from vtrial.published_endpoints import MEDIAN_COLUMNS, SHRINKAGE_COLUMNS
from vtrial.store import RunFolder
from vtrial.validation import COLUMNS, Validation, coverage, summary


def made_up_scores() -> pd.DataFrame:
    """Six arms of four trials; the second misses its interval, combinations are the last two."""
    rows = {name: [0.0] * 6 for name in COLUMNS}
    rows |= {
        "id": list(range(1, 7)),
        "trial": ["A", "A", "B", "C", "D", "D"],
        "arm": ["=cmd", "b", "c", "d", "e", "f"],
        "tumour_type": ["CM"] * 6,
        "role": ["calibration"] * 4 + ["held_out"] * 2,
        "num_responders": [5, 19, 5, 5, 5, 5],
        "num_patients": [20] * 6,
        "pred_mean": [0.25] * 6,
        "pred_q05": [0.1] * 6,
        "pred_q95": [0.5] * 6,
        "mid_p": [0.5] * 6,
        "crps": [0.05] * 6,
        "crps_no_mice": [0.07] * 6,
        "crps_meta": [0.04, 0.05, 0.06, 0.05, 0.05, 0.05],
        "crps_uncalibrated": [0.06] * 6,
        "crps_other_endpoints": [0.04] * 6,
        "crps_independent_action": [np.nan] * 4 + [0.05] * 2,
        "ess": [90.0] * 6,
        "certainty": ["published"] * 5 + ["recalled"],
        "in_mice": [True] * 3 + [False] * 3,
        "counted": [True] * 6,
    }
    return pd.DataFrame(rows)[list(COLUMNS)]


def made_up_medians() -> pd.DataFrame:
    """One time to response of a calibration arm, inside; two of progression, of which a combination's is outside."""
    rows = {name: [""] * 3 for name in MEDIAN_COLUMNS}
    rows |= {
        "id": [1, 1, 5],
        "trial": ["A", "A", "D"],
        "role": ["calibration", "calibration", "held_out"],
        "endpoint": ["ttr", "pfs", "pfs"],
        "certainty": ["recalled", "published", "published"],
        "learnt_from": ["orr"] * 3,
        "published_months": [2.0, 5.0, 9.0],
        "pred_q05": [1.0, 2.0, 1.0],
        "pred_q50": [2.5, 4.0, 3.0],
        "pred_q95": [np.inf, 7.0, 4.0],
        "probability": [0.4, 0.6, 0.99],
        "inside": [True, True, False],
        "counted": [True] * 3,
    }
    return pd.DataFrame(rows)[list(MEDIAN_COLUMNS)]


def test_the_answer_counts_medians_inside() -> None:
    """By hand from the three rows."""
    lines = scorecard.median_lines(made_up_medians())
    assert "time to response: 1 of 1 published ones" in lines[0] and "1 are from memory" in lines[0]
    assert "survival: 1 of 2 published ones" in lines[1] and "1 of 1 in calibration arms" in lines[1]


def made_up_shrinkage() -> pd.DataFrame:
    """Two arms, of which that of a combination is outside."""
    rows = {name: [""] * 2 for name in SHRINKAGE_COLUMNS}
    rows |= {
        "id": [1, 5],
        "role": ["calibration", "held_out"],
        "num_shrunk": [4, 9],
        "num_measured": [10, 10],
        "pred_mean": [0.5, 0.3],
        "pred_q05": [0.2, 0.1],
        "pred_q95": [0.8, 0.6],
        "mid_p": [0.4, 0.99],
        "crps": [0.05, 0.4],
        "inside": [True, False],
        "counted": [True] * 2,
    }
    return pd.DataFrame(rows)[list(SHRINKAGE_COLUMNS)]


def test_the_answer_counts_shrinkage_inside() -> None:
    (line,) = scorecard.shrinkage_lines(made_up_shrinkage())
    assert "1 of 2 published counts" in line and "1 of 1 in calibration arms" in line
    assert scorecard.shrinkage_lines(pd.DataFrame([], columns=SHRINKAGE_COLUMNS)) == []


def test_the_answer_says_whether_mice_help() -> None:
    """Constant difference of -2 points to no mice: helped; to the meta-analysis its interval spans 0: undecided."""
    scores = made_up_scores()
    lines = scorecard.answer(summary(scores, 1), coverage(scores))
    first = next(line for line in lines if "without mice, all arms" in line and "pipeline" in line)
    assert "(6 arms of 4 trials): mice help" in first
    assert "difference -2.0 [-2.0, -2.0]" in first
    meta = next(line for line in lines if "meta-analysis" in line and "all arms" in line)
    assert "undecided" in meta
    # Binomial(6, 0.1): P(<= 2) = 0.984
    assert "miss 1 of 6 arms (0 below, 1 above), within what chance allows (at most 2)" in lines[-1]


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """A run folder whose posterior is never read."""
    folder = RunFolder(tmp_path / "fit").create()
    (folder.path / "experiment.yaml").write_text("name: tiny")
    data = SimpleNamespace(synthetic=True, aliases={})
    made = SimpleNamespace(
        name="tiny",
        is_quick=False,
        fit=SimpleNamespace(sampler="nuts"),
        data=data,
        prior_paths=lambda: [],
        mice=SimpleNamespace(leaving_odds_ratio=1.0),
        trial=SimpleNamespace(engraftment_bias=0.0, cut_off=None),
    )
    monkeypatch.setattr(experiment, "load_resolved", lambda *_: made)
    monkeypatch.setattr(RunFolder, "has_posterior", lambda *_: True)
    monkeypatch.setattr(RunFolder, "open_posterior", lambda *_: nullcontext())
    monkeypatch.setattr(posterior, "Draws", lambda tree, size: SimpleNamespace(size=size))
    scores = made_up_scores()
    missing = pd.DataFrame({"id": [7], "trial": ["E"], "arm": ["g"], "tumour_type": ["CM"], "reason": ["endocrine"]})
    result = Validation(scores, missing, summary(scores, 1), coverage(scores), made_up_medians(), made_up_shrinkage())
    monkeypatch.setattr(validation, "validate", lambda *_: result)
    return folder.path


def test_command_writes_the_three_files_and_says_what_the_mice_are(fitted, tmp_path, capsys) -> None:
    out = tmp_path / "scores"
    assert cli.main(["validate", "--out", str(out), "--run", str(fitted), "--draws", "60"]) == 0
    printed = capsys.readouterr().out
    assert "synthetic data" in printed
    assert "mice help" in printed
    assert {"validation.csv", "not_predicted.csv", "validation.html"} <= {path.name for path in out.iterdir()}
    table = pd.read_csv(out / "validation.csv")
    assert tuple(table.columns) == COLUMNS
    assert list(pd.read_csv(out / "medians.csv")["inside"]) == [True, True, False]
    assert list(pd.read_csv(out / "shrinkage.csv")["num_shrunk"]) == [4, 9]
    assert list(pd.read_csv(out / "not_predicted.csv")["reason"]) == ["endocrine"]
    page = (out / "validation.html").read_text()
    assert "synthetic data" in page
    assert "http://" not in page and "https://" not in page


def test_arms_of_chosen_classes_alone(fitted, tmp_path, monkeypatch, capsys) -> None:
    """Every drug of an arm is of them; the page and its command say so, and a slip writes nothing."""
    priors = load_priors()
    own = scorecard.of_classes(priors, ["RAF/MEK", "FAK"]).trials
    assert own == tuple(
        arm for arm in priors.trials if arm.drugs and all(priors.drug_class(d) in ("RAF/MEK", "FAK") for d in arm.drugs)
    )
    assert any(len(arm.drugs) == 2 for arm in own) and len(own) < len(priors.trials) / 2
    assert scorecard.of_classes(priors, []) is priors
    seen, score_arms = [], validation.validate
    monkeypatch.setattr(validation, "validate", lambda *given: (seen.append(given[1].trials), score_arms(*given))[1])
    out = tmp_path / "scores"
    assert cli.main(["validate", "--out", str(out), "--run", str(fitted), "--classes", "RAF/MEK, FAK"]) == 0
    assert seen == [own] and "ARMS OF RAF/MEK, FAK ALONE" in capsys.readouterr().out
    page = (out / "validation.html").read_text()
    assert "ARMS OF RAF/MEK, FAK ALONE" in page and "--classes RAF/MEK,FAK" in page
    slips = {"mek": "mean 'RAF/MEK'?", "Taxane": "mean 'taxane'?", "TNKS": "no published arm has drugs of TNKS alone"}
    for word, said in slips.items():
        other = tmp_path / "other"
        assert cli.main(["validate", "--out", str(other), "--run", str(fitted), "--classes", word]) == 2
        assert said in capsys.readouterr().err and not other.exists()


def test_a_folder_without_a_run_is_bad_input(tmp_path, capsys) -> None:
    assert cli.main(["validate", "--out", str(tmp_path / "o"), "--run", str(tmp_path / "none")]) == 2
    assert "run folder" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
