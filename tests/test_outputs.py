"""Every column of every table that a command writes stands in the docs, and so does every table."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from vtrial import (
    contrasts,
    discrepancy,
    dose_table,
    engagement,
    fitted,
    inhibition,
    published_endpoints,
    ranks,
    rates,
    sample,
    sensitivity,
    synergy,
    times,
    uncertainty,
    validation,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
OUTPUTS = (DOCS / "outputs.md").read_text(encoding="utf-8")
QUANTILES = "`q05` ... `q95`"


def words(text: str) -> set[str]:
    """What stands in backticks; a range of quantiles is every one of them."""
    spelt = text.replace(QUANTILES, "`q05`, `q25`, `q50`, `q75`, `q95`")
    return set(re.findall(r"`([^`\n]+)`", spelt))


def section(file: str) -> str:
    """The part of outputs.md that is about a table: its section, or its row in the section of the figures."""
    heads = re.split(r"^## ", OUTPUTS, flags=re.MULTILINE)
    if file.startswith("figures/"):
        own = next(part for part in heads if part.startswith("figures/"))
        name = file.removeprefix("figures/")
        found = [line for line in own.splitlines() if line.startswith(f"| `{name}` |")]
        if found or f"`{name}`" not in own:
            return "\n".join(found)
        file = name  # named there, and described where the run's own table of that name is
    file = re.sub(r"^designs/.*", "designs/KIND.csv", file)
    return "\n".join(part for part in heads if re.search(rf"(^|[ ,]){re.escape(file)}", part.split("\n", 1)[0]))


def undocumented(folder: Path) -> dict[str, set[str]]:
    """Columns of the tables of a run folder that outputs.md does not name, by table."""
    found = {}
    for file in sorted(folder.rglob("*.csv")):
        name = str(file.relative_to(folder))
        if not name.startswith(("figures/", "designs/")):
            name = file.name  # such as folds/combinations-CM/loo.csv
        with file.open(encoding="utf-8", newline="") as stream:
            columns = set(next(csv.reader(stream)))
        if missing := columns - words(section(name)):
            found[name] = missing
    return found


TABLES = {
    "orr.csv": rates.COLUMNS,
    "dose_response.csv": dose_table.COLUMNS,
    "endpoints.csv": times.COLUMNS,
    "engagement.csv": engagement.COLUMNS,
    "uncertainty.csv": (*uncertainty.COLUMNS, "note"),
    "tgi.csv": inhibition.COLUMNS,
    "ranks.csv": ranks.COLUMNS,
    "discrepancies.csv": discrepancy.COLUMNS,
    "contrasts.csv": contrasts.CONTRASTS,
    "exceedance.csv": contrasts.EXCEEDANCE,
    "sensitivity.csv": sensitivity.COLUMNS,
    "validation.csv": validation.COLUMNS,
    "synergy.csv": (*synergy.COLUMNS, "note"),
    "medians.csv": published_endpoints.MEDIAN_COLUMNS,
    "shrinkage.csv": published_endpoints.SHRINKAGE_COLUMNS,
    "figures/waterfall.csv": sample.WATERFALL,
    "figures/spider.csv": sample.SPIDER,
    "figures/swimmer.csv": sample.SWIMMER,
    "figures/pfs.csv": times.PFS_COLUMNS,
    "figures/curves.csv": [*fitted.COLUMNS, "fitted_median", "q05", "q95"],
}


@pytest.mark.parametrize("file", TABLES)
def test_the_columns_of_a_table_are_in_the_docs(file: str) -> None:
    assert set(TABLES[file]) - words(section(file)) == set()


def test_a_column_that_no_page_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "ranks.csv").write_text("tumour_type,rank,rnak\n")
    (tmp_path / "figures" / "pfs.csv").write_text("day,q25,median\n")
    (tmp_path / "new.csv").write_text("day\n")
    assert undocumented(tmp_path) == {"ranks.csv": {"rnak"}, "figures/pfs.csv": {"median"}, "new.csv": {"day"}}
