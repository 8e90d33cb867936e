"""How far is the posterior of synergy of one study from the estimate of a linear mixed model on the same mice?

    python benchmarks/synergy.py [--linear] [--runs DIR] [--table FILE] [--study NAME ...]

Four studies of the R package invivoSyn (../shared/data/invivosyn_combinations.csv.gz; CR1197, LS-1034, SNU-81,
SW837), each on its own: `vtrial fit` and `vtrial synergy`, and beside them what SynergyLMM fits, by lme4 in R
(Debian: r-cran-lme4),

    ln(V / V on the first day) ~ 0 + day:arm + (0 + day | mouse)

with the data up to each day, Bliss and HSA as there. With --linear vtrial takes the assumptions of the linear model
(constant rates, independent residuals, wide priors of the effects), and both see the whole study. Days count from the
first measurement; volumes below 10 mm3 are left-censored in vtrial and 10 in the linear model, which cannot censor.

Printed for every study, reference and day: ln CI of both with their standard errors (posterior SD), and the difference
over the pooled one, sqrt((se_1^2 + se_2^2) / 2). Fits that lie in DIR are used again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT = 10.0
EXPERIMENT = """\
name: {name}
priors: [{priors}]
data:
  path: {table}
  source: "R package invivoSyn (MIT)"
  control: [vehicle]
  detection_limit_mm3: {limit}
fit:
  target_accept: 0.99
  max_tree_depth: 10
  drug_classes: {{{classes}}}
"""
#: what turns the model into the linear one: no change of rate with time, independent residuals, no pooling of arms
LINEAR = ("fit.loss_rate=0.000001", "fit.residual_days=0")
FLAT = """\
classes:
  default:
    mean_effect:
      {family: normal, parameters: {loc: 0.5, scale: 2.0}, unit: "1", source: flat, certainty: assumed, note: wide}
class_pairs:
  default:
    gamma:
      {family: normal, parameters: {loc: 0.0, scale: 2.0}, unit: "1", source: flat, certainty: assumed, note: wide}
