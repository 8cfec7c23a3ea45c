from .heads import write_head_report as write_head_report
from .runs import write_run_report as write_run_report
from .sweep import write_report as write_report
