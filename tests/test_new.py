"""A new study runs as it is, and the schema says what the reader of experiments says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vtrial import cli
from vtrial.errors import InputError
from vtrial.new import SCHEMA, new_study, schema, schema_text, synthetic_table
from vtrial.yamlfile import read_yaml


def test_a_new_study_is_sound_and_says_that_it_is_synthetic(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "my-study"]) == 0
    assert capsys.readouterr().out == "my-study/experiment.yaml\nvtrial run my-study/experiment.yaml --quick\n"
    files = sorted(str(p.relative_to(tmp_path / "my-study")) for p in (tmp_path / "my-study").rglob("*") if p.is_file())
    assert files == ["data/volumes.csv", SCHEMA, "experiment.yaml", "priors.yaml"]
    assert cli.main(["check", "my-study/experiment.yaml"]) == 0
    out = capsys.readouterr().out
    assert "SYNTHETIC: no real measurement" in out and "48 mice, 12 PDX models" in out and "4 arms" in out
    text = (tmp_path / "my-study/experiment.yaml").read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n") and "EVERY NUMBER" in text
    table = (tmp_path / "my-study/data/volumes.csv").read_text()
    assert all(line.endswith(",synthetic") for line in table.splitlines()[1:]) and table == synthetic_table(1)
    assert (tmp_path / "my-study" / SCHEMA).read_text() == schema_text()


@pytest.mark.parametrize(
    ("name", "part"), [("My Study", "allowed are"), ("full", "is there already"), ("f/x", "written")]
)
def test_a_folder_that_cannot_be_is_refused_and_nothing_left(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "f").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=part):
        new_study(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert new_study(tmp_path / "s").is_file() and list(tmp_path.iterdir()) == [tmp_path / "s"]


def test_check_says_which_drugs_no_mouse_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arms of a study that was begun from the template are easily left as they were; code names count as names."""
    monkeypatch.chdir(tmp_path)
    file = str(new_study(tmp_path / "s"))
    assert cli.main(["check", file]) == 0
    assert "no mice under" not in capsys.readouterr().out
    drugs = "{DX-1: {dose: 1 mg, repeat: 1 d}, binimetinib: {dose: 45 mg, repeat: 1 d}}"
    other = f"trial.cohorts.0.arms=[{{name: a, drugs: {drugs}}}]"
    assert cli.main(["check", file, "--set", other]) == 0
    said = capsys.readouterr().out
    assert "no mice under binimetinib (RAF/MEK): predicted from the class\n" in said
    assert "drugs of the table that no arm gives: trametinib" in said
    assert cli.main(["check", file, "--set", "trial.cohorts.0.tumour_type=ovarain"]) == 0
    said = capsys.readouterr().out
    assert "no mice of ovarain (the table has ovarian): growth" in said and "Did you mean 'ovarian'?" in said


def test_check_asks_whether_an_unusual_dose_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """mg for ug is 1,000-fold; 20 times the reference per day is asked about, 19 times is not."""
    monkeypatch.chdir(tmp_path)
    file = str(new_study(tmp_path / "s"))
    arm = "trial.cohorts.ovarian.arms.trametinib 2 mg.drugs.trametinib"

    def warnings(*sets: str) -> list[str]:
        assert cli.main(["check", file, *(word for one in sets for word in ("--set", one))]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]

    assert warnings() == [] == warnings(f"{arm}.dose=38 mg") == warnings(f"{arm}.dose=0.11 mg")
    (said,) = warnings(f"{arm}.dose=2 g")
    assert said == (
        "warning   trial.cohorts.0.arms.0.drugs.trametinib.dose: 2000 mg once a day is 1,000 times the dose per day of "
        "the reference of trametinib (2 mg once a day): are amount, unit and schedule meant so?"
    )
    # a schedule counts as well; arms that are dosed alike are one line
    assert len(warnings(f"{arm}.dose=20 mg", f"{arm}.schedule=BID")) == 1
    both = [f"trial.cohorts.0.arms.{place}.drugs.drug-x.dose=50 ug" for place in (1, 2)]
    (said,) = warnings(*both)
    # 0.05 mg on 3 of 4 weeks: 1 / (1000 x 4/3) of the reference
    assert "trial.cohorts.0.arms.1.drugs.drug-x.dose (and in 1 more): 0.05 mg twice a day" in said
    assert "1/1,333 of the dose per day of the reference of drug-x (50 mg twice a day)" in said


