"""What is left of an evaluation: `results.json` for programs, `items.csv` for tables, `report.html` for people."""

from stage_cli.core.evaluation.report.files import read_results, write_items, write_results
from stage_cli.core.evaluation.report.page import write_report
from stage_cli.core.evaluation.report.results import Failure, ClipResult, Metric, Output, Results, Summary, SystemResult

__all__ = [
    "Failure",
    "Item",
    "Metric",
    "Output",
    "Results",
    "Summary",
    "System",
    "read_results",
    "write_items",
    "write_report",
    "write_results",
]
