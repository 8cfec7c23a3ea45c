"""Results whose cells are held against a few others on the same items and seeds."""

from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from icl_locate.checks.arguments import check_choice, check_seeds
from icl_locate.checks.contents import check_table, settle
from icl_locate.checks.signatures import checked
from icl_locate.errors import ResultError
from icl_locate.metrics import Metric
from icl_locate.studies.intervals import Spread
from icl_locate.studies.result import Measured, rescored


class Beside(Measured, axes={}, form="", tensors=(), labels=()):
    """A result with cells beside those of its axes; a base of frozen dataclasses.

    Subclasses name them, such as ``beside=("ceiling", "floor")``: fields of scores by seed. Their
    last axis is "seed".

    Attributes:
        seeds: each drew other examples.
        statistics: each item's sufficient statistics, ``[cell, seed, item, stat]``; the cells of
            the other axes in their order, and behind them those beside them.
    """

    _beside: ClassVar[tuple[str, ...]]

    seeds: tuple[int, ...]

    def __init_subclass__(cls, *, beside: tuple[str, ...] | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls._beside = getattr(cls, "_beside", ()) if beside is None else beside

    def _check(self) -> None:
        settle(self, seeds=check_seeds(self.seeds, error=ResultError))
        super()._check()
        for name in self._beside:
            check_table(name, getattr(self, name), (len(self.seeds),))

    def _shape_of_statistics(self) -> tuple[int, ...]:
        return prod(self._shape()[:-1]) + len(self._beside), len(self.seeds)

    def _scored(self, statistics: ndarray) -> list[tuple[ndarray, ndarray]]:
        beside = [getattr(self, name)[None] for name in self._beside]
        scores = torch.cat([self.scores.flatten(0, -2), *beside])
        return [(statistics.sum(axis=-2), scores.numpy())]

    def _rescored(self, statistics: Tensor, metric: Metric) -> dict[str, Any]:
        found = rescored(statistics, metric)
        scores = found["scores"]
        n_cells = self._cells().size
        found["scores"] = scores[:n_cells].reshape(self._shape())
        return {**found, **dict(zip(self._beside, scores[n_cells:], strict=True))}

    def spread(self) -> Spread:
        """How the scores scatter over items and seeds, with the axes of the scores.

        Raises:
            ResultError: if the metric is not known here.
        """
        return super().spread()[self._cells()]

    @checked(ResultError)
    def spread_of(self, name: str) -> Spread:
        """How the scores of a cell beside the others scatter, on the same items and seeds.

        Raises:
            ResultError: if there is none of that name, or the metric is not known here.
        """
        return super().spread()[self._place(name)]

    @checked(ResultError)
    def against(self, name: str) -> Spread:
        """How the differences from a cell beside the others scatter, with the axes of the scores.

        Raises:
            ResultError: if there is none of that name, or the metric is not known here.
        """
        return self._against(name)[self._cells()]

    def _against(self, name: str) -> Spread:
        """The same of all cells in a row."""
        cells, n_cells = super().spread(), self._cells().size
        every = np.eye(len(cells.mean))
        return cells.combine(every[:n_cells] - every[self._place(name)])

    def _cells(self) -> Int[ndarray, "*axes"]:
        """The numbers of the cells along the axes."""
        shape = self._shape()[:-1]
        return np.arange(prod(shape)).reshape(shape)

    def _place(self, name: str) -> int:
        """The number of a cell beside them."""
        known = check_choice("name", name, self._beside, error=ResultError)
        return self._cells().size + self._beside.index(known)
