"""Results as self-contained HTML pages; one module a kind of result."""

from icl_locate.report.heads import write_head_report
from icl_locate.report.runs import write_run_report
from icl_locate.report.sweep import write_report

__all__ = ["write_head_report", "write_report", "write_run_report"]
