"""The errors that a user can cause, each with the place of the fault and an exit code."""

from __future__ import annotations

from pathlib import Path


class VtrialError(Exception):
    """Base of all errors that the command line turns into one line and an exit code."""

    exit_code = 1


class InputError(VtrialError):
    """Something that the user gave is wrong.

    Parameters
    ----------
    message : str
        What was wrong, what was found, what is allowed.
    file : path, optional
        The file that holds the fault.
    line : int, optional
        Line in that file, counted from 1.
    key : str, optional
        Dotted key or column name.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, file: str | Path | None = None, line: int | None = None, key: str | None = None
    ):
        self.message, self.file, self.line, self.key = message, file, line, key
        place = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(place + (f"{key}: " if key else "") + message)


class GateError(VtrialError):
    """The fit ran to its end but did not pass its convergence gates; its outputs, in `folder`, say so first."""

    exit_code = 3

    def __init__(self, message: str, folder: Path | None = None):
        self.folder = folder
        super().__init__(message)


class InterruptedRun(VtrialError):
    """The run was stopped by a signal; the same command goes on where it stopped."""

    exit_code = 4
