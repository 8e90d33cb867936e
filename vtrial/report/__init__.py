"""Results -> tables, figures and one page."""

from vtrial.report.curves import curves
from vtrial.report.engagement import engagement
from vtrial.report.figures import null_models, orr_forest
from vtrial.report.images import orr_forest_files, orr_forest_image, runs_image
from vtrial.report.mice import mouse_scatter
from vtrial.report.page import ReportInputs, build_report, figure_data
from vtrial.report.patients import spider, survival, swimmer, waterfall
from vtrial.report.tables import exact_interval, forest_data, format_orr_table, null_model_data

__all__ = [
    "ReportInputs",
    "build_report",
    "curves",
    "engagement",
    "exact_interval",
    "figure_data",
    "forest_data",
    "format_orr_table",
    "mouse_scatter",
    "null_model_data",
    "null_models",
    "orr_forest",
    "orr_forest_files",
    "orr_forest_image",
    "runs_image",
    "spider",
    "survival",
    "swimmer",
    "waterfall",
]