"""
CLASSES = {"Palbociclib": "CDK4/6", "Irinotecan": "topoisomerase", "Rabusertib": "CHEK1"}
LMM = """\
suppressMessages(library(lme4))
a <- commandArgs(TRUE); combination <- a[2]; limit <- as.numeric(a[3]); once <- a[4] == "TRUE"; control <- "vehicle"
d <- read.csv(a[1])
d$volume_mm3 <- pmax(d$volume_mm3, limit)
first <- d[d$day == 0, c("mouse", "volume_mm3")]
d$y <- log(d$volume_mm3 / first$volume_mm3[match(d$mouse, first$mouse)])
d <- d[d$day > 0, ]
singles <- setdiff(unique(d$arm), c(control, combination))
slopes <- function(rows) {
  m <- lmer(y ~ 0 + day:arm + (0 + day | mouse), data = rows)
  b <- fixef(m); names(b) <- sub("^day:arm", "", names(b))
  v <- as.matrix(vcov(m)); dimnames(v) <- list(names(b), names(b))
  list(b = b, v = v)
}
whole <- slopes(d); best <- singles[which.min(whole$b[singles])]
cat("reference,single_agent,day,lmm,lmm_se\\n")
for (t in sort(unique(d$day))[-1]) {  # on the first day a mouse has one value: its slope is its residual
  f <- if (once) whole else suppressMessages(suppressWarnings(slopes(d[d$day <= t, ])))
  for (reference in c("bliss", "hsa")) {
    k <- setNames(rep(0, length(f$b)), names(f$b)); k[combination] <- 1
    if (reference == "bliss") { k[singles] <- -1; k[control] <- length(singles) - 1 } else k[best] <- -1
    cat(sprintf("%s,%s,%g,%.6f,%.6f\\n", reference, if (reference == "hsa") best else "", t,
                t * sum(k * f$b), t * sqrt(drop(k %*% f$v %*% k))))
  }
}
"""


def study_tables(table: Path, folder: Path) -> dict[str, Path]:
    """One long table a study, days from the first measurement."""
    whole, found = pd.read_csv(table), {}
    for model, own in whole.groupby("model"):
        name = str(model).split()[0]
        found[name] = folder / f"{name}.csv"
        long = own.assign(
            study="invivosyn",
            tumour_type="CRC",
            pdx_model=name,
            arm=own["treatment"],
            mouse=own["treatment"] + "-" + own["mouse"].astype(str),
            day=own["day"] - own["day"].min(),
        )
        columns = ["study", "tumour_type", "pdx_model", "mouse", "arm", "day", "volume_mm3"]
        long[columns].to_csv(found[name], index=False)
    return found


def linear_model(table: Path, combination: str, folder: Path, once: bool) -> pd.DataFrame:
    """What SynergyLMM estimates: reference, single_agent, day, lmm and lmm_se of ln CI."""
    script = folder / "lmm.R"
    script.write_text(LMM)
    command = ["Rscript", str(script), str(table), combination, str(LIMIT), str(once).upper()]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(ended.stderr)
    (folder / "lmm.csv").write_text(ended.stdout)
    return pd.read_csv(folder / "lmm.csv", keep_default_na=False)


def posterior(name: str, table: Path, runs: Path, linear: bool) -> pd.DataFrame:
    """Rows of synergy.csv of one study; the fit is made where `runs` does not hold it."""
    arms = set(pd.read_csv(table)["arm"])
    classes = ", ".join(f"{drug}: {kind}" for drug, kind in CLASSES.items() if drug in arms)
    file, run = runs / f"{name}.yaml", runs / name
    priors = REPOSITORY / "experiments" / "priors" / "one_study.yaml"
    shutil.copy(table, runs / table.name)
    (runs / "flat.yaml").write_text(FLAT)
    overlays = f"{priors}, flat.yaml" if linear else str(priors)
    settings = [part for setting in LINEAR if linear for part in ("--set", setting)]
    file.write_text(
        EXPERIMENT.format(name=name.lower(), priors=overlays, table=table.name, limit=LIMIT, classes=classes)
    )
    for command in (
        ["fit", str(file), "--out", str(run), *settings],
        ["synergy", str(run), "--out", str(run / "synergy")],
    ):
        whole = [sys.executable, "-m", "vtrial", *command]
        ended = subprocess.run(whole, cwd=REPOSITORY, capture_output=True, text=True)
        print(name, command[0], ended.stderr.strip().splitlines()[-1] if ended.returncode else "done", flush=True)
        if ended.returncode not in (0, 3):
            sys.exit(ended.returncode)
    return pd.read_csv(run / "synergy" / "synergy.csv", keep_default_na=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--study", action="append")
    default = REPOSITORY.parent / "shared" / "data" / "invivosyn_combinations.csv.gz"
    parser.add_argument("--table", type=Path, default=default)
    chosen = parser.parse_args()
    if not chosen.table.is_file():
        sys.exit(f"{chosen.table} is not here")
    with tempfile.TemporaryDirectory() as work:
        folder, rows = Path(work), []
        runs = folder / "runs" if chosen.runs is None else chosen.runs.absolute()
        runs.mkdir(parents=True, exist_ok=True)
        for name, table in study_tables(chosen.table, folder).items():
            if chosen.study and name not in chosen.study:
                continue
            ours = posterior(name, table, runs, chosen.linear)
            peer = linear_model(table, str(ours["arm"].iloc[0]), folder, chosen.linear)
            both = peer.merge(ours, on=["reference", "day"], suffixes=("_lmm", ""))
            both["vtrial"] = np.log(both["combination_index"].astype(float))
            both["vtrial_se"] = both["ln_ci_sd"].astype(float)
            pooled = np.sqrt((both["lmm_se"] ** 2 + both["vtrial_se"] ** 2) / 2)
            both["difference"] = (both["vtrial"] - both["lmm"]) / pooled
            rows.append(both)
    columns = ["pdx_model", "reference", "single_agent", "day", "beyond_data"]
    columns += ["lmm", "lmm_se", "vtrial", "vtrial_se", "difference"]
    table = pd.concat(rows)[columns]
    print(table.round(3).to_string(index=False))
    inside = table.assign(inside=table["difference"].abs() <= 1)
    print(inside.groupby(["pdx_model", "reference", "beyond_data"])["inside"].agg(["sum", "count"]).to_string())


if __name__ == "__main__":
    main()
