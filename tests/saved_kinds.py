"""One small value of every kind that a file can hold, made by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import icl_locate as icl
from icl_locate import circuit, vectors
from icl_locate.agreement import Agreement, MethodCurve
from icl_locate.context_heads.result import HeadSweepResult
from icl_locate.formation import FormationRun, FormationStudy
from icl_locate.gates import GatesResult
from icl_locate.induction import AblationResult, Arm, HeadEffects, HeadReference, HeadScores
from icl_locate.interventions.heads import HeadSet
from icl_locate.lora import LoraResult
from icl_locate.records.checkpoint import load_checkpoint, save_checkpoint
from icl_locate.savings import MeasuredSavings
from icl_locate.vectors import Override, Patched, TaskVectors

RECIPE = {"model": "m", "task": "t", "fingerprint": "f", "scope": "from"}


def means(*shape: int) -> torch.Tensor:
    """Statistics of a mean: a number and 1 for each item."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([values, torch.ones_like(values)], dim=-1)


def sweep_result(**changes: Any) -> icl.SweepResult:
    table = means(2, 3, 2, 4)
    parts: dict[str, Any] = {
        "conditions": ("a", "b"),
        "layers": (0, 1, 2),
        "seeds": (0, 5),
        "statistics": table,
        "item_scores": table[..., 0],
        "scores": table[..., 0].mean(-1),
        "texts": [[[[f"été {i}" for i in range(4)] for _ in range(2)] for _ in range(3)]] * 2,
        "sources": ("s",) * 4,
        "targets": ("t",) * 4,
        "metric": "exact_match",
        "provenance": RECIPE,
    }
    return icl.SweepResult(**parts | changes)


def ablation_result() -> AblationResult:
    arms = (
        Arm("none", "full", 0.0, 0, ()),
        Arm("zero", "induction", 0.5, 0, ((0, 1),)),
        Arm("zero", "random", 0.5, 0, ((0, 0),)),
    )
    table = means(3, 1, 2, 4)
    return AblationResult(arms, (5,), (0, 1), table, table[..., 0].mean(-1), "exact_match", RECIPE)


def head_sweep_result() -> HeadSweepResult:
    table = means(6, 2, 4)
    scores = table[..., 0].mean(-1)
    return HeadSweepResult(
        "kept", "examples", (0, 1), table, scores[:4].view(2, 2, 2), scores[4], scores[5],
        "log_prob", RECIPE,
    )  # fmt: skip


def injected(kind: Any, places: tuple[Any, ...]) -> Any:
    """Two arms at two places, two seeds, four items."""
    table = means(6, 2, 4)
    scores = table[..., 0].mean(-1)
    return kind(
        ("vector", "random"), places, (0, 1), table, scores[:4].view(2, 2, 2), scores[4],
        scores[5], "log_prob", RECIPE,
    )  # fmt: skip


def indirect_effects() -> vectors.HeadIndirectEffects:
    table = means(6, 1, 4)
    scores = table[..., 0].mean(-1)
    return vectors.HeadIndirectEffects(
        (0,), table, scores[:4].view(2, 2, 1), scores[4], scores[5], torch.rand(2, 2, 3),
        "first_token_prob", RECIPE,
    )  # fmt: skip


def lora_result() -> LoraResult:
    table = means(2, 2, 4)
    return LoraResult(
        (0, 1), (0, 1), table, table[..., 0].mean(-1), torch.rand(2, 2),
        torch.ones(2, 2, dtype=torch.long), 0.5, "exact_match", RECIPE,
    )  # fmt: skip


def task_vectors() -> TaskVectors:
    table, controls, test = means(4, 1, 3), means(1, 2, 1, 3), means(4, 1, 2)
    scores = table[..., 0].mean(-1)
    return TaskVectors(
        (0, 1), (3,), ("random",), table, scores[:2], scores[2], scores[3], torch.rand(1, 2, 4),
        controls, controls[..., 0].mean(-1), test, test[..., 0].mean(-1), "log_prob", RECIPE,
    )  # fmt: skip


