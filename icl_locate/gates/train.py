"""Learning gates on a frozen model, epoch by epoch, so that another process can go on."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from icl_locate.checks.contents import PROGRESS, check_progress, check_table
from icl_locate.checks.reprs import short_repr
from icl_locate.engine.scoring import forced_log_probs
from icl_locate.errors import NumericalError
from icl_locate.gates.config import GateConfig
from icl_locate.gates.hard_concrete import open_chance, sample_gates, settled_gates
from icl_locate.hooks import hold, scale_heads
from icl_locate.models.bridge import Model
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.checkpoint import load_checkpoint, save_checkpoint

_FORM = "icl_locate.GateCheckpoint/2"
_TENSORS = ("alpha", "best_alpha", "exp_avg", "exp_avg_sq")


def learn(
    model: Model,
    train: Prompts,
    dev: Prompts,
    config: GateConfig,
    *,
    checkpoint: str | Path | None,
    recipe: Mapping[str, Any],
    progress: bool,
) -> "GateState":
    """Train until the objective on ``dev`` no longer falls, going on from a checkpoint if there is.

    Args:
        recipe: what tells this training from any other.
    """
    shape = int(model.cfg.n_layers), int(model.cfg.n_heads)
    state = GateState.load(checkpoint, recipe, shape) if checkpoint is not None else None
    state = state or GateState.new(shape, config)
    with (
        frozen(model),
        tqdm(
            total=config.max_epochs,
            initial=state.epoch,
            unit="epoch",
            desc="gates",
            disable=not progress,
        ) as bar,
    ):
        while state.epoch < config.max_epochs and state.waited < config.patience:
            _train_epoch(model, train, state, config)
            state.note(_objective(model, dev, state.alpha, config), config)
            if checkpoint is not None:
                state.save(checkpoint, recipe)
            bar.update()
    return state


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """No weight of the model takes gradients, inside a ``with`` that holds it."""
    with hold(model):
        taking = [weights for weights in model.original_model.parameters() if weights.requires_grad]
        try:
            for weights in taking:
                weights.requires_grad_(False)
            yield
        finally:
            for weights in taking:
                weights.requires_grad_(True)


@short_repr("alpha", "epoch", "step", "waited", "best")
@dataclass
class GateState:
    """Where training stands: all that another process needs to go on."""

    alpha: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    best_alpha: Tensor
    best: float
    epoch: int
    step: int
    waited: int
    history: list[float]

    @classmethod
    def new(cls, shape: tuple[int, int], config: GateConfig) -> "GateState":
        """Before the first epoch."""
        generator = torch.Generator().manual_seed(config.seed)
        alpha = config.start + 0.1 * torch.rand(shape, generator=generator)
        nothing = torch.zeros(shape)
        return cls(alpha, nothing, nothing.clone(), alpha.clone(), float("inf"), 0, 0, 0, [])

    def note(self, objective: float, config: GateConfig) -> None:
        """Count an epoch, and keep its gates if they are the best."""
        self.epoch += 1
        self.history.append(objective)
        self.waited = 0 if objective < self.best - config.threshold else self.waited + 1
        if objective < self.best:
            self.best, self.best_alpha = objective, self.alpha.clone()

    def save(self, path: str | Path, recipe: Mapping[str, Any]) -> None:
        """Write a checkpoint, in place of the last one at once."""
        rest = {name: getattr(self, name) for name in PROGRESS}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        save_checkpoint(path, _FORM, tensors, rest, recipe)

    @classmethod
    def load(
        cls, path: str | Path, recipe: Mapping[str, Any], shape: tuple[int, int]
    ) -> "GateState | None":
        """Where an earlier process stopped; ``None`` if there is no checkpoint."""
        found = load_checkpoint(path, _FORM, recipe, _TENSORS, PROGRESS)
        if found is None:
            return None
        tensors, rest = found
        for name in _TENSORS:
            check_table(name, tensors[name], shape)
        fields: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        return cls(**fields, **check_progress(rest))


def _train_epoch(model: Model, prompts: Prompts, state: GateState, config: GateConfig) -> None:
    """One pass over the prompts, in an order and with noise that depend on seed and epoch alone."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.epoch)
    alpha = state.alpha.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([alpha], lr=config.learning_rate)
    optimizer.state[alpha] = {
        "step": torch.tensor(float(state.step)),
        "exp_avg": state.exp_avg,
        "exp_avg_sq": state.exp_avg_sq,
    }
    batches = list(prompts.batches(config.batch_size))
    for place in torch.randperm(len(batches), generator=generator).tolist():
        uniform = torch.rand(alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
        gates = sample_gates(alpha, uniform)
        loss = _loss(model, batches[place], gates, alpha, config)
        if not loss.isfinite():
            raise NumericalError(
                f"the loss is {float(loss.detach())} in epoch {state.epoch}: lower the rate"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state.step += 1
    state.alpha = alpha.detach()
    kept = optimizer.state[alpha]
    state.exp_avg, state.exp_avg_sq = kept["exp_avg"], kept["exp_avg_sq"]


@torch.no_grad()
def _objective(model: Model, prompts: Prompts, alpha: Tensor, config: GateConfig) -> float:
    """What is minimised, with settled gates."""
    gates = settled_gates(alpha)
    batches = list(prompts.batches(config.batch_size))
    losses = [len(batch) * float(_loss(model, batch, gates, alpha, config)) for batch in batches]
    found = sum(losses) / len(prompts)
    if not math.isfinite(found):
        raise NumericalError(f"the objective on the development prompts is {found}: lower the rate")
    return found


def _loss(
    model: Model,
    prompts: Prompts,
    gates: Float[Tensor, "layer head"],
    alpha: Float[Tensor, "layer head"],
    config: GateConfig,
) -> Float[Tensor, ""]:
    with scale_heads(model, gates):
        log_probs, is_target = forced_log_probs(model, prompts)
    loss = -log_probs.masked_fill(~is_target, 0.0).sum() / is_target.sum()
    n_open = open_chance(alpha).sum().to(loss.device)
    if config.objective == "prune":
        return loss + config.penalty * n_open
    return -loss + config.penalty * (alpha.numel() - n_open)
