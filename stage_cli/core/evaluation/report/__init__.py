"""What is left of an evaluation: `results.json` for programs, `items.csv` for tables, `report.html` for people."""

from stage_cli.core.evaluation.report.page import write_report
from stage_cli.core.evaluation.report.results import (
    ClipResult,
    Failure,
    Metric,
    Results,
    Summary,
    SystemResult,
    TakeResult,
    read_results,
    write_items,
    write_results,
)

__all__ = [
    "ClipResult",
    "Failure",
    "Metric",
    "Results",
    "Summary",
    "SystemResult",
    "TakeResult",
    "read_results",
    "write_items",
    "write_report",
    "write_results",
]
