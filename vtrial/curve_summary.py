"""One curve -> its sufficient statistics on the time courses of a growth law, its correlated residuals decorrelated."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from vtrial.growth_laws import fixed_course, time_courses
from vtrial.model_format import CurveShape


def residual_covariance(day: np.ndarray, shape: CurveShape) -> np.ndarray:
    """Covariance of the residuals of one curve over sigma^2, [T, T]; see :class:`vtrial.model_format.CurveShape`."""
    if shape.residual_days == 0.0:
        return np.eye(len(day))
    apart, together = np.abs(day[:, None] - day[None, :]), day[:, None] + day[None, :]
    process = np.exp(-apart / shape.residual_days) - np.exp(-together / shape.residual_days)
    return (1.0 - shape.residual_white) * process + shape.residual_white * np.eye(len(day))


def curve_summary(day: np.ndarray, log_volume: np.ndarray, shape: CurveShape) -> tuple[np.ndarray, np.ndarray, float]:
    """``[z, RSS]`` and R of one curve whose residuals are made independent, and the log Jacobian of that.

    Curves shorter than the basis get zero rows.
    """
    root = np.linalg.cholesky(residual_covariance(day, shape))
    columns = solve_triangular(root, time_courses(day, shape), lower=True)
    log_volume = solve_triangular(root, log_volume - fixed_course(day, shape), lower=True)
    size = columns.shape[1]
    orthogonal, triangle = np.linalg.qr(columns)
    z = orthogonal.T @ log_volume
    rest = log_volume - orthogonal @ z
    statistics, padded = np.zeros(size + 1), np.zeros((size, size))
    statistics[: len(z)] = z
    statistics[size] = rest @ rest if len(day) > size else 0.0
    padded[: len(z)] = triangle
    return statistics, padded, -float(np.log(np.diag(root)).sum())
