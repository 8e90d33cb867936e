"""Tables -> Dataset: what is read, what is refused and where; every fault is a real file."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vtrial import table
from vtrial.dataset import BEFORE_TREATMENT, DETECTION_LIMIT_MM3, TOO_FEW, Dataset, read_dataset
from vtrial.errors import InputError

HEADER = "study,tumour_type,pdx_model,mouse,arm,day,volume_mm3\n"
GOOD = """\
study,tumour_type,pdx_model,mouse,arm,day,volume_mm3
S,BRCA,X-1,c1,untreated,0,200
S,BRCA,X-1,c1,untreated,7,400
S,BRCA,X-1,a1,BYL719,0,210
S,BRCA,X-1,a1,BYL719,7,0
S,BRCA,X-2,b1,BYL719 + LEE011,0,190
S,BRCA,X-2,b1,BYL719 + LEE011,7,9.5
"""


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read(folder: Path, text: str | bytes, **keywords) -> Dataset:
    return read_dataset(write(folder, text), **keywords)


def refused(folder: Path, text: str | bytes, **keywords) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, text, **keywords)
    return str(caught.value)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_canonical_table_is_read_as_it_stands(tmp_path):
    dataset = read(tmp_path, GOOD)
    table = dataset.table
    assert list(table["row"]) == [2, 3, 4, 5, 6, 7]
    assert list(table["volume_mm3"]) == [200, 400, 210, 0, 190, 9.5]
    assert list(table["censored"]) == [False, False, False, True, False, True]
    assert list(table["mouse_key"].unique()) == ["S/c1", "S/a1", "S/b1"]
    assert (table["exclude"] == "").all() and len(dataset.used) == 6
    assert dataset.drugs == ("BYL719", "LEE011")
    assert dataset.arms == {"untreated": (), "BYL719": ("BYL719",), "BYL719 + LEE011": ("BYL719", "LEE011")}
    assert dataset.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert dataset.detection_limit_mm3 == DETECTION_LIMIT_MM3
    assert "2 of 6 volumes (33.3%) are left-censored at 10 mm3; 1 of them are 0" in dataset.notes


def as_xlsx(text: str) -> bytes:
    buffer = io.BytesIO()
    pd.read_csv(io.StringIO(text)).to_excel(buffer, index=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(GOOD.encode()),
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.replace(",", ";").encode(),
        GOOD.replace(",", "\t").encode(),
        GOOD.replace(",", " , ").encode(),
        GOOD.rstrip("\n").encode(),
        as_xlsx(GOOD),
    ],
    ids=["gzip", "byte order mark", "CRLF", "CR", "semicolon", "tab", "spaces", "no last newline", "xlsx"],
)
def test_forms_of_one_table_read_alike(tmp_path, content):
    # The name says nothing on purpose: the form is told from the content.
    pd.testing.assert_frame_equal(read(tmp_path, content).table, read(tmp_path, GOOD).table)


def test_column_map_constants_and_covariates(tmp_path):
    text = (
        "id,cancer,model,treatment,time,size,study,KRAS,age,host_strain,body_weight_g\n"
        "1,GBM,G-1,vehicle,0,100,trial 7,mutant,8,nude,20.5\n"
        "1,GBM,G-1,vehicle,3,150,trial 7,mutant,8,nude,NA\n"
        "2,GBM,G-1,TMZ,0,110,trial 7,wild,,nude,\n"
        "2,GBM,G-1,TMZ,3,90,trial 7,wild,9,nude,-0.1\n"
    )
    names = {"mouse": "id", "tumour_type": "cancer", "pdx_model": "model", "arm": "treatment", "day": "time"}
    dataset = read(
        tmp_path,
        text,
        columns={**names, "volume_mm3": "size", "kras": "KRAS", "study": "model"},
        constants={"source": "PDX"},
        control=["vehicle"],
    )
    table = dataset.table
    assert list(table["study"].unique()) == ["G-1"] and list(table["study_in_table"].unique()) == ["trial 7"]
    assert list(table["mouse"]) == ["1", "1", "2", "2"]  # an id is text, though it looks like a number
    assert list(table["kras"]) == ["mutant", "mutant", "wild", "wild"] and "KRAS" not in table
    assert table["age"].dtype == float and np.isnan(table["age"][2])
    assert list(table["source"].unique()) == ["PDX"]
    np.testing.assert_array_equal(table["body_weight_g"], [20.5, np.nan, np.nan, np.nan])
    assert "impossible body weights, read as missing: 1 (line 5)" in dataset.notes


def test_study_defaults_to_the_stem(tmp_path):
    text = "\n".join(line.split(",", 1)[1] for line in GOOD.splitlines())
    dataset = read_dataset(write(tmp_path, gzip.compress(text.encode()), "gao.2015.csv.gz"))
    assert set(dataset.table["study"]) == {"gao"}


def test_mouse_key_tells_studies_apart(tmp_path):
    rows = [("S/a", "m"), ("S", "a/m"), ("S\\", "a/m"), ("S\\/a", "m"), ("T", "m")]
    text = HEADER + "".join(f"{s},BRCA,X-1,{m},untreated,{d},100\n" for s, m in rows for d in (0, 7))
    assert read(tmp_path, text).table["mouse_key"].nunique() == len(rows)


def test_rows_keep_their_line_past_blank_lines_and_quoted_breaks(tmp_path):
    text = HEADER.replace("\n", ",note\n") + (
        '\nS,BRCA,X-1,c1,untreated,0,200,"two\nlines"\n\nS,BRCA,X-1,c1,untreated,7,300,"a, b"\n'
    )
    assert list(read(tmp_path, text).table["row"]) == [3, 6]
    assert "table.csv:6: volume_mm3: 'x'" in refused(tmp_path, text.replace("300", "x"))


def test_excluded_rows_stay_flagged_and_need_no_volume(tmp_path):
    text = HEADER.replace("\n", ",exclude\n") + (
        "S,BRCA,X-1,c1,untreated,-3,180,before treatment\n"
        "S,BRCA,X-1,c1,untreated,0,200,\n"
        "S,BRCA,X-1,c1,untreated,7,,not measured\n"
        "S,BRCA,X-1,c1,untreated,7,300,NA\n"
        "S,BRCA,X-1,c1,A,14,ulcer,changed arm\n"
    )
    dataset = read(tmp_path, text)
    assert list(dataset.table["exclude"]) == ["before treatment", "", "not measured", "", "changed arm"]
    assert list(dataset.used["row"]) == [3, 5]
    assert dataset.arms == {"untreated": ()}  # nothing of A is left to learn from
    assert "left out of the fit: 1 rows (not measured)" in dataset.notes


def test_rows_before_treatment_are_kept_and_not_fitted(tmp_path):
    early = "S,BRCA,X-1,c1,untreated,-7,\nS,BRCA,X-1,c1,untreated,-1,150\n"
    dataset = read(tmp_path, GOOD.replace("S,BRCA,X-1,c1,untreated,0,200\n", early + "S,BRCA,X-1,c1,untreated,0,200\n"))
    assert list(dataset.table["day"][:3]) == [-7, -1, 0]
    assert list(dataset.table["exclude"][:3]) == [BEFORE_TREATMENT, BEFORE_TREATMENT, ""]
    assert dataset.used["day"].min() == 0
    assert "left out of the fit: 2 rows (before treatment)" in dataset.notes
    told = refused(tmp_path, HEADER + early)
    assert "nothing is left to fit: every row has a reason in the column 'exclude' or a day before treatment" in told


def test_a_mouse_measured_once_stays_with_a_reason(tmp_path):
    dataset = read(tmp_path, GOOD + "S,BRCA,X-3,a9,BYL719,0,200\n")
    assert list(dataset.table["exclude"]) == [""] * 6 + [TOO_FEW]
    assert f"left out of the fit for {TOO_FEW}: 1 mice (a9)" in dataset.notes


def test_volumes_at_the_limit_are_censored_and_kept(tmp_path):
    dataset = read(tmp_path, GOOD, detection_limit_mm3=9.5)
    assert list(dataset.table["censored"]) == [False, False, False, True, False, True]
    assert dataset.table["volume_mm3"][3] == 0
    assert not read(tmp_path, GOOD, detection_limit_mm3=9.4).table["censored"][5]


def test_notes_say_what_a_reader_should_know(tmp_path):
    text = GOOD + "S,GC,G-1,g1,BYL719,2,200\nS,GC,G-1,g1,BYL719,7,210\n"
    notes = "\n".join(read(tmp_path, text).notes)
    assert "no measurement on day 0: 1 of 4 mice (S/g1)" in notes
    assert "GC has no control mice" in notes
    assert "no control mouse: 2 of 3 PDX models" in notes


# --- arms and names -------------------------------------------------------------------------------------------------


def test_arms_of_the_same_drugs_are_one_arm_in_its_first_spelling(tmp_path):
    text = GOOD + (
        "S,BRCA,X-3,b2,lee011+byl719,0,100\nS,BRCA,X-3,b2,lee011+byl719,7,90\n"
        "S,BRCA,X-3,c3,Untreated,0,100\nS,BRCA,X-3,c3,Untreated,7,130\n"
        "S,BRCA,X-3,a3,untreated + BYL719,0,100\nS,BRCA,X-3,a3,untreated + BYL719,7,130\n"
    )
    dataset = read(tmp_path, text)
    assert list(dataset.arms) == ["untreated", "BYL719", "BYL719 + LEE011"]
    assert set(dataset.table["arm"]) == set(dataset.arms)
    assert "the arm 'lee011+byl719' is read as 'BYL719 + LEE011': the same drugs" in dataset.notes


def test_aliases_work_in_both_directions(tmp_path):
    text = GOOD.replace("BYL719", "gemcitabine-50mpk").replace("LEE011", "VS-6063")
    dataset = read(tmp_path, text, aliases={"Gemcitabine": "gemcitabine-50MPK", "VS-6063": "defactinib"})
    assert dataset.drugs == ("defactinib", "gemcitabine-50mpk")
    assert dataset.drug_name("gemcitabine") == dataset.drug_name("GEMCITABINE-50mpk") == "gemcitabine-50mpk"
    assert dataset.drug_name("vs-6063") == dataset.drug_name("Defactinib") == "defactinib"
    assert dataset.arm_drugs("Defactinib+gemcitabine") == ("defactinib", "gemcitabine-50mpk")
    # Outputs keep the table's own spelling of the arm.
    assert dataset.arm_name(["VS-6063", "gemcitabine"]) == "gemcitabine-50mpk + VS-6063"


def test_an_alias_may_be_of_a_whole_arm(tmp_path):
    """A combination that the table calls by a name of its own, as biologists do."""
    named = GOOD.replace("LEE011 + BYL719", "Combo").replace("BYL719 + LEE011", "Combo")
    assert "Combo" in named
    dataset = read(tmp_path, named, aliases={"combo": "LEE011 + BYL719"})
    assert dataset.arms["Combo"] == dataset.arm_drugs("BYL719+LEE011") == ("BYL719", "LEE011")
    assert dataset.arm_name(["LEE011", "BYL719"]) == "Combo"
    assert "Combo" not in dataset.drugs and dataset.table["arm"].isin(dataset.arms).all()


def test_unseen_arms_of_seen_drugs_resolve(tmp_path):
    text = GOOD + "S,BRCA,X-3,d,trametinib,0,100\nS,BRCA,X-3,d,trametinib,7,90\n"
    dataset = read(tmp_path, text)
    assert dataset.arm_drugs("LEE011 + BYL719") == ("BYL719", "LEE011")
    assert dataset.arm_name(("LEE011", "BYL719")) == "BYL719 + LEE011"
    assert dataset.arm_drugs("trametinib + LEE011") == ("LEE011", "trametinib")
    assert dataset.arm_name(["trametinib", "LEE011"]) == "trametinib + LEE011"
    assert dataset.arm_drugs("Untreated") == () and dataset.arm_name([]) == "untreated"


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("trametinb", "unknown drug 'trametinb'. Did you mean 'trametinib'?"),
        ("719", "Did you mean 'BYL719'?"),
        ("BYL719 + ", "arm 'BYL719 + ' names nothing where a drug should stand"),
        ("BYL719 + byl719", "names a drug twice"),
    ],
)
def test_unknown_arms_are_refused_with_the_nearest(tmp_path, arm, told):
    text = GOOD + "S,BRCA,X-3,d,trametinib,0,100\nS,BRCA,X-3,d,trametinib,7,90\n"
    with pytest.raises(InputError) as caught:
        read(tmp_path, text).arm_drugs(arm)
    assert told in str(caught.value)


def test_a_word_between_drugs_does_not_cut_names(tmp_path):
    text = GOOD.replace("BYL719 + LEE011", "axitinib x erlotinib").replace("BYL719", "axitinib")
    assert read(tmp_path, text, separator=" x ").drugs == ("axitinib", "erlotinib")


# --- what is kept out -----------------------------------------------------------------------------------------------

TWO_TYPES = GOOD + "S,GC,G-1,g0,untreated,0,100\nS,GC,G-1,g0,untreated,7,200\n" + "".join(
    f"S,GC,G-1,g{i},{arm},{day},100\n" for i, arm in ((1, "LEE011"), (2, "LEE011 + LJM716")) for day in (0, 7)
)  # fmt: skip


@pytest.mark.parametrize(
    ("keywords", "arms", "note"),
    [
        (
            {"tumour_types": ["gc"]},
            ["untreated", "LEE011", "LEE011 + LJM716"],
            "kept out: 6 rows of 3 mice, whose tumour type is not GC (data.tumour_types)",
        ),
        (
            {"arms": ["LEE011 + BYL719"]},
            ["untreated", "BYL719 + LEE011"],
            "kept out: 6 rows of 3 mice, whose arm is not in data.arms",
        ),
        (
            {"single_agents_only": True},
            ["untreated", "BYL719", "LEE011"],
            "kept out: 4 rows of 2 mice, under combinations (data.single_agents_only)",
        ),
    ],
    ids=["tumour types", "arms", "single agents"],
)
def test_choices_keep_controls_and_say_what_they_keep_out(tmp_path, keywords, arms, note):
    dataset = read(tmp_path, TWO_TYPES, **keywords)
    assert list(dataset.arms) == arms and note in dataset.notes
    assert dataset.drugs == tuple(sorted({drug for drugs in dataset.arms.values() for drug in drugs}))
    assert list(dataset.table.index) == list(range(len(dataset.table)))
    assert dataset.table["row"].is_monotonic_increasing and dataset.table["row"].max() <= 13


# --- faults: file, line, what to do ---------------------------------------------------------------------------------


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


FAULTS = {
    "text volume": (changed("7,400", "7,big"), ":3: volume_mm3: 'big' is not a number", "exclude"),
    "decimal comma": (changed("7,400", '7,"400,5"'), ":3: volume_mm3: '400,5' is not a number", "with a point"),
    "bare decimal comma": (changed("7,400", "7,400,5"), ":3: 8 cells where the header has 7", "decimal comma"),
    "thousands": (changed("7,400", '7,"1.400,5"'), ":3: volume_mm3", "with a point, thousands without a mark"),
    "missing volume": (changed("7,400", "7,"), ":3: volume_mm3: the volume_mm3 is missing", "delete the row"),
    "NaN volume": (changed("7,400", "7,NaN"), ":3: volume_mm3: the volume_mm3 is missing", "exclude"),
    "infinite volume": (changed("7,400", "7,inf"), ":3: volume_mm3: 'inf' is not finite", "correct it"),
    "overflowing volume": (changed("7,400", "7,1e999"), ":3: volume_mm3: '1e999' is not finite", "correct it"),
    "negative volume": (changed("7,400", "7,-4"), ":3: volume_mm3: -4 is negative", "0 (undetectable) or more"),
    "short row": (changed(",7,400", ""), ":3: day: the day is missing", "delete the row"),
    "text day": (changed("7,400", "week 1,400"), ":3: day: 'week 1' is not a number", "correct it"),
    "same day twice": (changed("7,400", "0,400"), ":3: day: mouse 'c1' has day 0 here and on line 2", "keep one"),
    "days back": (
        changed("7,400\n", "7,400\nS,BRCA,X-1,c1,untreated,5,300\n"),
        ":4: day: mouse 'c1' goes back from day 7 to day 5",
        "sort the rows",
    ),
    "two arms": (
        changed("b1,BYL719 + LEE011,7", "b1,BYL719,7"),
        ":7: mouse: mouse 'b1' has the arm 'BYL719' here and 'BYL719 + LEE011' on line 6",
        "unique within a study",
    ),
    "two models": (
        changed("X-2,b1,BYL719 + LEE011,7", "X-1,b1,BYL719 + LEE011,7"),
        ":7: mouse: mouse 'b1' has the pdx_model 'X-1' here and 'X-2' on line 6",
        "one animal one id",
    ),
    "two tumour types": (
        GOOD.replace("BRCA,X-1,a1", "GC,X-1,a1"),
        ":4: pdx_model: pdx_model 'X-1' has the tumour_type 'GC' here and 'BRCA' on line 2",
        "name the models apart",
    ),
    "empty cell": (changed("c1,untreated,7", "c1,,7"), ":3: arm: the cell is empty", "needs its arm"),
    "nothing after the plus": (GOOD.replace("+ LEE011", "+"), ":6: arm: 'BYL719 +' names nothing", "data.separator"),
    "a drug twice": (GOOD.replace("+ LEE011", "+ byl719"), ":6: arm: 'BYL719 + byl719' names a drug twice", "stand"),
    "no control": (
        GOOD.replace("untreated", "vehicle"),
        ": no control arm",
        "data.control. Arms of the table: vehicle",
    ),
    "missing column": (GOOD.replace("volume_mm3", "tumour_volume"), ":1: no column volume_mm3", "'tumour_volume'"),
    "missing columns": (
        GOOD.replace("tumour_type", "tumor_type").replace("pdx_model", "cell_line"),
        ":1: no column tumour_type (perhaps 'tumor_type'), pdx_model (perhaps 'cell_line'). The table has study, ",
        "Write data.columns: {tumour_type: tumor_type, pdx_model: cell_line}, or",
    ),
    "columns called as others call them": (
        "Site,PDX.ID,Animal_No,Group,Study Day,TV (mm3)\nBRCA,X,1,untreated,0,200\n",
        ":1: no column tumour_type, pdx_model (perhaps 'PDX.ID'), mouse (perhaps 'Animal_No'), ",
        "{tumour_type: its name in the table, pdx_model: PDX.ID, mouse: Animal_No, arm: Group, day: Study Day, "
        "volume_mm3: TV (mm3)}, or data.constants",
    ),
    "column twice": (GOOD.replace("study", "day"), ":1: the header names day twice", "rename one"),
    "header only": (HEADER, ":1: has a header but no rows", "one row per measurement"),
    "empty file": ("", ": is empty", "header line"),
    "blank file": (" \n\n", ": is empty", "header line"),
    "open quote": (changed("c1,untreated,7", '"c1,untreated,7'), ": is not a table", "quote"),
    "Latin-1": (changed("7,400", "7,400µ").encode("latin-1"), ":3: byte 0xb5 is not UTF-8", "save it as CSV (UTF-8)"),
    "UTF-16": (GOOD.encode("utf-16"), ": is UTF-16 text", "save it as CSV (UTF-8)"),
    "binary": (b"\x89HDF\r\n\x00\x01\xff", ": is a binary file", "save it as CSV"),
    "cut gzip": (gzip.compress(GOOD.encode())[:-12], ": is a damaged gzip file", "copy it again"),
    "not quite xlsx": (as_xlsx(GOOD)[:-40], ": is not a readable xlsx file", "save it again"),
    "all below the limit": (
        HEADER + "S,BRCA,X-1,c1,untreated,0,0.2\nS,BRCA,X-1,c1,untreated,7,0.4\n",
        ": volume_mm3: every volume is at or below the detection limit of 10 mm3",
        "are the volumes in mm3",
    ),
    "one measurement of the control": (
        GOOD.replace("S,BRCA,X-1,c1,untreated,7,400\n", ""),
        ": no mice with 2 measurements or more are left in the control arm (untreated)",
        "growth and kill cannot be told apart",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_file_line_and_advice(tmp_path, name):
    content, place, advice = FAULTS[name]
    told = refused(tmp_path, content)
    assert told.startswith(str(tmp_path / "table.csv") + place), told
    assert advice in told and "\n" not in told, told


def test_many_faults_are_counted(tmp_path):
    assert refused(tmp_path, GOOD.replace(",7,", ",7,x")).endswith("(2 more such rows)")


def test_xlsx_faults_name_the_row_of_the_sheet(tmp_path):
    assert ":3: volume_mm3: 'big'" in refused(tmp_path, as_xlsx(changed("7,400", "7,big")))


def test_faults_name_the_column_of_the_table(tmp_path):
    text = changed("7,400", "7,big").replace("volume_mm3", "size")
    assert ":3: size: 'big'" in refused(tmp_path, text, columns={"volume_mm3": "size"})


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        (
            {"columns": {"volume_mm3": "volum"}},
            "data.columns.volume_mm3: the table has no column 'volum'. Did you mean",
        ),
        (
            {"columns": {"tumor_type": "study"}},
            "data.columns.tumor_type: no such column is known. Did you mean 'tumour_",
        ),
        ({"columns": {"censored": "arm"}}, "data.columns.censored: is a name that vtrial fills in itself"),
        ({"constants": {"study": "S"}}, "data.constants.study: is a column of the table too"),
        ({"constants": {"source": ""}}, "data.constants.source: must not be empty"),
        ({"aliases": {"taxol": "paclitaxel"}}, "data.aliases.taxol: neither 'taxol' nor 'paclitaxel' is a drug of the"),
        ({"aliases": {"byl": "BYL-719"}}, "Did you mean 'BYL719'?"),
        ({"aliases": {"BYL719": "a", "a": "BYL719"}}, "data.aliases.BYL719: goes in a circle"),
        ({"tumour_types": ["BRAC"]}, "data.tumour_types: no rows of 'BRAC'. Did you mean 'BRCA'?"),
        ({"arms": ["LEE011"]}, "data.arms: no mice of the arm 'LEE011'. Did you mean 'BYL719 + LEE011'?"),
        ({"arms": ["LEE01"]}, "unknown drug 'LEE01'. Did you mean 'LEE011'?"),
        ({"control": ["untreted"]}, "no control arm: no row has the arm 'untreted'. Did you mean 'untreated'?"),
        ({"control": []}, "data.control: must not be empty"),
        ({"separator": " "}, "data.separator: must not be empty"),
        ({"detection_limit_mm3": 0}, "data.detection_limit_mm3: must be a volume above 0 mm3, got 0"),
        ({"detection_limit_mm3": float("nan")}, "got nan"),
    ],
)
def test_settings_that_do_not_fit_the_table(tmp_path, keywords, told):
    assert told in refused(tmp_path, GOOD, **keywords)


def test_a_reason_must_be_a_reason(tmp_path):
    text = "\n".join(line + (",exclude" if i == 0 else ",False") for i, line in enumerate(GOOD.splitlines()))
    assert ":2: exclude: 'False' is not a reason" in refused(tmp_path, text)


def test_no_control_among_the_chosen_tumour_types(tmp_path):
    text = GOOD + "S,GC,G-1,g1,BYL719,0,200\nS,GC,G-1,g1,BYL719,7,210\n"
    assert "left in the control arm (untreated)" in refused(tmp_path, text, tumour_types=["GC"])


def test_ten_million_rows_are_refused_before_their_cells_are_read(tmp_path):
    """As gzip members of 100,000 rows each; reading them as cells would take minutes and gigabytes."""
    header, rows = HEADER, "S,BRCA,X-1,c1,untreated,0,200\n" * 100_000
    path = tmp_path / "large.csv.gz"
    path.write_bytes(gzip.compress(header.encode()) + gzip.compress(rows.encode()) * 100)
    begun = time.process_time()
    with pytest.raises(InputError, match=r"large\.csv\.gz: is larger than a table may be \(5,000,000 rows"):
        read_dataset(path)
    assert time.process_time() - begun < 30.0  # measured: 1 s


def test_a_packed_sheet_is_as_large_as_what_it_holds(tmp_path, monkeypatch):
    """The archive stays far below the limit that its text is above; so do lines that end in CR alone."""
    text = HEADER + "S,BRCA,X-1,c1,untreated,0,200\n" * 5_000
    monkeypatch.setattr(table, "MAX_BYTES", 140_000)
    assert len(as_xlsx(text)) < 140_000 < len(text)
    assert "is larger than a table may be" in refused(tmp_path, as_xlsx(text))
    monkeypatch.setattr(table, "MAX_BYTES", 2**30)
    monkeypatch.setattr(table, "MAX_ROWS", 4_000)
    assert "is larger than a table may be" in refused(tmp_path, text.replace("\n", "\r"))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: no such table\. Get it from the supplement"):
        read_dataset(tmp_path / "absent.csv", if_missing="Get it from the supplement")
    with pytest.raises(InputError, match="is a folder"):
        read_dataset(tmp_path)


# --- real data ------------------------------------------------------------------------------------------------------


def test_pdx_encyclopaedia(shared_data):
    path = shared_data / "pdxe.csv.gz"
    dataset = read_dataset(path, constants={"study": "PDXE"}, aliases={"gemcitabine": "gemcitabine-50mpk"})
    raw = pd.read_csv(path)
    table = dataset.table
    assert len(table) == len(raw) == 56_487
    assert table["mouse_key"].nunique() == 4_049 and table["pdx_model"].nunique() == 256
    np.testing.assert_array_equal(table["volume_mm3"], raw["volume_mm3"])
    assert list(table["row"]) == list(range(2, 56_489))
    # 1,993 zeros and the 131 other readings up to 10 mm3.
    assert table["censored"].sum() == 2_124 and (table["exclude"] == TOO_FEW).sum() == 1
    assert read_dataset(path, detection_limit_mm3=0.05).table["censored"].sum() == 1_993
    assert len(dataset.arms) == 49 and dataset.arms["untreated"] == ()
    assert {"response", "response_category", "n_drugs", "target"} <= set(table.columns)
    assert dataset.drug_name("Gemcitabine") == "gemcitabine-50mpk"
    assert dataset.arm_name(dataset.arm_drugs("LEE011 + BYL719")) == "BYL719 + LEE011"
    assert any(note.startswith("no measurement on day 0: 3 of 4,048 mice") for note in dataset.notes)


def test_other_layouts(shared_data):
    names = {"tumour_type": "cancer", "pdx_model": "model", "arm": "treatment"}
    dataset = read_dataset(shared_data / "maeve_genentech.csv.gz", columns=names, control=["vehicle"])
    assert dataset.table["mouse_key"].nunique() == 167 and len(dataset.table) == 2_420
    early = read_dataset(shared_data / "invivosyn_combinations.csv.gz", columns=names, control=["vehicle"])
    before = early.table["day"] < 0
    assert before.any() and set(early.table.loc[before, "exclude"]) == {BEFORE_TREATMENT}
    assert f"left out of the fit: {before.sum():,} rows (before treatment)" in early.notes


def test_reading_a_table_imports_no_jax():
    code = "import sys, vtrial.dataset; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_days_from_implantation_are_told_and_taken(tmp_path):
    """Every day 21 later is a table that starts at implantation: the answer would be off, and no row is wrong."""
    late = GOOD.replace(",7,", ",28,").replace(",0,2", ",21,2").replace(",0,1", ",21,1")
    said = refused(tmp_path, late)
    assert "measured from day 21 on" in said and "set data.first_dose_day: 21" in said
    moved = read(tmp_path, late, first_dose_day=21.0)
    assert moved.table["day"].tolist() == read(tmp_path, GOOD).table["day"].tolist()
    # the first dose was given on day 0, and nobody measured before day 21
    assert read(tmp_path, late, first_dose_day=0.0).table["day"].tolist() == [21.0, 28.0] * 3


def test_not_palpable_is_a_volume_of_0(tmp_path):
    assert "write 0 where nothing could be felt" in refused(tmp_path, GOOD.replace(",210", ",NP"))
