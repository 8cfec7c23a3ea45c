from . import plots as plots
from ._types import Part as Part
from ._types import Segment as Segment
from .conditions import PAPER_CONDITIONS as PAPER_CONDITIONS
from .conditions import Condition as Condition
from .engine.decoding import generate as generate
from .engine.scoring import score_targets as score_targets
from .hooks import attention_hooks as attention_hooks
from .hooks import mask_attention as mask_attention
from .location import Location as Location
from .location import locate as locate
from .masks import ContextMask as ContextMask
from .masks import from_layer as from_layer
from .masks import only_layer as only_layer
from .masks import until_layer as until_layer
from .masks import window as window
from .models import load_model as load_model
from .prompts import Example as Example
from .prompts import PromptTemplate as PromptTemplate
from .report import write_report as write_report
from .results import SweepResult as SweepResult
from .sweeps import sweep as sweep
from .tasks import Task as Task
from .tasks import load_task as load_task
from .tokens import Prompts as Prompts
from .tokens import build_prompts as build_prompts

__version__: str