def test_a_path_that_leads_nowhere_is_answered_by_the_nearest_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in the name, or a path written relative to another folder."""
    monkeypatch.chdir(tmp_path)
    file = str(new_study(tmp_path / "s"))
    for option, near in (
        ("data.path=data/volume.csv", "volumes.csv"),
        ("data.path=volumes.csv", f"{tmp_path}/s/data/volumes.csv"),
        ("data.path=s/data/volumes.csv", f"{tmp_path}/s/data/volumes.csv"),
        ("priors=[prior.yaml]", "priors.yaml"),
        ("priors=[s/priors.yaml]", f"{tmp_path}/s/priors.yaml"),
    ):
        assert cli.main(["check", file, "--set", option]) == 2
        assert f"; did you mean {near!r}?" in capsys.readouterr().err, option
    assert cli.main(["check", "s"]) == 2
    assert (
        "is a folder; the path of a YAML file is needed; did you mean 's/experiment.yaml'?" in capsys.readouterr().err
    )
    assert cli.main(["check", file, "--set", "data.path=elsewhere.parquet"]) == 2
    assert capsys.readouterr().err.endswith("elsewhere.parquet: no such table.\n")


def test_a_folder_that_is_no_run_is_answered_by_the_nearest_run(made_run, tmp_path: Path, capsys) -> None:
    """A slip in its name, or the folder above it: runs lie in runs/NAME/KEY."""
    (tmp_path / "runs").mkdir()
    run = made_run("runs/first", {"T": 0.3})
    assert cli.main(["report", str(tmp_path / "runs" / "frist")]) == 2
    assert "runs/frist: is not a run folder: there is no such folder; did you mean 'first'?" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "runs")]) == 2
    assert f"it has no manifest.json; did you mean {str(run)!r}, the last of 1 in it?" in capsys.readouterr().err


def test_a_wide_table_is_told_from_a_long_one(tmp_path: Path, capsys) -> None:
    file = new_study(tmp_path / "s")
    (tmp_path / "s" / "data" / "volumes.csv").write_text(
        "Model,Animal,Group,Day 0,Day 3,Day 7\nM,1,vehicle,200,250,300\n"
    )
    assert cli.main(["check", str(file)]) == 2
    assert "has a column a day (Day 0, Day 3, Day 7): set data.layout: wide" in capsys.readouterr().err


def test_an_unknown_drug_is_answered_by_what_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the key and both places; what it says to write is taken."""
    monkeypatch.chdir(tmp_path)
    file = new_study(tmp_path / "s")
    table = tmp_path / "s" / "data" / "volumes.csv"
    table.write_text(table.read_text().replace("trametinib", "zz-12"))
    assert cli.main(["check", str(file)]) == 2
    said = capsys.readouterr().err
    assert "fit.drug_classes.zz-12: unknown drug 'zz-12'; write `drugs: {'zz-12': {drug_class: CLASS}}` into" in said
    assert "`fit: {drug_classes: {'zz-12': CLASS}}` into the experiment" in said
    assert cli.main(["check", str(file), "--set", "fit.drug_classes={'zz-12': RAF/MEK}"]) == 0
    (tmp_path / "s" / "more.yaml").write_text("drugs: {'zz-12': {drug_class: RAF/MEK}}\n")
    assert cli.main(["check", str(file), "--set", "priors=[priors.yaml, more.yaml]"]) == 0


def test_an_alias_works_in_either_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table's name for a drug may stand on either side: what it is, or what the known drug is called there."""
    monkeypatch.chdir(tmp_path)
    file = new_study(tmp_path / "s")
    table = tmp_path / "s" / "data" / "volumes.csv"
    table.write_text(table.read_text().replace("trametinib", "GSK1120212 1 mpk"))
    assert cli.main(["check", str(file)]) == 2
    assert "say which in data.aliases (GSK1120212 1 mpk: NAME)" in capsys.readouterr().err
    for aliases in ("{trametinib: GSK1120212 1 mpk}", "{GSK1120212 1 mpk: trametinib}"):
        assert cli.main(["check", str(file), "--set", f"data.aliases={aliases}"]) == 0
        said = capsys.readouterr().out
        assert "no mice under" not in said and "no arm gives" not in said, said


def test_the_schema_is_shown_or_written(tmp_path: Path, capsys) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert cli.main(["schema", "--out", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text() == schema_text()


def test_every_key_of_the_schema_is_described() -> None:
    found = schema()
    for model in (found, *found["$defs"].values()):
        assert model["additionalProperties"] is False
        for name, field in model["properties"].items():
            assert field.get("description") or "$ref" in field, (model["title"], name)


def test_the_shipped_experiments_follow_the_schema(repository: Path) -> None:
    """The schema beside them is that of this code; `vtrial schema --out FILE` renews it."""
    folder = repository / "experiments"
    assert (folder / SCHEMA).read_text() == schema_text()
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    for file in folder.glob("*.yaml"):
        assert f"# yaml-language-server: $schema={SCHEMA}\n" in file.read_text()
        validator.validate(read_yaml(file).data)
    fault = read_yaml(folder / "lgsoc.yaml").data | {"nmae": 1}
    assert not validator.is_valid(fault)
