"""Whether texts that the model finds likely are the ones that it encodes well."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import atanh, sqrt, tanh
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import norm
from torch import Tensor

from icl_locate.checks.arguments import check_counts, check_seeds
from icl_locate.checks.contents import check_recipe, check_table, settle
from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import anything, checked
from icl_locate.circuit.alignment import Alignment
from icl_locate.circuit.inputs import DEFAULT_SHOTS, Compat
from icl_locate.engine.scoring import score_targets
from icl_locate.errors import ResultError, TaskError
from icl_locate.models.bridge import Model
from icl_locate.prompts.template import Choice, Example, PromptTemplate
from icl_locate.prompts.tokens import Prompts, build_prompts
from icl_locate.records.saved import Saved
from icl_locate.studies.ranks import spearman
from icl_locate.tasks.task import Task

_BARE = PromptTemplate(None, "", "", "")

if TYPE_CHECKING:
    import pandas as pd


@short_repr("layers", "correlations")
@dataclass(frozen=True)
class PerplexityAlignment(
    Saved,
    form="icl_locate.PerplexityAlignment/1",
    tensors=("log_perplexities", "alignments"),
    labels=("layers", "seeds", "provenance"),
):
    """Each query's perplexity, and how its states are aligned at each layer.

    Attributes:
        layers: 0 is what enters the model's first block.
        seeds: each drew other examples.
        log_perplexities: of each query's text alone: the mean negative log-likelihood (natural) of
            its tokens.
        alignments: its kernel alignment.
        provenance: model, task, prompts' hash, versions, options.
    """

    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    log_perplexities: Float[Tensor, "item"]
    alignments: Float[Tensor, "layer seed item"]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        settle(
            self,
            layers=check_counts("layers", self.layers, least=0, ascending=True, error=ResultError),
            seeds=check_seeds(self.seeds, error=ResultError),
            provenance=check_recipe(self.provenance),
        )
        check_table("log_perplexities", self.log_perplexities, (None,))
        shape = len(self.layers), len(self.seeds), len(self.log_perplexities)
        check_table("alignments", self.alignments, shape)

    @property
    def correlations(self) -> Float[Tensor, "layer"]:
        """Spearman's, at each layer, of perplexities with alignments, mean over seeds.

        In [-1, 1]; NaN where all alignments are the same.
        """
        means = self.alignments.mean(dim=1).numpy()
        found = [spearman(self.log_perplexities.numpy(), row) for row in means]
        return torch.tensor(found, dtype=torch.float64)

    @checked(ResultError)
    def to_dataframe(self, confidence: float = 0.95) -> "pd.DataFrame":
        """One row a layer: layer, correlation, low, high.

        Raises:
            ResultError: if the confidence is out of range.
        """
        import pandas as pd

        low, high = self.interval(confidence)
        columns = {"layer": self.layers, "correlation": self.correlations.numpy()}
        return pd.DataFrame({**columns, "low": low, "high": high})

    @checked(ResultError)
    def interval(self, confidence: float = 0.95) -> Float[ndarray, "bound layer"]:
        """Of the correlations: row 0 low, row 1 high; NaN of three items or fewer.

        By Fisher's transformation with the variance of Bonett and Wright (2000). It takes items to
        be independent of each other, which those that share neighbours are not quite.

        Raises:
            ResultError: if the confidence is out of range.
        """
        n_items = len(self.log_perplexities)
        wide = float(norm.ppf((1 + confidence) / 2))
        bounds = [_bounds(float(r), n_items, wide) for r in self.correlations]
        return np.array(bounds).T


def _bounds(r: float, n_items: int, wide: float) -> tuple[float, float]:
    if n_items <= 3 or np.isnan(r):
        return float("nan"), float("nan")
    if abs(r) >= 1:
        return r, r
    away = wide * sqrt((1 + r**2 / 2) / (n_items - 3))
    return tanh(atanh(r) - away), tanh(atanh(r) + away)


@checked(TaskError, task=anything, features=anything)
def perplexity_alignment(
    model: Model,
    task: Task | str | Path,
    *,
    features: Any = "labels",
    at: str = "s",
    k: int | None = None,
    n_shots: int = DEFAULT_SHOTS,
    n_queries: int | None = None,
    seeds: int | Iterable[int] = 0,
    choice: Choice | str | None = None,
    prepend_bos: bool | None = None,
    instruction: bool = False,
    compat: Compat | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> PerplexityAlignment:
    """Each query's perplexity beside its kernel alignment, at each layer.

    The perplexity is that of the query's text alone, behind BOS where the model's prompts have one;
    without BOS the first token, which nothing predicts, does not count.

    Args:
        features, at, k, n_shots, n_queries, seeds, choice, prepend_bos, instruction: as in
            `kernel_alignment`; so are ``compat``, ``batch_size`` and ``progress``.

    Raises:
        TaskError: a text of a single token without BOS; else as `kernel_alignment` says.
        PromptError, ModelError, NumericalError: as there.

    Source: Cho et al. (ICLR 2025), section 3.1, figure 2 (right).
    """
    plan = Alignment.of(
        model, task, features, at, k, None, compat, n_shots=n_shots, n_queries=n_queries,
        seeds=seeds, choice=choice, prepend_bos=prepend_bos, instruction=instruction,
    )  # fmt: skip
    texts = [query.source for query in plan.setting.setting.queries]
    alone = text_prompts(model, texts, prepend_bos)
    measured = plan.run(model, batch_size, progress=progress)
    return PerplexityAlignment(
        layers=measured.layers,
        seeds=measured.seeds,
        log_perplexities=log_perplexities(model, alone, batch_size),
        alignments=measured.statistics[0, ..., 0],
        provenance={**measured.provenance, "metric": "perplexity_alignment"},
    )


def text_prompts(model: Model, texts: Sequence[str], prepend_bos: bool | None) -> Prompts:
    """Each text's first token, BOS where there is one, with the others as its target.

    Raises:
        TaskError: of a text of a single token without BOS nothing is predicted.
        PromptError: texts that do not fit the model.
    """
    queries = [Example(text, next(iter(text.split()), text)) for text in texts]
    whole = build_prompts(model, queries, n_shots=0, template=_BARE, prepend_bos=prepend_bos)
    rows = [
        row[real].tolist() for row, real in zip(whole.tokens, whole.attention_mask, strict=True)
    ]
    short = next((text for text, row in zip(texts, rows, strict=True) if len(row) < 2), None)
    if short is not None:
        raise TaskError(
            f"the query {short!r} is a single token, which nothing stands in front of: its "
            "perplexity is not known; use prepend_bos=True, or longer texts"
        )
    return Prompts.from_tokens(
        [row[:1] for row in rows], [["query"]] * len(rows), targets=[row[1:] for row in rows]
    )


def log_perplexities(model: Model, prompts: Prompts, batch_size: int) -> Float[Tensor, "item"]:
    """The mean negative log-likelihood of the tokens of each target."""
    n_tokens = torch.tensor([len(tokens) for tokens in prompts.target_tokens])
    return -score_targets(model, prompts, batch_size=batch_size).double() / n_tokens
