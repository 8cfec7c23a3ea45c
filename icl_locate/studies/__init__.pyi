from .difference import RunDifference as RunDifference
from .difference import compare_runs as compare_runs
from .intervals import Spread as Spread
from .result import Measured as Measured
from .setting import Setting as Setting
