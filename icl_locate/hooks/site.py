"""Where interventions act: a model, and the prompts that it is run on."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from jaxtyping import Int8
from torch import Tensor

from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError
from icl_locate.hooks.holding import NamedHook, owned
from icl_locate.hooks.positions import RowCount
from icl_locate.interventions.hidden import extend_segments
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts


@short_repr("prompts")
@dataclass(frozen=True)
class Site:
    """What the application of an intervention works with.

    Attributes:
        model: the model, held by this thread.
        prompts: what it is run on; ``None`` where nobody said, and there is no padding.
        rows: while the model runs, where the running call's rows stand: ``rows.start`` and
            ``rows.end`` in the padded texts, ``rows.places()`` in the texts themselves.
    """

    model: Model
    prompts: Prompts | None
    rows: RowCount

    @checked(MaskError)
    @contextmanager
    def hooked(self, hooks: Iterable[NamedHook]) -> Iterator[None]:
        """A context that puts hooks on the model: pairs of a point and ``f(value, hook)``.

        Points are named as ``model.hook_dict`` does; what ``f`` returns takes the value's place.

        Raises:
            MaskError: if the model has no such point.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self.model.hooks(fwd_hooks=owned(hooks)))
            except KeyError as error:
                raise MaskError(
                    f"hooks name a point that this {self.model.cfg.architecture} lacks: "
                    f"{error.args[0]} model.hook_dict holds those that there are"
                ) from error
            yield

    def segments(self) -> Int8[Tensor, "batch row_pos"]:
        """The segments of the running call's rows; what follows the prompts is GENERATED.

        Raises:
            MaskError: if there are no prompts; inside a `drop_context`, which shows some layers
                only some of the rows.
        """
        if self.prompts is None:
            raise MaskError("no prompts were given, so rows have no segments: give prompts=prompts")
        self.rows.require_rows()
        segments = self.prompts.segments.to(self.model.cfg.device)
        return extend_segments(segments, self.rows.end)[:, self.rows.start :]
