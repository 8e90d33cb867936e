"""Priors: what ships is whole and sound, what is wrong is named by file, line and key."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vtrial.errors import InputError
from vtrial.priors import FAMILIES, SECTIONS, Priors, load_priors, shipped_folder
from vtrial.yamlfile import YamlDocument, read_yaml

PDXE_DRUGS = (
    "5FU BGJ398 BKM120 BYL719 CGM097 CKX620 CLR457 HDM201 HSP990 INC280 INC424 LDE225 LDK378 LEE011 LFA102 LFW527 "
    "LGH447 LGW813 LJC049 LJM716 LKA136 LLM871 TAS266 WNT974 abraxane binimetinib binimetinib-3.5mpk cetuximab "
    "dacarbazine encorafenib erlotinib everolimus "
    "figitumumab gemcitabine-50mpk paclitaxel tamoxifen trametinib trastuzumab"
)

ENTRY = """
    family: normal
    parameters: {loc: 0.0, scale: 0.5}
    unit: "1"
    source: a paper
    certainty: published
    note: what it means
"""
DEEP = ENTRY.replace("\n    ", "\n      ")
DEEPER = ENTRY.replace("\n    ", "\n        ")


@pytest.fixture(scope="module")
def priors() -> Priors:
    return load_priors()


@pytest.fixture(autouse=True)
def shipped_files_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path) -> YamlDocument:
        return _parsed(file) if file.parent == shipped_folder() else read_yaml(file)

    monkeypatch.setattr("vtrial.priors_file.read_yaml", read)


_parsed = functools.cache(read_yaml)


def overlay(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def drug(text: str) -> str:
    return f"drugs:\n  newdrug:\n    drug_class: FAK\n{text}"


# ------------------------------------------------------------------------------------------------ what ships


def test_shipped_files_are_the_eight_and_every_section_is_used(priors: Priors) -> None:
    assert sorted(file.stem for file in priors.files) == [
        "classes",
        "dose_response",
        "drugs",
        "engagement",
        "growth",
        "patients",
        "translation",
        "trials",
    ]
    assert {name.split(".")[0] for name in priors.names()} | {"trials"} == set(SECTIONS)
    assert priors.changes == ()


def test_every_entry_is_whole(priors: Priors) -> None:
    for entry in priors.entries.values():
        assert entry.family in FAMILIES
        assert all(math.isfinite(value) for value in entry.parameters.values())
        assert all(text.strip() for text in (entry.unit, entry.source, entry.note)), entry.name
        assert entry.certainty in {"measured", "published", "recalled", "assumed"}
        assert entry.file.parent == shipped_folder()
        # The line is that of the entry's own key.
        assert entry.line is not None
        text = entry.file.read_text(encoding="utf-8").splitlines()[entry.line - 1]
        assert text.strip().removesuffix(":").strip('"') == next(
            key for key in (entry.name.rsplit(".", 1)[1], entry.name) if text.strip().startswith((key, f'"{key}'))
        )


def test_memory_is_not_passed_off_as_print(priors: Priors) -> None:
    for entry in priors.entries.values():
        if "memory" in entry.source:
            assert entry.certainty in {"recalled", "assumed"}, entry.name
    for arm in priors.trials:
        if arm.tag.startswith("RECALLED"):
            assert arm.certainty == "recalled" and arm.confidence == "C"


def test_distributions_are_finite_at_their_median_and_agree_with_the_quantiles(priors: Priors) -> None:
    compared: Counter[str] = Counter()
    for entry in priors.entries.values():
        median = entry.quantile(0.5)
        distribution = entry.distribution()
        assert np.isfinite(np.asarray(distribution.log_prob(median))), entry.name
        compared[entry.family] += 1
        if entry.family not in {"fixed", "beta"} and compared[entry.family] <= 3:
            assert np.asarray(distribution.cdf(median)) == pytest.approx(0.5, abs=1e-5), entry.name


@pytest.mark.parametrize(
    ("name", "probability", "expected"),
    [
        # by hand: loc + 1.959964 scale; median exp(1.959964 sigma); scale times the normal's 75 % point; a fixed value
        ("translation.growth_exponent", 0.975, -0.25 + 1.959964 * 0.05),
        ("drugs.avutometinib.pk.half_life", 0.975, 55.0 * math.exp(1.959964 * 0.25)),
        ("classes.default.between_classes", 0.5, 0.35 * 0.6744898),
        ("translation.human_weight_kg", 0.1, 70.0),
        # cut at -3 SD (mass 0.00135) and +5 SD (none): the median moves to z(0.5 + 0.00135 / 2) = 0.0016918 SD
        ("patients.default.target_lesions", 0.5, 2.5 + 0.5 * 0.0016918),
    ],
)
def test_quantiles_by_hand(priors: Priors, name: str, probability: float, expected: float) -> None:
    assert priors.entry(name).quantile(probability) == pytest.approx(expected, rel=1e-5)


def test_beta_is_given_by_mean_and_concentration(priors: Priors) -> None:
    distribution = priors.distribution("patients.default.missed_visit")
    assert np.asarray(distribution.mean) == pytest.approx(0.03)
    assert np.asarray(distribution.variance) == pytest.approx(0.03 * 0.97 / 61)


def test_logarithm_of_a_lognormal_entry(priors: Priors) -> None:
    distribution = priors.distribution("growth.mouse.ln_residual_sd")
    assert type(distribution).__name__ == "Normal"
    assert np.asarray(distribution.mean) == pytest.approx(math.log(0.25))
    assert priors.distributions(["classes.default.ln_between_models"]).keys() == {"classes.default.ln_between_models"}
    with pytest.raises(InputError, match=r"growth\.mouse\.ln_between_types: there is no prior"):
        priors.distribution("growth.mouse.ln_between_types")  # half-normal: has no such logarithm


def test_consequences_in_plain_numbers(priors: Priors) -> None:
    """The priors say what the evidence says: doubling times, growth in patients, regressions under FAK inhibitors."""
    median = {name: entry.quantile(0.5) for name, entry in priors.entries.items()}
    doubling = math.log(2) / math.exp(median["growth.mouse.ln_rate"])
    assert 12 < doubling < 16  # days, PDXE: 13.9
    ratio = 1000 * median["translation.human_weight_kg"] / median["translation.mouse_weight_g"]
    assert ratio ** median["translation.growth_exponent"] == pytest.approx(0.134, abs=0.001)
    # a drug of middling effect whose models differ as those under FAK inhibitors do: regressions are rare
    assert "classes.FAK.mean_effect" not in median  # the published results are evidence rows of the fit, counted once
    fak, spread = 0.4, median["classes.FAK.between_models"]
    beyond_stasis = 0.5 * math.erfc((1 - fak) / (spread * math.sqrt(2)))
    assert 0.0 < beyond_stasis < 0.03
    # Claret's loss of effect, per day, lies in the upper tail and not beyond it
    entry = priors.entry("translation.loss_of_effect.default")
    own, common = entry.parameters["sigma"], priors.entry("translation.ln_loss_of_effect_common").parameters["scale"]
    standard = math.log(0.0193 / entry.parameters["median"]) / math.hypot(own, common)
    assert 1.28 < standard < 2.33  # between the 90th and the 99th percentile of class and common part together
    assert entry.unit == "1/day"


def test_mechanistic_pair_is_never_the_default(priors: Priors) -> None:
    plain, sensitivity = priors.class_pair("RAF/MEK", "FAK"), priors.class_pair("RAF/MEK", "FAK", mechanistic=True)
    assert plain.gamma.name == "class_pairs.default.gamma" and plain.gamma.parameters["loc"] == 0.0
    assert sensitivity.gamma.name == "class_pairs_mechanistic.FAK x RAF/MEK.gamma"
    assert "RAMP 201" in sensitivity.gamma.note
    assert sensitivity.phi == plain.phi
    assert plain.name == priors.class_pair("FAK", "RAF/MEK").name == "FAK x RAF/MEK"


def test_a_group_falls_back_to_the_default(priors: Priors) -> None:
    assert priors.resolve("patients", "LGSOC", "baseline_sld").parameters["median"] == 70.0
    assert priors.resolve("patients", "LGSOC", "missed_visit").name == "patients.default.missed_visit"
    assert priors.resolve("translation.ln_kill_scale", "FAK").name == "translation.ln_kill_scale.default"


# ------------------------------------------------------------------------------------------------ drugs and arms


@pytest.mark.parametrize(
    ("name", "own", "drug_class"),
    [
        ("VS-6063", "defactinib", "FAK"),
        ("vs6063", "defactinib", "FAK"),
        ("VS-6766", "avutometinib", "RAF/MEK"),
        ("BYL719", "alpelisib", "PI3K"),
        ("lee011", "ribociclib", "CDK4/6"),
        ("BKM120", "buparlisib", "PI3K"),
        ("abraxane", "nab-paclitaxel", "taxane"),
        ("Nab Paclitaxel", "nab-paclitaxel", "taxane"),
        ("gemcitabine-50mpk", "gemcitabine", "antimetabolite"),
        ("5-FU", "fluorouracil", "antimetabolite"),
        ("binimetinib-3.5mpk", "binimetinib-3.5mpk", "RAF/MEK"),
        ("CKX620", "CKX620", "RAF/MEK"),
        ("LFW527", "LFW527", "IGF1R"),
    ],
)
def test_names_of_drugs(priors: Priors, name: str, own: str, drug_class: str) -> None:
    assert priors.drug(name).name == own
    assert priors.drug_class(name) == drug_class


def test_every_drug_of_the_encyclopaedia_has_a_class(priors: Priors) -> None:
    classes = priors.drug_classes()
    names = PDXE_DRUGS.split()
    assert len(names) == 38
    assert {name: classes[name] for name in names} == {name: priors.drug_class(name) for name in names}


def test_unknown_names_get_the_nearest(priors: Priors) -> None:
    with pytest.raises(InputError, match="unknown drug 'defactinb'; did you mean 'defactinib'"):
        priors.drug("defactinb")
    with pytest.raises(InputError, match=r"did you mean 'translation\.growth_exponent'"):
        priors.entry("translation.growth_exponant")


def test_every_predictable_arm_has_an_effect_over_time(priors: Priors) -> None:
    for arm in priors.trials:
        assert 0 <= arm.num_responders <= arm.num_patients
        assert bool(arm.drugs) != bool(arm.not_predictable)
        for name, dosing in arm.drugs.items():
            pk = priors.drug(name).pk
            assert pk is not None, name
            assert pk.reference.dose.unit == dosing.dose.unit
            assert pk.half_life.unit == pk.absorption_half_life.unit == "h"
            assert pk.absorption_half_life.quantile(0.5) < pk.half_life.quantile(0.5)
    trametinib = {arm.trial: arm.drugs["trametinib"].dose.value for arm in priors.trials if "trametinib" in arm.drugs}
    assert trametinib.items() >= {"GOG 281": 2.0, "GSK2256098 + trametinib": 0.5}.items()


def test_overlapping_arms_name_each_other_through_the_whole(priors: Priors) -> None:
    arms = {arm.id: arm for arm in priors.trials}
    whole, mutant, wild = arms[2], arms[1], arms[3]
    assert set(whole.overlaps) == {1, 3} and mutant.overlaps == wild.overlaps == (2,)
    assert mutant.num_responders + wild.num_responders == whole.num_responders
    assert mutant.num_patients + wild.num_patients == whole.num_patients


def test_arms_are_the_published_ones(priors: Priors, shared_facts: Path) -> None:
    with (shared_facts / "clinical_arms.csv").open(encoding="utf-8", newline="") as stream:
        rows = {int(row["id"]): row for row in csv.DictReader(stream)}
    arms = {arm.id: arm for arm in priors.trials}
    assert arms.keys() >= rows.keys()
    for key, row in rows.items():
        arm = arms[key]
        assert (arm.num_responders, arm.num_patients) == (int(row["num_responders"]), int(row["num_patients"]))
        months = row["median_pfs_months"].split()
        assert arm.median_pfs_months == (float(months[0]) if months else None)
        assert arm.overlaps == tuple(map(int, row["overlaps"].split()))
        assert arm.confidence == row["confidence"] or not row["confidence"]
        for column, recalled in (
            ("reader", "reader"),
            ("recist", "recist"),
            ("median_pfs_months", "median_pfs_months"),
        ):
            assert "recalled" not in row[column] or recalled in arm.recalled


# ------------------------------------------------------------------------------------------------ overlays


def test_an_overlay_replaces_whole_entries_and_adds(tmp_path: Path, priors: Priors) -> None:
    file = overlay(tmp_path, f"translation:\n  growth_exponent:{ENTRY}  my_own:{ENTRY}")
    mine = load_priors([file])
    assert mine.entry("translation.growth_exponent").parameters == {"loc": 0.0, "scale": 0.5}
    assert mine.entry("translation.growth_exponent").file == file
    assert set(mine.names()) - set(priors.names()) == {"translation.my_own"}
    assert mine.changes == (
        f"translation.growth_exponent changed by {file}:2",
        f"translation.my_own added by {file}:9",
    )
    assert mine.sha256 != priors.sha256 == load_priors().sha256


def test_later_overlays_win_and_a_folder_is_read_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    overlay(folder, f"translation:\n  growth_exponent:{ENTRY}", "b.yaml")
    overlay(folder, drug("    code_names: [ND1]\n"), "a.yml")
    last = overlay(tmp_path, f"translation:\n  growth_exponent:{ENTRY.replace('0.5', '0.7')}", "last.yaml")
    mine = load_priors([folder, last])
    assert [file.name for file in mine.files[-3:]] == ["a.yml", "b.yaml", "last.yaml"]
    assert mine.entry("translation.growth_exponent").parameters["scale"] == 0.7
    assert mine.drug("nd-1").drug_class == "FAK" and mine.drug("nd-1").pk is None


def test_an_overlay_may_change_one_number_of_a_drug(tmp_path: Path, priors: Priors) -> None:
    hours = DEEPER.replace('"1"', "h")
    mine = load_priors([overlay(tmp_path, f"drugs:\n  defactinib:\n    pk:\n      half_life:{hours}")])
    assert mine.drug("defactinib").pk is not None and priors.drug("defactinib").pk is not None
    assert mine.drug("VS-6063").pk.half_life.family == "normal"  # pyright: ignore[reportOptionalMemberAccess]
    assert mine.drug("VS-6063").pk.saturation.family == "lognormal"  # pyright: ignore[reportOptionalMemberAccess]
    assert mine.drug("VS-6063").drug_class == "FAK"


def test_frozen(priors: Priors) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        priors.sha256 = ""  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        priors.entries["x"] = priors.entry("translation.growth_exponent")  # pyright: ignore[reportIndexIssue]
    with pytest.raises(TypeError):
        priors.entry("translation.growth_exponent").parameters["loc"] = 1.0  # pyright: ignore[reportIndexIssue]


# ------------------------------------------------------------------------------------------------ what is wrong


def entry(**changed: str | None) -> str:
    """An overlay of one entry on lines 2 to 8 with some of its keys changed or left out."""
    fields = {
        "family": "normal",
        "parameters": "{loc: 0.0, scale: 0.5}",
        "unit": '"1"',
        "source": "a paper",
        "certainty": "published",
        "note": "why",
    } | changed
    lines = [f"    {key}: {value}" for key, value in fields.items() if value is not None]
    return "\n".join(["translation:", "  growth_exponent:", *lines, ""])


ARM = """trials:
  - id: 99
    trial: T
    arm: A
    tumour_type: PDAC
    regimen: words
    drugs: {gemcitabine: {dose: 1000 mg/m2, repeat: 7 d}}
    num_responders: 1
    num_patients: 10
    confirmed: null
    reader: unknown
    recist: "1.1"
    line: first
    median_pfs_months: null
    source: S
    tag: SEEN
    confidence: A
    certainty: published
    note: N