def override_result() -> Override:
    table = means(6, 1, 3)
    scores = table[..., 0].mean(-1)
    return Override(
        (0, 1), (3,), table, scores[:4].view(2, 2, 1), scores[4], scores[5], "log_prob", RECIPE
    )


def patched_result() -> Patched:
    table = means(6, 1, 3)
    scores = table[..., 0].mean(-1)
    return Patched(
        ("last", "all"), (0, 1), (3,), table, scores[:4].view(2, 2, 1), scores[4], scores[5],
        "log_prob", RECIPE,
    )  # fmt: skip


def layer_measure() -> circuit.LayerMeasure:
    table = means(2, 3, 2, 4)
    return circuit.LayerMeasure(
        ("measured", "control"), (0, 1, 2), (0, 1), table, table[..., 0].mean(-1),
        torch.full((2, 3), 0.25), "kernel_alignment", {**RECIPE, "metric_is_mean": True},
    )  # fmt: skip


def perplexity_alignment() -> circuit.PerplexityAlignment:
    table = means(2, 2, 8)[..., 0]
    return circuit.PerplexityAlignment((0, 1), (0, 1), table[0, 0] + 1, table, RECIPE)


def forerunner_similarity() -> circuit.ForerunnerSimilarity:
    table = means(2, 2, 2, 2, 4)
    return circuit.ForerunnerSimilarity(
        ("same query", "other queries"), (0, 2), 3, (0, 1), table, table[..., 0].mean(-1),
        "forerunner_similarity", {**RECIPE, "metric_is_mean": True},
    )  # fmt: skip


def head_measure() -> circuit.HeadMeasure:
    table = means(2, 2, 3, 2, 4)
    return circuit.HeadMeasure(
        ("measured", "control"), (0, 1), (0, 1, 2), (0, 1), table, table[..., 0].mean(-1),
        torch.full((2,), 0.25), "forerunner_heads", {**RECIPE, "metric_is_mean": True},
    )  # fmt: skip


def disconnections() -> circuit.Disconnections:
    table = means(9, 2, 4)
    scores = table[..., 0].mean(-1)
    return circuit.Disconnections(
        ("x->s", "s->s"), ("cut", "random 0"), ((0, 1), (1, 2)), (0, 1), table,
        scores[:8].view(2, 2, 2, 2), scores[8], "log_prob", {**RECIPE, "metric_is_mean": True},
    )  # fmt: skip


def query_key_view() -> circuit.QueryKeyView:
    return circuit.QueryKeyView(
        torch.rand(3, 2), torch.rand(2), torch.rand(2), torch.rand(2), ("A", "B", "A"), "B", 1, 0,
        0.5, RECIPE,
    )  # fmt: skip


def method_curve(
    method: str = "masking", kind: Any = "plateau", lowers: bool = True
) -> MethodCurve:
    return MethodCurve(
        method, kind, lowers, 0.9, "Where?", "what", "layer", (0, 1, 2), (0, 5), ("a", "b", "c"),
        means(4, 2, 3), "log_prob", 0.5, 24, ("a note",), RECIPE,
    )  # fmt: skip


def agreement_result() -> Agreement:
    curves = [method_curve(), method_curve("probe", "peak", lowers=False)]
    return Agreement.of(
        curves, n_layers=2, left_out={"lora": "not asked for"}, confidence=0.9, n_resamples=20,
        seed=3, provenance=RECIPE,
    )  # fmt: skip


