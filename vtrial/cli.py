"""The command line: it reads arguments, prints, and turns every end of a run into one line and an exit code.

Exit codes: 0 done; 1 an unexpected fault; 2 bad input; 3 the fit did not pass its gates (all outputs are written and
say so); 4 stopped by Ctrl-C, SIGTERM or SIGUSR1, the same command goes on.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from vtrial import commands, evaluations  # noqa: F401  (they register their commands)
from vtrial.arguments import app
from vtrial.errors import InputError, InterruptedRun, VtrialError
from vtrial.signals import STOPPED, terminable
from vtrial.terminal import plain

DEBUG = "VTRIAL_DEBUG"
# typer carries its own copy of click; the base of all faults of usage is reached through the one that it shows.
_UsageFault: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; whatever goes wrong is one line on stderr.

    With ``VTRIAL_DEBUG=1`` in the environment the line follows the traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        with terminable():
            code = app(args=arguments, prog_name="vtrial", standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()
        # typer turns Ctrl-C into the exit code of a shell.
        return _told(STOPPED, InterruptedRun.exit_code) if code == 130 else int(code or 0)
    except _UsageFault as error:
        hint = f"vtrial {arguments[0]} --help" if arguments[0] in _commands() else "vtrial --help"
        message = " ".join(error.format_message().split()).rstrip(".")  # choices come a line each
        return _told(f"error: {message}; see {hint}", InputError.exit_code)
    except InterruptedRun as error:
        return _told(str(error) or STOPPED, error.exit_code)
    except VtrialError as error:
        return _told(f"error: {error}", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _told(STOPPED, InterruptedRun.exit_code)
    except BrokenPipeError:
        # The reader went away, as `head` does; Python would complain once more at exit.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 1
    except MemoryError:
        return _told("error: not enough memory; ask for fewer draws or patients", 1)
    except Exception as error:
        what = f"{type(error).__name__}: {str(error) or 'no message'}"
        return _told(f"unexpected error: {what[:500]} ({DEBUG}=1 shows where; please report it)", 1)


def _told(message: str, code: int) -> int:
    if os.environ.get(DEBUG, "0") not in ("", "0") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"vtrial: {plain(message)}", file=sys.stderr)
    return code


def _commands() -> set[str | None]:
    return {one.name or (one.callback.__name__ if one.callback else None) for one in app.registered_commands}
