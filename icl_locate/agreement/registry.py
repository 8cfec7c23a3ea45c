"""The methods by name: one entry each, in the order in which they run."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from icl_locate.agreement.circuits import DISCONNECTIONS, KERNEL_ALIGNMENT, PROBE
from icl_locate.agreement.masks import MASKING, SINGLE_LAYER
from icl_locate.agreement.method import Method
from icl_locate.agreement.transfers import FUNCTION_VECTOR, MANY_POSITIONS, TASK_VECTOR
from icl_locate.agreement.tuned import LORA
from icl_locate.checks.arguments import check_choice, check_items, refuse
from icl_locate.errors import TaskError

_METHODS = (
    MASKING, SINGLE_LAYER, DISCONNECTIONS, TASK_VECTOR, MANY_POSITIONS, FUNCTION_VECTOR,
    KERNEL_ALIGNMENT, PROBE, LORA,
)  # fmt: skip
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})


def choose_methods(methods: str | Iterable[str] | None) -> tuple[Method, ...]:
    """The methods that were asked for; ``None``: all that train nothing.

    Raises:
        TaskError: if there are none, one is unknown, or one stands there twice.
    """
    if methods is None:
        return tuple(method for method in METHODS.values() if not method.by_name)
    expected = f"names of methods, each once, of {', '.join(map(repr, METHODS))}"
    given = [methods] if isinstance(methods, str) else methods
    names = check_items("methods", given, expected, ordered=True, error=TaskError)
    for i, name in enumerate(names):
        check_choice(f"methods[{i}]", name, METHODS, error=TaskError)
    if not names or len(set(names)) < len(names):
        refuse("methods", methods, expected, TaskError)
    return tuple(METHODS[name] for name in names)
