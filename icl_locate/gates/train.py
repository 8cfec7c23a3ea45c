"""Learning gates on a frozen model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from icl_locate.checks.arguments import check_count
from icl_locate.checks.contents import PROGRESS, check_progress, check_table
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.decoding import check_generation
from icl_locate.engine.hooked import run_cell
from icl_locate.engine.scoring import forced_log_probs
from icl_locate.errors import NumericalError, TaskError
from icl_locate.gates.config import GateConfig
from icl_locate.gates.hard_concrete import open_chance, sample_gates, settled_gates
from icl_locate.gates.result import GatesResult
from icl_locate.hooks import hold, scale_heads
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.metrics import Metric, TextScore, judged
from icl_locate.models.fingerprint import fingerprint
from icl_locate.prompts.tokens import Prompts, build_prompts
from icl_locate.records.checkpoint import load_checkpoint, save_checkpoint
from icl_locate.studies.recipe import describe_model, prompts_digest
from icl_locate.studies.setting import choose_metric
from icl_locate.tasks.task import Task

_FORM = "icl_locate.GateCheckpoint/2"
_TENSORS = ("alpha", "best_alpha", "exp_avg", "exp_avg_sq")


@checked(TaskError, metric=anything)
def train_gates(
    model: TransformerBridge,
    task: Task,
    config: GateConfig | None = None,
    *,
    n_shots: int = 5,
    instruction: bool = False,
    n_train: int = 200,
    n_dev: int = 64,
    n_queries: int = 64,
    metric: str | Metric | TextScore | None = None,
    max_new_tokens: int = 50,
    n_curve: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> GatesResult:
    """Learn a gate for each head's output, with the model itself frozen.

    The model is restored at the end, after an exception too; its weights never change.

    Args:
        config: how; ``None`` means the defaults of `GateConfig`.
        n_shots, instruction: what the prompts hold: with context, or (0 and False) without.
        n_train, n_dev: prompts to learn from and to stop by: the first ones of ``task.train``.
        n_queries, metric, max_new_tokens: as in `sweep`, for the scores with heads closed.
        n_curve: how many heads the pruning curve closes; ``None`` means all.
        checkpoint: files to which the state is written after each epoch, and from which training
            goes on if they are there; the result is the same as without an interruption.
        progress: whether to show a progress bar over epochs.

    Raises:
        TaskError: too few examples or queries.
        ResultError: if the checkpoint is of another model, task or configuration.
        NumericalError: if the loss is not a number.
        PromptError, ModelError: as `build_prompts` and `generate` do.
    """
    config = config or GateConfig()
    scored = choose_metric(task, metric, n_queries)
    if n_train + n_dev > len(task.train):
        raise TaskError(
            f"n_train is {n_train}, n_dev {n_dev}: expected 1 or more of each, together at most "
            f"the {len(task.train)} examples of {task.name!r}"
        )
    n_all = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    if n_curve is not None:
        check_count("n_curve", n_curve, least=0, most=n_all, error=TaskError)

    def prompts_of(queries: Any) -> Prompts:
        return build_prompts(
            model,
            queries,
            examples=task.train,
            n_shots=n_shots,
            template=task.template_for(instruction=instruction),
            seed=config.seed,
            choice=task.choice,
        )

    train, dev = prompts_of(task.train[:n_train]), prompts_of(task.train[n_train:][:n_dev])
    test = prompts_of(task.queries(n_queries))
    check_generation(model, test, scored, max_new_tokens)
    recipe = {
        **asdict(config),
        "fingerprint": fingerprint(model),
        "prompts_sha256": prompts_digest([train, dev]),
    }
    shape = int(model.cfg.n_layers), int(model.cfg.n_heads)
    state = _State.load(checkpoint, recipe, shape) if checkpoint is not None else None
    state = state or _State.new(shape, config)
    with (
        frozen(model),
        tqdm(
            total=config.max_epochs,
            initial=state.epoch,
            unit="epoch",
            desc=f"gates, {task.name}",
            disable=not progress,
        ) as bar,
    ):
        while state.epoch < config.max_epochs and state.waited < config.patience:
            _train_epoch(model, train, state, config)
            state.note(_objective(model, dev, state.alpha, config), config)
            if checkpoint is not None:
                state.save(checkpoint, recipe)
            bar.update()
    alpha = state.best_alpha

    def score(heads: frozenset[tuple[int, int]]) -> float:
        act = HeadAblation(heads) if heads else None
        cell = run_cell(
            model, test, act, scored, max_new_tokens=max_new_tokens, batch_size=config.batch_size
        )
        return float(scored.score(cell.statistics.sum(axis=0)))

    found = GatesResult(
        objective=str(config.objective),
        alpha=alpha,
        n_epochs=state.epoch,
        whole=score(frozenset()),
        pruned=0.0,
        curve=torch.zeros(1),
        metric=scored.name,
        provenance={
            **describe_model(model),
            **recipe,
            "task": task.name,
            "template": asdict(task.template_for(instruction=instruction)),
            "choice": task.choice,
            "n_shots": n_shots,
            "instruction": instruction,
            "n_train": n_train,
            "n_dev": n_dev,
            "n_queries": n_queries,
            "queries_sha256": prompts_digest([test]),
            "max_new_tokens": max_new_tokens,
            "signature": scored.signature,
            "dev_objectives": state.history,
        },
    )
    order = found.order[: n_curve if n_curve is not None else alpha.numel()]
    sizes = tqdm(range(1, len(order) + 1), unit="head", desc="closing", disable=not progress)
    curve = [found.whole, *(score(frozenset(order[:size])) for size in sizes)]
    closed = score(found.closed) if found.closed else found.whole
    provenance = {**found.provenance, **judged(scored)}
    return replace(found, curve=torch.tensor(curve), pruned=closed, provenance=provenance)


@contextmanager
def frozen(model: TransformerBridge) -> Iterator[None]:
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


@dataclass
class _State:
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
    def new(cls, shape: tuple[int, int], config: GateConfig) -> "_State":
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

    def save(self, path: str | Path, recipe: dict[str, Any]) -> None:
        rest = {name: getattr(self, name) for name in PROGRESS}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        save_checkpoint(path, _FORM, tensors, rest, recipe)

    @classmethod
    def load(
        cls, path: str | Path, recipe: dict[str, Any], shape: tuple[int, int]
    ) -> "_State | None":
        found = load_checkpoint(path, _FORM, recipe, _TENSORS, PROGRESS)
        if found is None:
            return None
        tensors, rest = found
        for name in _TENSORS:
            check_table(name, tensors[name], shape)
        fields: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
        return cls(**fields, **check_progress(rest))


def _train_epoch(
    model: TransformerBridge, prompts: Prompts, state: _State, config: GateConfig
) -> None:
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
def _objective(
    model: TransformerBridge, prompts: Prompts, alpha: Tensor, config: GateConfig
) -> float:
    """What is minimised, with settled gates."""
    gates = settled_gates(alpha)
    batches = list(prompts.batches(config.batch_size))
    losses = [len(batch) * float(_loss(model, batch, gates, alpha, config)) for batch in batches]
    found = sum(losses) / len(prompts)
    if not math.isfinite(found):
        raise NumericalError(f"the objective on the development prompts is {found}: lower the rate")
    return found


def _loss(
    model: TransformerBridge,
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
