"""Whatever bytes a file holds, its reader returns or raises an InputError: looked for by coverage.

    python tests/fuzz/readers.py experiment|table [OPTIONS OF LIBFUZZER] [FOLDER ...]

The first folder takes what is found, the others are read as starts. Warnings count as faults.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vtrial", "yaml"]):
    from vtrial.dataset import read_dataset
    from vtrial.errors import InputError
    from vtrial.experiment import load_experiment
    from vtrial.readers import LAYOUTS

CONSTANTS = {"study": "S", "tumour_type": "T"}


def experiment(file: Path, content: bytes) -> None:
    """An experiment file, with the quick settings laid over it every other time."""
    load_experiment(file, quick=len(content) % 2 == 1)


def table(file: Path, content: bytes) -> None:
    """A table in a layout that its length chooses, so that all are tried."""
    layout = LAYOUTS[len(content) % len(LAYOUTS)]
    read_dataset(file, control=("untreated", "vehicle"), constants=CONSTANTS if layout != "long" else {}, layout=layout)


READERS: dict[str, Callable[[Path, bytes], None]] = {"experiment": experiment, "table": table}


def main() -> None:
    """Start libFuzzer, which ends the process."""
    read = READERS[sys.argv.pop(1)]
    file = Path(tempfile.mkdtemp()) / "any.bin"

    def one_input(content: bytes) -> None:
        file.write_bytes(content)
        try:
            read(file, content)
        except InputError as error:
            assert str(error)  # the command line makes it one plain line

    warnings.simplefilter("error")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
