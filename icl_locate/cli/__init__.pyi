from .command import main as main
from .compare import CompareConfig as CompareConfig
from .demo import DemoConfig as DemoConfig
from .gates import GatesConfig as GatesConfig
from .induction import InductionConfig as InductionConfig
from .lora import LoraByLayerConfig as LoraByLayerConfig
from .savings import SavingsConfig as SavingsConfig
from .sweep import SweepConfig as SweepConfig