"""
HERE = "translation.growth_exponent"

BAD = [
    (entry(family="normall"), 3, f"{HERE}.family", "did you mean 'normal'"),
    (entry(parameters="{loc: 0.0, scale: -0.5}"), 4, f"{HERE}.parameters.scale", "must be above 0, found -0.5"),
    (entry(parameters="{loc: 0.0}"), 4, f"{HERE}.parameters", "lacks scale (normal takes loc, scale)"),
    (entry(parameters="{loc: 0.0, scale: 1, sigma: 1}"), 4, f"{HERE}.parameters.sigma", "normal takes loc, scale"),
    (entry(parameters="{loc: zero, scale: 1}"), 4, f"{HERE}.parameters.loc", "must be a number, found 'zero'"),
    (entry(parameters="{loc: '1', scale: 1}"), 4, f"{HERE}.parameters.loc", "must be a number, found '1'"),
    (entry(parameters="{loc: .nan, scale: 1}"), 4, f"{HERE}.parameters.loc", "must be a finite number"),
    (entry(parameters="3"), 4, f"{HERE}.parameters", "must be a mapping"),
    (entry(source=None), 2, f"{HERE}.source", "is missing (where the numbers come from)"),
    (entry(source='" "'), 6, f"{HERE}.source", "at least 1 character"),
    (entry(certainty="certain"), 7, f"{HERE}.certainty", "'recalled'"),
    (entry(sorce="x"), 9, f"{HERE}.sorce", "did you mean 'source'"),
    (entry(unit="mm"), 5, f"{HERE}.unit", "must be '1', the unit of the entry that it replaces"),
    (entry(family="beta", parameters="{mean: 1.2, concentration: 3}"), 4, f"{HERE}.parameters.mean", "between 0 and 1"),
    (entry(family="lognormal", parameters="{median: 0, sigma: 1}"), 4, f"{HERE}.parameters.median", "must be above 0"),
    (
        entry(family="truncated_normal", parameters="{loc: 0, scale: 1, low: 2, high: 1}"),
        4,
        f"{HERE}.parameters.high",
        "must be above low",
    ),
    (entry(family="truncated_normal"), 4, f"{HERE}.parameters", "lacks low, high or both"),
    ("translation:\n  growth_exponent: -0.25\n", 2, HERE, "must be an entry"),
    ("translation:\n  growth_exponent:\n    loc: -0.25\n", 3, f"{HERE}.loc", "unknown key"),
    ("translation:\n", 1, "translation", "must be a mapping"),
    ("transaltion:\n  a: 1\n", 1, "transaltion", "did you mean 'translation'"),
    (entry() + "  growth_exponent:\n", 9, HERE, "given twice"),
    (f"classes:\n  FKA:\n    mean_effect:{DEEP}", 3, "classes.FKA.mean_effect", "did you mean 'FAK'"),
    (
        f"class_pairs:\n  FAK + BRAF:\n    phi:{DEEP}",
        3,
        "class_pairs.FAK + BRAF.phi",
        "two classes as in 'FAK x RAF/MEK'",
    ),
    (f"covariates:\n  kras_mutant:\n    MEK:{DEEP}", 3, "covariates.kras_mutant.MEK", "the class of a drug"),
    ("drugs:\n  newdrug:\n    code_names: [N1]\n", 2, "drugs.newdrug", "lacks drug_class"),
    (drug("    code_names: [BYL-719]\n"), 2, "drugs.newdrug", "'BYL-719' is a name of alpelisib as well"),
    (drug("    code_name: N1\n"), 4, "drugs.newdrug.code_name", "did you mean 'code_names'"),
    (drug("    pk:\n      reference: {dose: 5 mg, repeat: 1 d}\n"), 4, "drugs.newdrug.pk", "lacks half_life"),
    (drug("    pk:\n      reference: {dose: 5, repeat: 1 d}\n"), 5, "drugs.newdrug.pk.reference.dose", "with its unit"),
    ("drugs:\n  newdrug: FAK\n", 2, "drugs.newdrug", "must be a mapping of drug_class"),
    (
        ARM.replace("num_responders: 1", "num_responders: 11"),
        8,
        "trials.0.num_responders",
        "must be at most num_patients, 10",
    ),
    (ARM.replace("gemcitabine:", "gemcitabin:"), 7, "trials.0.drugs.gemcitabin", "did you mean 'gemcitabine'"),
    (ARM.replace("unknown", "both"), 11, "trials.0.reader", "'investigator'"),
    (ARM + "    overlaps: [98]\n", 20, "trials.0.overlaps", "must be ids of other arms, found 98"),
    (ARM + "    not_predictable: mice\n", 2, "trials.0", "either drugs or not_predictable"),
    (ARM + "    recalled: [readr]\n", 20, "trials.0.recalled.0", "did you mean 'reader'"),
    (ARM + "    median_pfs_interval: [3.0, 5.0]\n", 20, "trials.0.median_pfs_interval", "must hold median_pfs_months"),
    (
        ARM.replace("months: null", "months: 6.0") + "    median_pfs_interval: [3.0, 5.0]\n",
        20,
        "trials.0.median_pfs_interval",
        "must hold median_pfs_months",
    ),
    (
        ARM.replace("responders: 1", "responders: 0") + "    median_ttr_months: 2.0\n",
        20,
        "trials.0.median_ttr_months",
        "has no time to response",
    ),
    (ARM + "    num_shrunk: 4\n", 20, "trials.0.num_shrunk", "must be given together"),
    (
        ARM + "    num_measured: 9\n    num_shrunk: 0\n",
        21,
        "trials.0.num_shrunk",
        "between num_responders, 1, and num_measured, 9",
    ),
    (
        ARM + "    num_shrunk: 4\n    num_measured: 11\n",
        21,
        "trials.0.num_measured",
        "must be at most num_patients, 10",
    ),
    (ARM + ARM.removeprefix("trials:\n"), 20, "trials.1", "trials.99 is given twice"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), BAD, ids=[f"{key}-{line}" for _, line, key, _ in BAD])
def test_a_bad_prior_is_named(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    file = overlay(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_priors([file])
    error = caught.value
    assert (error.file, error.line, error.key) == (file, line, key), str(error)
    assert message in error.message
    assert "\n" not in str(error)


def test_the_good_ones_of_the_table_are_good(tmp_path: Path) -> None:
    """The texts that the table above spoils are sound before they are spoilt."""
    assert load_priors([overlay(tmp_path, entry())]).changes
    assert any(arm.id == 99 for arm in load_priors([overlay(tmp_path, ARM)]).trials)


def test_a_name_in_two_files_of_one_folder(tmp_path: Path) -> None:
    overlay(tmp_path, entry(), "a.yaml")
    second = overlay(tmp_path, entry(), "b.yaml")
    with pytest.raises(InputError, match=r"given twice \(also in a\.yaml\)") as caught:
        load_priors([tmp_path])
    assert (caught.value.file, caught.value.line) == (second, 2)


def test_missing_and_empty_overlays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_priors([tmp_path / "absent.yaml"])
    with pytest.raises(InputError, match=r"holds no \.yaml file"):
        load_priors([tmp_path])


def test_reading_priors_does_not_start_jax() -> None:
    code = "import sys, vtrial.priors as p; p.load_priors(); print('jax' in sys.modules or 'numpyro' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
