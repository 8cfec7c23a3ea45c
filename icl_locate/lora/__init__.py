"""LoRA, one layer at a time: which layers can be taught a task, and which come too late?

Sia et al. (NeurIPS 2024, section 6): a low-rank adapter on one layer's attention output projection,
everything else frozen.
"""

from icl_locate.lora.config import PRESETS, LoraConfig
from icl_locate.lora.result import LoraResult
from icl_locate.lora.study import lora_by_layer

__all__ = ["PRESETS", "LoraConfig", "LoraResult", "lora_by_layer"]
