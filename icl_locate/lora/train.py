"""Training one adapter: deterministic by seed, and resumable after each epoch."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icl_locate.checks.contents import PROGRESS, check_progress
from icl_locate.errors import NumericalError, ResultError
from icl_locate.lora.config import LoraConfig
from icl_locate.lora.data import IGNORED, Batch, pad
from icl_locate.records.checkpoint import load_checkpoint, save_checkpoint

_FORM = "icl_locate.LoraCheckpoint/2"
_KINDS = ("now", "best", "exp_avg", "exp_avg_sq")
Rows = list[tuple[list[int], list[int]]]


@dataclass
class Training:
    """Where the training of one adapter stands."""

    epoch: int = 0
    step: int = 0
    waited: int = 0
    best: float = float("inf")
    history: list[float] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def is_done(self, config: LoraConfig) -> bool:
        """Whether it has ended."""
        return self.epoch >= config.max_epochs or self.waited >= config.patience


def train_adapter(
    model: nn.Module,
    train: Rows,
    dev: Rows,
    pad_token: int,
    config: LoraConfig,
    *,
    seed: int,
    checkpoint: Path,
    identity: str,
) -> Training:
    """Train the weights that take gradients; they are left at those of the best epoch.

    Args:
        identity: tells the model and the pairs; a checkpoint of another is refused.

    Raises:
        ResultError: if the checkpoint is another training's.
        NumericalError: if the loss is not a number.
    """
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.learning_rate)
    shapes = {name: list(w.shape) for name, w in weights.items()}
    recipe = asdict(config) | {"seed": seed, "model and pairs": identity, "shapes": shapes}
    state = _load(checkpoint, recipe, weights, optimizer) or Training()
    while not state.is_done(config):
        _train_epoch(model, train, pad_token, config, optimizer, state, seed)
        _note(state, dev_loss(model, dev, pad_token, config), weights, config)
        _save(checkpoint, recipe, state, weights, optimizer)
    with torch.no_grad():
        for name, best in state.best_weights.items():
            weights[name].copy_(best)
    model.eval()
    return state


def _train_epoch(
    model: nn.Module,
    train: Rows,
    pad_token: int,
    config: LoraConfig,
    optimizer: torch.optim.Optimizer,
    state: Training,
    seed: int,
) -> None:
    """One pass over the pairs, in an order and with dropout that depend on seed and epoch alone."""
    device, number = next(model.parameters()).device, seed * 1_000_003 + state.epoch
    order = torch.Generator().manual_seed(number)
    places = torch.randperm(len(train), generator=order).tolist()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # dropout draws from the global generators
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        model.train()
        for start in range(0, len(places), config.batch_size):
            rows = [train[place] for place in places[start : start + config.batch_size]]
            loss = batch_loss(model, pad(rows, pad_token))
            if not loss.isfinite():
                raise NumericalError(
                    f"the loss is {float(loss.detach())} in epoch {state.epoch}: lower "
                    "learning_rate, or load the model in float32"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            state.step += 1


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean loss of the labels' tokens."""
    device = next(model.parameters()).device
    logits = model(
        input_ids=batch.tokens.to(device), attention_mask=batch.real.long().to(device)
    ).logits
    labels = batch.labels[:, 1:].to(device)
    return nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def dev_loss(model: nn.Module, rows: Rows, pad_token: int, config: LoraConfig) -> float:
    """The mean loss a token over all rows, without dropout."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows), config.batch_size):
        batch = pad(rows[start : start + config.batch_size], pad_token)
        n_asked = int((batch.labels[:, 1:] != IGNORED).sum())
        total, count = total + n_asked * float(batch_loss(model, batch)), count + n_asked
    if not math.isfinite(total):
        raise NumericalError(f"the loss on the development pairs is {total}: lower learning_rate")
    return total / count


def _note(
    state: Training, loss: float, weights: dict[str, nn.Parameter], config: LoraConfig
) -> None:
    state.epoch += 1
    state.history.append(loss)
    state.waited = 0 if loss < state.best - config.threshold else state.waited + 1
    if loss < state.best:
        state.best = loss
        state.best_weights = {name: w.detach().clone() for name, w in weights.items()}


def _save(
    path: Path,
    recipe: dict[str, Any],
    state: Training,
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        kept = optimizer.state[weight]
        tensors |= {
            f"now/{name}": weight.detach(),
            f"best/{name}": state.best_weights[name],
            f"exp_avg/{name}": kept["exp_avg"],
            f"exp_avg_sq/{name}": kept["exp_avg_sq"],
        }
    rest = {name: getattr(state, name) for name in PROGRESS}
    save_checkpoint(path, _FORM, tensors, rest, recipe)


def _load(
    path: Path,
    recipe: dict[str, Any],
    weights: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Training | None:
    names = {f"{kind}/{name}": w for kind in _KINDS for name, w in weights.items()}
    found = load_checkpoint(path, _FORM, recipe, names, PROGRESS)
    if found is None:
        return None
    tensors, rest = found
    for name, weight in names.items():
        if tensors[name].shape != weight.shape or tensors[name].dtype != weight.dtype:
            raise ResultError(
                f"the checkpoint {path} is damaged: {name} is {tensors[name].dtype} of "
                f"{tuple(tensors[name].shape)}, expected {weight.dtype} of {tuple(weight.shape)}"
            )
    state = Training(**check_progress(rest))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"now/{name}"])
            state.best_weights[name] = tensors[f"best/{name}"].to(weight.device)
            optimizer.state[weight] = {
                "step": torch.tensor(float(state.step)),
                "exp_avg": tensors[f"exp_avg/{name}"].to(weight.device),
                "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(weight.device),
            }
    return state
