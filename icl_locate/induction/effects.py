"""What each head is worth: the log-probability lost when it alone is ablated."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate._types import Segment
from icl_locate.checks.arguments import check_choice
from icl_locate.checks.contents import check_pairs, check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.choice import Engine, choose_engine
from icl_locate.errors import PromptError, ResultError
from icl_locate.induction.random_tokens import TokenIds
from icl_locate.induction.sequences import Sequences, TokenRows
from icl_locate.interventions.ablation import METHODS, HeadAblation, HeadReference, Method
from icl_locate.interventions.layers import as_pairs, check_heads
from icl_locate.interventions.masks import NOTHING
from icl_locate.metrics import LOG_PROB
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import hold_weights
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.saved import Saved
from icl_locate.records.store import Store
from icl_locate.studies.intervals import Spread
from icl_locate.studies.place import Executor, using
from icl_locate.studies.recipe import describe_model, prompts_digest
from icl_locate.studies.schedule import answer
from icl_locate.studies.units import Request

if TYPE_CHECKING:
    import pandas as pd


@short_repr("heads", "method", "clean", "losses")
@dataclass(frozen=True)
class HeadEffects(
    Saved,
    form="icl_locate.HeadEffects/2",
    tensors=("clean", "losses"),
    labels=("heads", "method", "provenance"),
):
    """What single heads are worth on some prompts.

    Attributes:
        heads: the (layer, head) pairs.
        method: how each was ablated.
        clean: each target's log-probability in the whole model (natural, summed over tokens).
        losses: how much of it is lost with each head ablated; below 0 if that helps.
        provenance: model, fingerprint and versions as every result has them; ``n_prompts``,
            ``prompts_sha256``, ``template``, ``method``, ``reference`` (its own provenance),
            ``seed`` and ``engine``. The prompts are given, and nothing is generated: no task,
            metric or shots.
    """

    heads: tuple[tuple[int, int], ...]
    method: str
    clean: Float[Tensor, "item"]
    losses: Float[Tensor, "head item"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(
            self,
            heads=check_pairs("heads", self.heads),
            method=check_choice("method", self.method, METHODS, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        check_table("clean", self.clean, (None,))
        check_table("losses", self.losses, (len(self.heads), len(self.clean)))

    @property
    def mean(self) -> Float[Tensor, "head"]:
        """The mean loss over prompts."""
        return self.losses.mean(dim=1)

    @checked(ResultError)
    def interval(self, confidence: float = 0.95) -> Float[Tensor, "bound head"]:
        """A confidence interval of each mean over prompts, Student's; row 0 low, row 1 high.

        NaN for a single prompt.

        Raises:
            ResultError: if the confidence is out of range.
        """
        spread = Spread.of_means(self.losses[:, None].double().numpy())
        return torch.from_numpy(spread.interval(confidence))

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a head: layer, head, loss, low, high."""
        import pandas as pd

        low, high = self.interval(confidence).numpy()
        layers, heads = zip(*self.heads, strict=True)
        columns = {"layer": layers, "head": heads, "loss": self.mean.numpy()}
        return pd.DataFrame(columns | {"loss_low": low, "loss_high": high})


@checked(PromptError, heads=anything, method=anything)
def head_effects(
    model: Model,
    prompts: Prompts,
    heads: Collection[Sequence[int]] | None = None,
    *,
    method: Method | str = "zero",
    reference: HeadReference | None = None,
    seed: int = 0,
    engine: Engine | str = "auto",
    batch_size: int = 32,
    progress: bool = False,
    store: str | Path | Store | None = None,
    executor: Executor | None = None,
) -> HeadEffects:
    """Ablate heads one at a time, and measure what the targets' log-probabilities lose.

    A high score says what a head attends to; this says whether the model needs it.

    Args:
        prompts: of a task, or `repeated_prompts` of random tokens.
        heads: the (layer, head) pairs; ``None`` means all.
        method, reference, seed: as `HeadAblation` says.
        engine: as in `sweep`: all heads go up the layers in one pass, each from its own layer on.
        batch_size: prompts that run at once, at most.
        progress, store, executor: as in `sweep`.

    Raises:
        MaskError: heads that the model does not have; a method without its reference.
        PromptError, NumericalError: as `score_targets` does.
        ModelError: if the shared engine was asked for, and is not exact on this model.
    """
    chosen = _choose(model, heads)
    runs = [HeadAblation({head}, method, reference, seed) for head in chosen]
    engine = choose_engine(model, engine, runs)
    with (
        using(store, executor, study="head_effects"),
        hold_weights(model),
        tqdm(total=len(chosen) + 1, unit="run", disable=not progress) as bar,
    ):
        (answers,) = answer(
            model, [Request(prompts, [NOTHING, *runs])], LOG_PROB.readout, engine=engine,
            max_new_tokens=1, batch_size=batch_size, on_progress=bar.update,
        )  # fmt: skip
    clean, *without = (torch.tensor(row) for row in answers)
    return HeadEffects(
        heads=chosen,
        method=str(method),
        clean=clean,
        losses=torch.stack([clean - one for one in without]),
        provenance={
            **describe_model(model),
            "n_prompts": len(prompts),
            "template": asdict(prompts.template),
            "prompts_sha256": prompts_digest([prompts]),
            "method": str(method),
            "reference": None if reference is None else dict(reference.provenance),
            "seed": seed,
            "engine": engine,
        },
    )


def _choose(model: Model, heads: Collection[Sequence[int]] | None) -> tuple[tuple[int, int], ...]:
    """The heads that are meant.

    Raises:
        MaskError, PromptError: if the model does not have them, or there are none.
    """
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    everywhere = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    chosen = tuple(everywhere if heads is None else sorted(as_pairs(heads)))
    check_heads(chosen, n_layers, n_heads)
    if not chosen:
        raise PromptError("no heads were given: expected at least one, or None for all")
    return chosen


@checked(PromptError)
def repeated_prompts(
    model: Model,
    *,
    length: int | None = None,
    n_sequences: int = 8,
    seed: int = 0,
    tokens: TokenIds | None = None,
    sequences: TokenRows | None = None,
) -> Prompts:
    """Prompts that only repetition can answer: random tokens, then the same again as the target.

    A prompt is BOS, ``length`` distinct random tokens (an example) and the first of them once more
    (the query); its target is the rest of the second copy.

    Args:
        length: tokens of a copy, 2 or more; ``None`` means 50, or as many as context and vocabulary
            hold.
        n_sequences, seed, tokens, sequences: as `head_scores` says.

    Raises:
        PromptError: if the sizes are out of range, or exceed the model's context.
    """
    chosen = Sequences.fit(
        model, length, n_lengths=1, n_copies=2, n_sequences=n_sequences, seed=seed, tokens=tokens,
        sequences=sequences,
    )  # fmt: skip
    length, n_sequences = chosen.lengths[0], chosen.n_sequences
    shown = chosen.repeated(length, 1)
    n_opening = shown.shape[1] - length
    spans = [
        (0, n_opening, Segment.BOS),
        (n_opening, n_opening + length, Segment.EXAMPLES),
        (n_opening + length, n_opening + length + 1, Segment.QUERY),
    ]
    names = [f"random tokens {seed}/{i}" for i in range(n_sequences)]
    return Prompts.from_tokens(
        torch.cat([shown, shown[:, n_opening : n_opening + 1]], dim=1),
        [spans if n_opening else spans[1:]] * n_sequences,
        targets=shown[:, n_opening + 1 :].tolist(),
        texts=names,
        sources=names,
        tokenizer=model.tokenizer,
    )
