"""Complete settings for the published experiments."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_EVERY_QUERY = 10**6

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Sia et al. (NeurIPS 2024), section 3: FLORES, BLEU lowercased on the first sentence
        "sia2024-translation": {
            "task": "flores/{direction}",
            "metric": "bleu_lc:first_sentence",
            "n_shots": 5,
            "n_queries": _EVERY_QUERY,
            "seeds": (0, 1, 2),
            "max_new_tokens": 50,
        },
        # HumanEval with examples from MBPP, pass@1; their 50 new tokens would cut most solutions
        "sia2024-code": {
            "task": "humaneval",
            "metric": "pass@1",
            "n_shots": 5,
            "n_queries": _EVERY_QUERY,
            "seeds": (0, 1, 2),
            "max_new_tokens": 256,
        },
    }
)
"""Values of the ``sweep`` command's options by the name of a preset."""