VALUES: dict[str, Any] = {
    "agreement": agreement_result(),
    "sweep": sweep_result(),
    "ablation": ablation_result(),
    "gates": GatesResult("prune", torch.rand(2, 2), 3, 0.9, 0.8, torch.rand(5), "chrf", RECIPE),
    "lora": lora_result(),
    "heads": head_sweep_result(),
    "scores": HeadScores(
        (5, 3), torch.rand(2, 2, 2), torch.rand(2, 2, 2), torch.rand(2, 2, 2), torch.rand(2, 2),
        torch.rand(2, 2), RECIPE,
    ),
    "effects": HeadEffects(((0, 1), (1, 0)), "zero", torch.rand(4), torch.rand(2, 4), RECIPE),
    "reference": HeadReference(
        torch.rand(2, 4, 2, 3), torch.rand(2, 4, 2, 3), torch.rand(2, 2, 3, 2, 3),
        torch.tensor([3, 2]), RECIPE,
    ),
    "task vectors": task_vectors(),
    "override": override_result(),
    "patched": patched_result(),
    "savings": MeasuredSavings(
        (0, 2), torch.rand(2, 3), torch.rand(2, 3), torch.tensor([5, 6]), torch.tensor([7, 8]),
        torch.rand(2), torch.full((2, 2), torch.nan), "bleu", RECIPE,
    ),
    "indirect effects": indirect_effects(),
    "function vector": vectors.FunctionVector(
        torch.rand(2, 4), HeadSet(((1, 0), (0, 1)), 2, 2), torch.rand(2), RECIPE
    ),
    "in-context vectors": vectors.InContextVectors(torch.rand(2, 4), torch.rand(2, 4), 0.5, RECIPE),
    "layer scores": injected(vectors.LayerScores, (0, 2)),
    "layer curve": injected(vectors.LayerScores, (0, 2)).curve(),
    "layer measure": layer_measure(),
    "arm curve": layer_measure().curve(),
    "head measure": head_measure(),
    "perplexity alignment": perplexity_alignment(),
    "forerunner similarity": forerunner_similarity(),
    "disconnections": disconnections(),
    "query key view": query_key_view(),
    "strength scores": injected(vectors.StrengthScores, (0.1, -0.5)),
}  # fmt: skip

_FORM = "icl_locate.Checkpoint/2"
_REST = {"epoch": 1, "step": 2, "waited": 0, "best": 0.5, "history": [0.5]}


def save_state(path: Path) -> Path:
    """A checkpoint, as gates and adapters write them."""
    weights = {"now": torch.rand(3, 4), "best": torch.rand(3, 4)}
    return save_checkpoint(path, _FORM, weights, _REST, {"seed": 0})


def load_state(path: Path) -> Any:
    """It again."""
    return load_checkpoint(path, _FORM, {"seed": 0}, ("now", "best"), tuple(_REST))


SAVE: dict[str, Callable[[Path], Path]] = {
    **{kind: value.save for kind, value in VALUES.items()},
    "checkpoint": save_state,
}
LOAD: dict[str, Callable[[Path], Any]] = {
    **{kind: type(value).load for kind, value in VALUES.items()},
    "checkpoint": load_state,
}


def formation_run(at: int, seed: int, clamps: tuple[str, ...]) -> FormationRun:
    """A run that learns after so many sequences, of 1000; its head 3 is the strongest."""
    sequences = torch.tensor([0, 32, 64, 128, 256, 512, 1000])
    done = torch.sigmoid(3.0 * (sequences.clamp(min=1).log() - math.log(at)))
    heads = torch.tensor([0.2, 0.1, 0.4, 0.9])
    losses, right = math.log(2) * (1 - done), 0.5 + done / 2
    return FormationRun(
        sequences=sequences,
        losses=losses,
        accuracies=torch.stack([right, right, 0.9 * right]),
        set_losses=torch.stack([losses, losses, 1.1 * losses]),
        strengths=done[:, None] * heads,
        previous_token=done[:, None] * heads.flip(0),
        only_head=0.5 + 0.5 * done[:, None] * heads,
        progress=torch.stack([done, done]),
        weights=torch.zeros(2),
        sets=("train", "relabel", "exemplar"),
        measures=("label_to_item", "query_to_labels"),
        clamps=clamps,
        provenance={"seed": seed, "learning_rate": 1e-5, "batch_size": 32},
    )


def formation_study() -> FormationStudy:
    """Three labels, of which one is not learnt, under two seeds."""
    times = {"none": (10**6, ("one_head",)), "match": (50, ("match", "one_head")),
             "all heads": (200, ())}  # fmt: skip
    runs = {
        label: [formation_run(at + seed, seed, clamps) for seed in (0, 5)]
        for label, (at, clamps) in times.items()
    }
    return FormationStudy.of(runs, (0, 5))
