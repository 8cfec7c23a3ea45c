"""What the package's values look like in a terminal: a line, without tensors."""

import dataclasses
import importlib
import pkgutil

import tiny
import torch
from test_locate import result_of

import icl_locate as icl
from icl_locate import Segment
from icl_locate.checks import reprs
from icl_locate.gates import GatesResult
from icl_locate.induction.arms import Arm
from icl_locate.induction.result import AblationResult
from icl_locate.induction.scores import HeadScores
from icl_locate.interventions.ablation import HeadAblation, HeadReference
from icl_locate.interventions.heads import HeadSet

INNER = ("engine", "hooks", "training", "cli", "sandbox")  # nothing that users get to hold


def classes_with_tensors():
    for module in pkgutil.walk_packages(icl.__path__, "icl_locate."):
        if module.name.split(".")[1] in INNER or module.name.endswith(
            (".lora.data", ".lora.train", "__main__")
        ):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if not dataclasses.is_dataclass(kind) or kind.__module__ != module.name:
                continue
            held = " ".join(str(field.type) for field in dataclasses.fields(kind))
            if not name.startswith("_") and ("Tensor" in held or "ndarray" in held):
                yield kind


def test_no_class_with_tensors_dumps_them():
    found = list(classes_with_tensors())
    assert len(found) > 12
    for kind in found:
        assert kind.__repr__.__module__ == reprs.__name__, kind


def test_they_are_short():
    for value in some():
        text = repr(value)
        assert text.startswith(f"{type(value).__name__}(") and text.endswith(")"), text
        assert len(text) < 200 and "tensor(" not in text and "\n" not in text, text


def some():
    task = icl.load_task("pseudo-translation")
    model = tiny.boot("llama")
    heads = frozenset((layer, head) for layer in range(40) for head in range(40))
    mask = icl.ContextMask({Segment.EXAMPLES, Segment.QUERY}, icl.from_layer(1), heads)
    square = torch.rand(40, 40)
    rows = torch.rand(3, 200, 4, 8)
    reference = HeadReference(rows, rows, rows[:, None], torch.tensor([200]), {"model": "m"})
    arms = tuple(Arm("zero", "random", 0.5, i, tuple(sorted(heads))) for i in range(9))
    found = result_of([[0, i / 6] for i in range(6)])
    return [
        found,
        icl.locate(found)[0],
        task,
        icl.build_prompts(model, task.test[:8], examples=task.train, n_shots=2),
        mask,
        mask | icl.ContextMask({Segment.BOS}) | icl.ContextMask({Segment.EXAMPLES}),
        reference,
        HeadAblation(heads, "mean_z", reference),
        HeadSet(tuple(sorted(heads)), 40, 40),
        HeadScores((3, 2), *[torch.stack([square] * 2)] * 3, square, square),
        AblationResult(
            arms, (5,), (0, 1), torch.ones(9, 1, 2, 64, 18), torch.ones(9, 1, 2), "chrf", {}
        ),
        GatesResult("prune", square, 12, 1.0, 0.5, torch.rand(9), "bleu", {}),
    ]


def test_they_say_what_counts():
    found = result_of([[0, 0.1, 0.9, 1.0], [0.5] * 4])
    assert repr(found) == (
        "SweepResult(metric='exact_match', conditions=('c0', 'c1'), seeds=(0, 1), "
        "scores=float64[2, 4, 2] 0..1)"
    )
    assert repr(icl.ContextMask({Segment.QUERY, Segment.BOS}, {3, 1}, {(1, 0)}, "after")) == (
        "ContextMask(hide={BOS, QUERY}, layers={1, 3}, heads={(1, 0)}, rows='after')"
    )
    assert reprs.brief(torch.tensor([float("nan"), 2.0])) == "float32[2] 2..2"
    assert reprs.brief(torch.zeros(0, 3)) == "float32[0, 3]"
