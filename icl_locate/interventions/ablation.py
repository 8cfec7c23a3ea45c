"""Which heads are ablated, how, and what stands in for their outputs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_count, check_type
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import checked
from icl_locate.errors import MaskError, ResultError
from icl_locate.interventions.base import Intervention
from icl_locate.interventions.layers import as_pairs, check_heads
from icl_locate.records.saved import Saved

Method = Literal["zero", "mean_z", "mean_input", "resample"]
METHODS: tuple[str, ...] = ("zero", "mean_z", "mean_input", "resample")


@short_repr("model", "mean_z", "samples")
@dataclass(frozen=True)
class HeadReference(
    Saved,
    form="icl_locate.HeadReference/2",
    former="icl_locate.HeadReference/1",
    tensors=("mean_z", "mean_input_z", "samples", "sample_lengths"),
    labels=("provenance",),
):
    """What the heads of a model give out on a reference corpus, position by position.

    Position 0 is a text's first token. The last row of the two means, number ``n_positions``, is
    the mean over all of them: it stands in beyond the corpus's longest text.

    Attributes:
        mean_z: each head's mean output (before the output projection).
        mean_input_z: what each head gives out if its queries, keys and values are computed from the
            mean of the attention's input at each position.
        samples: the heads' outputs on some single texts.
        sample_lengths: how many positions of each sample are real.
        provenance: model, corpus and sizes.
    """

    mean_z: Float[Tensor, "layer row head d_head"]
    mean_input_z: Float[Tensor, "layer row head d_head"]
    samples: Float[Tensor, "layer sample pos head d_head"]
    sample_lengths: Int[Tensor, "sample"]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(self, provenance=check_recipe(self.provenance))
        check_table("mean_z", self.mean_z, (None,) * 4)
        n_layers, n_rows, *heads = self.mean_z.shape
        check_table("mean_input_z", self.mean_input_z, (n_layers, None, *heads))
        check_table("sample_lengths", self.sample_lengths, (None,), whole=True)
        shape = (n_layers, len(self.sample_lengths), None, *heads)
        check_table("samples", self.samples, shape)
        lengths = self.sample_lengths
        if n_rows < 2 or ((lengths < 1) | (lengths > self.samples.shape[2])).any():
            raise ResultError(
                f"sample_lengths are {lengths.tolist()} of {self.samples.shape[2]} positions, and "
                f"the means have {n_rows} rows: expected 1 or more positions"
            )

    @property
    def n_positions(self) -> int:
        """The length of the corpus's longest text."""
        return self.mean_z.shape[1] - 1


@short_repr("heads", "method", "reference", "seed")
@dataclass(frozen=True, eq=False)
class HeadAblation(Intervention):
    """Replace the outputs of some heads, at every position and through generation.

    Ablations compose with ``|``, as all interventions do; what stands in for a head must be the
    same in all of them.

    Attributes:
        heads: the (layer, head) pairs.
        method: "zero"; "mean_z", the reference's mean output at the same position; "mean_input",
            what the head makes of the reference's mean input (as the code of Crosbie and Shutova
            2024 does); "resample", the output at the same position of one text of the reference,
            drawn for each prompt.
        reference: what `head_reference` gave; every method but "zero" asks for one.
        seed: of the draws of "resample"; a prompt's draw depends on it and the prompt alone.
    """

    heads: Collection[Sequence[int]]
    method: Method | str = "zero"
    reference: HeadReference | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", as_pairs(self.heads))
        check_choice("method", self.method, METHODS, error=MaskError)
        object.__setattr__(self, "seed", check_count("seed", self.seed, least=0, error=MaskError))
        if self.reference is not None:
            hint = "head_reference(model, ...) makes one"
            check_type("reference", self.reference, HeadReference, hint=hint, error=MaskError)
        if self.method == "zero":
            return
        if self.reference is None:
            raise MaskError(
                f"the method {self.method!r} takes its values from a reference: give "
                "reference=head_reference(model, ...), or use 'zero'"
            )
        if self.method == "resample" and not len(self.reference.sample_lengths):
            raise MaskError("the reference holds no samples: make it with n_samples of 1 or more")

    @checked(MaskError)
    def by_layer(self, n_layers: int, n_heads: int) -> dict[int, list[int]]:
        """The heads of each layer that has any.

        Raises:
            MaskError: if the model has no such head.
        """
        pairs = as_pairs(self.heads)
        check_heads(pairs, n_layers, n_heads)
        found: dict[int, list[int]] = {}
        for layer, head in sorted(pairs):
            found.setdefault(layer, []).append(head)
        return found
