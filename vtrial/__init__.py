"""vtrial: from tumour volumes of mice to the response rate of patients."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtrial.study import Run

__all__ = ["load"]


def load(run_dir: str | os.PathLike[str]) -> Run:
    """Open a run folder in a notebook or script.

    Parameters
    ----------
    run_dir : path
        The folder that `vtrial run` left.

    Returns
    -------
    Run
        See `vtrial.study.Run`: posterior, response rates, patients, figures, and simulation of other arms.
    """
    from vtrial.study import Run

    return Run(run_dir)
