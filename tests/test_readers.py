"""Tables in other layouts, each beside the long table that it stands for."""

from __future__ import annotations

import io
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtrial.dataset import Dataset, read_dataset
from vtrial.errors import InputError
from vtrial.readers import LAYOUTS

BODY = ["mouse_key", "arm", "day", "volume_mm3"]
CONSTANTS = {"tumour_type": "BRCA", "pdx_model": "X-1", "study": "S"}


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def body(dataset: Dataset) -> list[tuple[object, ...]]:
    return sorted(dataset.table[BODY].itertuples(index=False, name=None))


def workbook(path: Path, sheets: dict[str, str]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, text in sheets.items():
        sheet = book.create_sheet(name)
        for row in pd.read_csv(io.StringIO(text), header=None).itertuples(index=False):
            sheet.append([None if isinstance(cell, float) and pd.isna(cell) else cell for cell in row])
    book.save(path)
    return path


@pytest.mark.parametrize(
    "days", [("0", "3", "7"), ("D0", "D3", "D7"), ("day 0", "Day 3", "DAY_7"), ("0d", "3 days", "7")]
)
def test_a_wide_table_is_its_long_table(tmp_path: Path, days: tuple[str, ...]) -> None:
    long = written(
        tmp_path / "long.csv",
        "mouse,arm,day,volume_mm3\na,untreated,0,100\na,untreated,3,200\na,untreated,7,400\nb,A,0,110\nb,A,7,50\n",
    )
    wide = written(tmp_path / "wide.csv", f"mouse,arm,{','.join(days)}\na,untreated,100,200,400\nb,A,110,,50\n")
    expected = read_dataset(long, constants=CONSTANTS)
    found = read_dataset(wide, constants=CONSTANTS, layout="wide")
    assert body(found) == body(expected) and found.arms == expected.arms
    assert list(found.table["row"]) == [2, 2, 2, 3, 3]
    assert any("1 empty cells" in note for note in found.notes)


def test_days_in_the_users_own_writing(tmp_path: Path) -> None:
    table = written(tmp_path / "t.csv", "animal,group,TV_0 (mm3),TV_7 (mm3),7\na,untreated,1e2,200,9\nb,A,110,50,9\n")
    columns = {"mouse": "animal", "arm": "group"}
    found = read_dataset(table, constants=CONSTANTS, columns=columns, layout="wide", day_columns="TV_{day} (mm3)")
    volumes = found.table.groupby("mouse_key")["volume_mm3"].apply(list).to_dict()
    assert volumes == {"S/a": [100.0, 200.0], "S/b": [110.0, 50.0]} and list(found.table["day"]) == [0, 7, 0, 7]
    assert list(found.table["7"].unique()) == [9]  # a column that is no day stays a covariate


def test_invivosyn_numbers_mice_within_treatments(tmp_path: Path) -> None:
    table = written(
        tmp_path / "t.csv", "Treatment,Mouse,0,7\nVehicle,1,100,200\nA,1,100,150\nB,1,100,160\nA + B,1,90,40\n"
    )
    found = read_dataset(table, constants=CONSTANTS, layout="invivosyn", control=["Vehicle"])
    assert set(found.table["mouse"]) == {"Vehicle|1", "A|1", "B|1", "A + B|1"}
    assert found.arms["A + B"] == ("A", "B") and found.drugs == ("A", "B")


PDXE = """Model,Tumor Type,Treatment,Volume (mm3),body weight (g),Days Post T0,%TVol_Difference,%BW_Difference
X-1,BRCA,untreated,200,25.1,0,0,0
X-1,BRCA,untreated,420,25.3,4,110,1
X-1,BRCA,untreated,210,24.0,0,0,0
X-1,BRCA,untreated,380,24.1,5,81,0
X-1,BRCA,BKM120 + binimetinib,190,25,0,0,0
X-1,BRCA,BKM120 + binimetinib,60,24,4,-68,-4
"""


def test_the_pdxe_supplement(tmp_path: Path) -> None:
    book = workbook(tmp_path / "supplement.xlsx", {"RNAseq": "a,b\n1,2\n", "PCT raw data": PDXE})
    found = read_dataset(book, layout="pdxe", constants={"study": "PDXE"})
    assert list(found.table["mouse"].unique()) == [
        "X-1|untreated|m1", "X-1|untreated|m2", "X-1|BKM120 + binimetinib|m1",
    ]  # fmt: skip
    assert list(found.table["volume_mm3"]) == [200, 420, 210, 380, 190, 60]
    assert list(found.table["day"]) == [0, 4, 0, 5, 0, 4] and list(found.table["row"]) == [2, 3, 4, 5, 6, 7]
    assert found.drugs == ("BKM120", "binimetinib") and found.table["body_weight_g"].iloc[0] == 25.1
    assert any("PCT raw data" in note for note in found.notes) and any(
        "1 of 2 cells hold several" in n for n in found.notes
    )
    assert body(read_dataset(written(tmp_path / "s.csv", PDXE), layout="pdxe", constants={"study": "PDXE"})) == body(
        found
    )


@pytest.mark.parametrize("unit", [("Tumour volume", "cm^3"), ("Tumor volume", "mm^3")])
def test_chi_tables_with_rows_of_doses(tmp_path: Path, unit: tuple[str, str]) -> None:
    name, written_unit = unit
    scale = 1000.0 if written_unit == "cm^3" else 1.0
    rows = [
        "ID,Time,Observable,Value,Observable unit,Dose,Duration",
        f"1,0,{name},{200 / scale},{written_unit},,",
        "1,0,Body weight,24,g,,",
        "1,0,,,,6.25,0.01",
        f"1,4,{name},{150 / scale},{written_unit},,",
        f"2,0,{name},{210 / scale},{written_unit},,",
        f"2,4,{name},{500 / scale},{written_unit},,",
    ]
    table = written(tmp_path / "chi.csv", "\n".join(rows) + "\n")
    found = read_dataset(table, layout="chi", constants={**CONSTANTS, "arm": "erlotinib"})
    assert body(found) == [
        ("S/1", "erlotinib", 0.0, 200.0), ("S/1", "erlotinib", 4.0, 150.0),
        ("S/2", "untreated", 0.0, 210.0), ("S/2", "untreated", 4.0, 500.0),
    ]  # fmt: skip
    assert list(found.table["row"]) == [2, 5, 6, 7]
    assert found.table["body_weight_g"].iloc[0] == 24.0 and found.table["body_weight_g"].isna().sum() == 3
    with pytest.raises(InputError, match=r"data\.constants\.arm names the drug"):
        read_dataset(table, layout="chi", constants=CONSTANTS)


def test_volumes_from_callipers(tmp_path: Path) -> None:
    """A prolate ellipsoid 10 mm by 6 mm: 10 x 36 / 2 = 180 mm3, whichever column holds the longer one."""
    table = written(
        tmp_path / "t.csv", "mouse,arm,day,L,W\na,untreated,0,10,6\na,untreated,4,6,10\nb,A,0,9,8\nb,A,4,0,0\n"
    )
    found = read_dataset(table, constants=CONSTANTS, columns={"length_mm": "L", "width_mm": "W"})
    assert list(found.table["volume_mm3"]) == [180.0, 180.0, 288.0, 0.0]
    assert list(found.table["length_mm"]) == [10, 6, 9, 0] and list(found.table["censored"]) == [False] * 3 + [True]
    assert any("1 rows" in note for note in found.notes)


CHI = "ID,Time,Observable,Value\n1,0,"
CALLIPERS = "mouse,arm,day,length_mm,width_mm\na,untreated,0,10,"
BAD = {
    "a word among the volumes": ("mouse,arm,0,7\na,untreated,1,x\n", {"layout": "wide"}, ":2: 7: 'x' is not a number"),
    "no days": ("mouse,arm,volume\na,untreated,1\n", {"layout": "wide"}, ":1: a wide table needs a column a day"),
    "a day twice": ("mouse,arm,7,D7\na,untreated,1,2\n", {"layout": "wide"}, ":1: 7: two columns stand for day 7"),
    "a pattern without day": ("mouse,arm,0\na,u,1\n", {"layout": "wide", "day_columns": "TV"}, "must hold {day}"),
    "a pattern for a long table": ("mouse,arm,0\na,u,1\n", {"day_columns": "TV_{day}"}, "is for wide tables"),
    "pdxe, no treatments": (PDXE.replace("Treatment", "Treatmnt"), {"layout": "pdxe"}, "Did you mean 'Treatmnt'?"),
    "pdxe, a word": (PDXE.replace(",24,4,-68", ",24,four,-68"), {"layout": "pdxe"}, ":7: Days Post T0: 'four'"),
    "chi, no volumes": (f"{CHI}Body weight,24\n", {"layout": "chi"}, "no row is a tumour volume"),
    "chi, no unit": (f"{CHI}Tumour volume,24\n", {"layout": "chi"}, ":2: Observable: the unit"),
    "chi, no values": (CHI.replace(",Value", ""), {"layout": "chi"}, "data.columns.Value: the table has no"),
    "no such layout": ("mouse,arm,0\na,u,1\n", {"layout": "wyde"}, "must be one of long, wide"),
    "callipers, a word": (f"{CALLIPERS}six\n", {}, ":2: width_mm: 'six' is not a number"),
    "callipers below 0": (f"{CALLIPERS}-6\n", {}, ":2: width_mm: -6 is negative"),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_name_their_place(tmp_path: Path, name: str) -> None:
    text, settings_, part = BAD[name]
    with pytest.raises(InputError) as caught:
        read_dataset(
            written(tmp_path / "t.csv", text), constants=CONSTANTS if "pdxe" not in name else None, **settings_
        )
    assert part in str(caught.value), caught.value


def test_a_fault_of_the_first_sheet_names_the_others(tmp_path: Path) -> None:
    """A page of remarks stands first in many books."""
    book = workbook(tmp_path / "b.xlsx", {"README": "note\nsee TV\n", "TV": "mouse,0,7\n1,200,300\n"})
    with pytest.raises(InputError, match=r"'README', the first of 2; .* TV; another goes into data\.sheet"):
        read_dataset(book, layout="wide")


def test_a_missing_sheet_names_those_there(tmp_path: Path) -> None:
    book = workbook(tmp_path / "s.xlsx", {"PCT raw date": PDXE, "other": "a,b\n1,2\n"})
    with pytest.raises(InputError, match=r"no sheet 'PCT raw data'\. Did you mean 'PCT raw date'\?"):
        read_dataset(book, layout="pdxe")
    assert len(read_dataset(book, layout="pdxe", sheet="pct raw date").table) == 6


_CELL = st.one_of(
    st.sampled_from(
        ["", "0", "7", "100", "-1", "nan", "inf", "1,5", "untreated", "A", "A + B", '"', "\x00", "é", "1e400"]
    ),
    st.text(max_size=6),
)
_LONG = ("study", "tumour_type", "pdx_model", "mouse", "arm", "day", "volume_mm3", "exclude", "length_mm", "width_mm")
_OTHER = ("0", "D7", "T14", "ID", "Time", "Observable", "Value", "Dose", "Model", "Treatment", "Days Post T0", "row")
_HEADER = st.sampled_from((*_LONG, *_OTHER))


@settings(max_examples=150, deadline=None)
@given(
    header=st.lists(_HEADER, min_size=1, max_size=9),
    rows=st.lists(st.lists(_CELL, max_size=9), max_size=6),
    layout=st.sampled_from(LAYOUTS),
)
def test_no_table_raises_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], rows: list[list[str]], layout: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "hypothesis.csv"
    lines = [",".join(header), *(",".join(cells) for cells in rows)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        read_dataset(path, layout=layout, constants={"study": "S"} if "study" not in header else None)
    except InputError as error:
        assert error.file is not None or error.key is not None


@settings(max_examples=100, deadline=None)
@given(
    content=st.binary(max_size=300),
    head=st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b", b"\xff\xfe", b"mouse,day\n"]),
)
def test_no_bytes_raise_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "hypothesis.bin"
    path.write_bytes(head + content)
    with pytest.raises(InputError):
        read_dataset(path)


def test_the_real_panel_in_the_layout_of_its_supplement(shared_data: Path, tmp_path: Path) -> None:
    """The names of mice left out, they are found again: by their days alone, with the counts of the long table."""
    long = pd.read_csv(shared_data / "pdxe.csv.gz", dtype=str, keep_default_na=False)
    supplement = long.rename(columns={"pdx_model": "Model", "tumour_type": "Tumor Type", "arm": "Treatment"})
    supplement = supplement.rename(columns={"volume_mm3": "Volume (mm3)", "day": "Days Post T0"})
    kept = ["Model", "Tumor Type", "Treatment", "Volume (mm3)", "Days Post T0"]
    supplement[kept].to_csv(tmp_path / "s.csv", index=False)
    found = read_dataset(tmp_path / "s.csv", layout="pdxe", constants={"study": "PDXE"})
    expected = read_dataset(shared_data / "pdxe.csv.gz", constants={"study": "PDXE"})
    assert len(found.table) == len(expected.table)
    assert found.table["mouse_key"].nunique() == expected.table["mouse_key"].nunique() == 4049
    assert (pd.factorize(found.table["mouse_key"])[0] == pd.factorize(expected.table["mouse_key"])[0]).all()
