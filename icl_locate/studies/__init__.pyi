from .intervals import Spread as Spread
from .result import Measured as Measured
from .setting import Setting as Setting
