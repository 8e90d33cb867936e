"""What commands share: the app, their arguments, and what is looked at before any of them begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from vtrial.run import Devices

app = typer.Typer(
    name="vtrial",
    help="From tumour volumes of mice to the response rate of patients.",
    epilog="Exit codes: 0 done, 1 unexpected fault, 2 bad input, 3 the fit did not pass its gates, 4 stopped.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Kind = Literal["auto", "cpu", "cuda"]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (YAML).")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder that `vtrial run` or `vtrial fit` left.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Run folder; nothing outside it is reused. Default: runs/NAME/KEY."),
]
Quick = Annotated[bool, typer.Option("--quick", help="About a minute, with loose gates; every output says so.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, such as fit.chains=2; may be given again."),
]
Device = Annotated[Kind, typer.Option("--device", help="Where the trial runs; auto is the GPU where there is one.")]
FitDevice = Annotated[Kind, typer.Option("--fit-device", help="Where the fit runs; auto is the CPU.")]


def devices_of(device: Kind, fit_device: Kind) -> Devices:
    """Set the devices up before anything uses JAX; asking for one that is absent is an error here."""
    from vtrial import devices

    devices.configure(device, fit_device)
    from vtrial.run import Devices

    return Devices(trial=device, fit=fit_device)


def check_run_folder(path: Path) -> None:
    """Raise where there is no run folder."""
    from vtrial.store import RunFolder

    RunFolder(path).manifest()
