"""Every public callable with arguments that work, on models and files as small as can be."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import planted_vector
import tiny
import torch
from circuit_calls import circuit_calls
from saved_kinds import (
    agreement_result,
    formation_run,
    formation_study,
    injected,
    override_result,
    patched_result,
    task_vectors,
)
from simulated import Simulated

import icl_locate as icl
from icl_locate import (
    context_heads,
    formation,
    gates,
    induction,
    lora,
    metrics,
    plots,
    savings,
    studies,
    vectors,
)
from icl_locate.checkpoints import Values
from icl_locate.hooks.positions import RowCount
from icl_locate.interventions.edges import InductionEdges, Positions
from icl_locate.lora import LoraConfig, LoraResult
from icl_locate.masking import estimate
from icl_locate.prompts.programs import CodeCheck, pass_at_k
from icl_locate.sandbox import run_python
from icl_locate.savings import MeasuredSavings, ModelCosts
from icl_locate.tasks import (
    classification_task,
    flores_task,
    human_eval_task,
    parallel_task,
    pattern_task,
)

EXAMPLES = icl.Segment.EXAMPLES
SIZES = {"n_shots": 1, "n_queries": 2, "max_new_tokens": 2}


@dataclass(frozen=True)
class Call:
    """A callable, and arguments that work.

    ``cost`` is how many of its examples run, as a share: calls that run models have less.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    cost: float = 1.0

    def __call__(self, **changed: Any) -> Any:
        result = self.function(**{**self.arguments, **changed})
        if isinstance(result, AbstractContextManager):
            with result as entered:
                return entered
        if hasattr(result, "__next__"):
            return list(result)
        return result


@cache
def model() -> Any:
    return tiny.boot("llama")


@cache
def model_directory() -> Path:
    return tiny.save(tiny.build("llama"), Path(mkdtemp(prefix="icl_arguments_")) / "model")


@cache
def task() -> icl.Task:
    full = icl.load_task("pseudo-translation")
    return replace(full, train=full.train[:8], test=full.test[:3], metric="exact_match")


@cache
def prompts(n_queries: int = 2) -> icl.Prompts:
    return icl.build_prompts(
        model(), task().test[:n_queries], examples=task().train, n_shots=1, template=task().template
    )


@cache
def swept(scope: str = "from", metric: str = "exact_match") -> icl.SweepResult:
    return icl.sweep(
        model(), task(), conditions="examples", seeds=0, metric=metric, scope=scope, **SIZES
    )


@cache
def rising() -> icl.SweepResult:
    return Simulated(n_layers=3, layer=2, n_items=8, n_seeds=2).result()


@cache
def head_study() -> icl.HeadStudy:
    return icl.HeadStudy(model(), task(), **SIZES)


@cache
def head_sweep() -> context_heads.HeadSweepResult:
    return head_study().sweep()


@cache
def ablated() -> induction.AblationResult:
    return induction.ablation_study(
        model(), task(), {(0, 0)}, 1, shots=1, seeds=0, interventions=["zero"],
        n_queries=2, max_new_tokens=2,
    )  # fmt: skip


@cache
def scored_heads() -> induction.HeadScores:
    return induction.head_scores(model(), lengths=3, n_copies=2, n_sequences=1)


@cache
def effects() -> induction.HeadEffects:
    return induction.head_effects(model(), prompts(), [(0, 0), (1, 1)])


@cache
def gated() -> gates.GatesResult:
    config = gates.GateConfig(max_epochs=1)
    return gates.train_gates(model(), task(), config, n_train=2, n_dev=1, n_curve=1, **SIZES)


@cache
def tuned() -> LoraResult:
    return LoraResult(
        layers=(0, 1),
        seeds=(0,),
        statistics=torch.ones(2, 1, 2, 2, dtype=torch.float64),
        scores=torch.ones(2, 1, dtype=torch.float64),
        dev_losses=torch.ones(2, 1),
        n_epochs=torch.ones(2, 1, dtype=torch.long),
        untuned=0.5,
        metric="exact_match",
        provenance={},
    )


@cache
def measured() -> MeasuredSavings:
    return savings.measure_savings(model(), task(), [0], repeats=1, **SIZES)


def files() -> Path:
    """A directory with task files of all kinds."""
    home = Path(mkdtemp(prefix="icl_arguments_"))
    (home / "pairs.jsonl").write_text('{"source": "a", "target": "b"}\n' * 3)
    (home / "rows.csv").write_text("text,label\nred,colour\ndog,animal\n")
    (home / "one.txt").write_text("a\nb\n")
    for split in ("dev", "devtest"):
        (home / split).mkdir()
        for language in ("eng_Latn", "fra_Latn"):
            (home / split / f"{language}.{split}").write_text("a\nb\n")
    problem = {
        "task_id": "HumanEval/0", "prompt": "def f(x):\n    \"\"\"One.\"\"\"\n", "entry_point": "f",
        "canonical_solution": "    return 1\n", "test": "def check(f):\n    assert f(0) == 1\n",
    }  # fmt: skip
    example = {"task_id": 810, "text": "t", "code": "def g(): pass", "test_list": ["g()"]}
    (home / "HumanEval.jsonl").write_text(json.dumps(problem))
    (home / "mbpp.jsonl").write_text(json.dumps(example))
    return home


def calls() -> dict[str, Call]:
    """The table: a name for each callable of the public, and how it is called."""
    home = files()
    on_model = {"model": model(), "prompts": prompts()}
    on_task = {"model": model(), "task": task()}
    mask, scale = icl.ContextMask({EXAMPLES}), icl.HeadScale({(0, 0): 0.5})
    table: dict[str, Call] = {
        "sweep": Call(icl.sweep, {**on_task, **SIZES, "conditions": "examples", "seeds": 0}),
        "sweep_shots": Call(
            icl.sweep_shots,
            {**on_task, "shots": 1, "conditions": "examples", "seeds": 0, "n_queries": 2,
             "metric": "log_prob"},
        ),
        "HeadStudy": Call(icl.HeadStudy, {**on_task, **SIZES}),
        "RayExecutor": Call(icl.RayExecutor, {}),
        "HeadStudy.sweep": Call(head_study().sweep, {}),
        "HeadStudy.nested": Call(head_study().nested, {"heads": [(0, 0)]}),
        "HeadStudy.greedy": Call(
            head_study().greedy, {"n_heads": 1, "candidates": [(0, 0), (0, 1)]}
        ),
        "build_prompts": Call(
            icl.build_prompts,
            {"model": model(), "queries": task().test, "examples": task().train, "n_shots": 1},
        ),
        "Prompts.__getitem__": Call(prompts().__getitem__, {"index": slice(0, 1)}),
        "Prompts.take": Call(prompts().take, {"items": [0]}),
        "Prompts.batches": Call(prompts().batches, {"size": 1}),
        "Prompts.from_tokens": Call(
            icl.Prompts.from_tokens,
            {"tokens": [[5, 6, 5], [7, 8]], "segments": [[3, 3, 4], [(0, 2, "query")]],
             "targets": [[6], [9, 9]]},
        ),
        "PromptTemplate": Call(icl.PromptTemplate, {}),
        "PromptTemplate.render": Call(
            icl.PromptTemplate().render, {"examples": task().train[:1], "query": "x"}
        ),
        "PromptTemplate.answer": Call(icl.PromptTemplate().answer, {"target": "x"}),
        "Example": Call(icl.Example, {"source": "a", "target": "b"}),
        "Task": Call(
            icl.Task,
            {"name": "t", "train": task().train, "test": task().test, "template": task().template},
        ),
        "Task.queries": Call(task().queries, {"n_queries": 1}),
        "Task.from_prompts": Call(icl.Task.from_prompts, {"prompts": prompts()}),
        "Task.build": Call(
            task().build,
            {"model": model(), "n_queries": 1, "n_shots": 1, "instruction": True, "seed": 0,
             "choice": "random", "prepend_bos": None},
        ),
        "Task.shots_of": Call(task().shots_of, {"n_shots": 1}),
        "Task.template_for": Call(task().template_for, {"instruction": True}),
        "load_task": Call(icl.load_task, {"task": home / "pairs.jsonl"}),
        "score_targets": Call(icl.score_targets, on_model),
        "score_labels": Call(icl.score_labels, {**on_model, "labels": ["a", "b"]}),
        "states": Call(icl.states, {**on_model, "at": "query", "point": "z"}),
        "generate": Call(icl.generate, {**on_model, "max_new_tokens": 2}),
        "drop_context": Call(icl.drop_context, {**on_model, "from_layer": 1}),
        "mask_attention": Call(icl.mask_attention, {**on_model, "mask": mask}),
        "attention_hooks": Call(icl.attention_hooks, {**on_model, "mask": mask}),
        "intervene": Call(
            icl.intervene,
            {**on_model, "intervention": mask | icl.HeadAblation([(0, 0)]) | scale},
        ),
        "HeadScale": Call(icl.HeadScale, {"factors": {(0, 0): 0.5}}),
        "HeadScale.table": Call(scale.table, {"n_layers": 3, "n_heads": 4}),
        "At": Call(
            icl.At, {"segment": "examples", "part": "target", "shot": "each", "which": "last"}
        ),
        "StateEdit": Call(
            icl.StateEdit,
            {"method": "interpolate", "values": torch.ones(2, 8), "layer": 1, "at": "query",
             "point": "z", "head": 1, "weight": 0.5},
        ),
        "StateEdit.take": Call(
            icl.StateEdit("add", torch.ones(2, 32), 1).take, {"items": [0, 1]}
        ),
        "Intervention.take": Call(mask.take, {"items": [0]}),
        "Site.hooked": Call(
            icl.Site(model(), None, RowCount(None, "an intervention")).hooked,
            {"hooks": [("blocks.0.mlp.hook_out", print)]},
        ),
        "register_intervention": Call(
            icl.register_intervention, {"kind": type("Mine", (icl.Intervention,), {})}
        ),
        "SweepResult.to_dataframe": Call(swept().to_dataframe, {}),
        "locate": Call(icl.locate, {"result": swept(), "n_resamples": 5}),
        "plan": Call(
            icl.plan,
            {"result": rising(), "n_queries": (4, 8), "n_seeds": 2, "n_resamples": 5},
            0.5,
        ),
        "compare": Call(
            icl.compare, {"result_a": swept(), "result_b": swept(), "n_resamples": 5}
        ),
        "layer_importance": Call(
            icl.layer_importance, {"result": swept("only")}
        ),
        "failure_rates": Call(icl.failure_rates, {"result": swept()}),
        "write_report": Call(
            icl.write_report,
            {"result": swept(), "path": home / "report.html", "locations": icl.locate(swept())},
            0.2,
        ),
        "write_head_report": Call(
            icl.write_head_report,
            {"path": home / "heads.html", "scores": scored_heads(), "effects": effects(),
             "result": ablated(), "comparisons": ablated().compare(n_resamples=5)},
            0.2,
        ),
        "write_run_report": Call(
            icl.write_run_report,
            {"path": home / "runs.html", "results": {"a": rising(), "b": rising()}},
            0.2,
        ),
        "load_model": Call(icl.load_model, {"model": model()}),
        "from_layer": Call(icl.from_layer, {"layer": 1}),
        "until_layer": Call(icl.until_layer, {"layer": 1}),
        "only_layer": Call(icl.only_layer, {"layer": 1}),
        "window": Call(icl.window, {"layer": 1, "width": 2}),
        "Condition": Call(icl.Condition, {"name": "mine", "hide": {EXAMPLES}}),
        "Condition.mask": Call(
            icl.Condition("mine", {EXAMPLES}).mask, {"layers": icl.from_layer(0)}
        ),
        "Condition.at": Call(icl.Condition("mine", {EXAMPLES}).at, {"layers": icl.from_layer(0)}),
        "ContextMask": Call(icl.ContextMask, {"hide": {EXAMPLES}}),
        "EdgeMask": Call(icl.EdgeMask, {"rule": lambda positions, n_rows: None}),
        "EdgeMask.cells": Call(
            icl.EdgeMask(InductionEdges()).cells,
            {"positions": Positions(prompts().segments, prompts().tokens, prompts().words),
             "n_rows": 1},
        ),
        "CodeCheck": Call(CodeCheck, {"tests": "assert True"}),
        "CodeCheck.program": Call(CodeCheck("").program, {"answer": "x = 1"}),
        "metrics.pass_at_k": Call(pass_at_k, {"n_samples": 4, "n_passed": 2, "k": 1}),
        "sandbox.run_python": Call(
            run_python, {"code": "x = 1", "tests": "assert x == 1"}, 0.1
        ),
    }  # fmt: skip
    return (
        table
        | _studies(home)
        | _heads()
        | _trained()
        | _vectors()
        | circuit_calls(Call, prompts())
        | _formation()
        | _savings()
        | _checkpoints()
        | _agreement()
        | _plots()
        | _tasks(home)
        | _metrics()
    )


def _studies(home: Path) -> dict[str, Call]:
    on_model = {"model": model(), "prompts": prompts()}
    asked = {"task": task(), **SIZES}
    setting = studies.Setting.of(**asked)
    saved = swept().save(home / "to_compare")
    return {
        "studies.compare_runs": Call(studies.compare_runs, {"first": saved, "second": str(saved)}),
        "studies.Setting.of": Call(studies.Setting.of, asked),
        "studies.Setting.prompts": Call(setting.prompts, {"model": model(), "seed": 0}, 0.5),
        "studies.Setting.run": Call(
            setting.run, {**on_model, "runs": [icl.ContextMask({EXAMPLES})], "engine": "hooks"}, 0.5
        ),
        "studies.Setting.recipe": Call(
            setting.recipe, {"model": model(), "prompts": [prompts()]}, 0.5
        ),
        "studies.Measured.score_interval": Call(swept().score_interval, {}),
        "studies.Spread.__getitem__": Call(swept().spread().__getitem__, {"cells": 0}),
        "studies.Spread.combine": Call(swept().spread().combine, {"weights": np.eye(4)}),
        "studies.Spread.draws": Call(swept().spread().draws, {"n_draws": 3, "seed": 0}),
        "studies.Spread.interval": Call(swept().spread().interval, {}),
    }


def _heads() -> dict[str, Call]:
    on_model = {"model": model(), "prompts": prompts()}
    small = {"model": model(), "n_sequences": 1}
    study = {
        "model": model(), "task": task(), "heads": {(0, 0)}, "controls": 1, "shots": 1,
        "seeds": 0, "interventions": ["zero"], "n_queries": 2, "max_new_tokens": 2,
    }  # fmt: skip
    found, swept_heads = ablated(), head_sweep()
    return {
        "induction.ablation_study": Call(induction.ablation_study, study, 0.3),
        "induction.head_effects": Call(
            induction.head_effects, {**on_model, "heads": [(0, 0)], "batch_size": 2}
        ),
        "induction.head_scores": Call(
            induction.head_scores, {**small, "lengths": 3, "n_copies": 2}
        ),
        "induction.prefix_matching_scores": Call(
            induction.prefix_matching_scores, {**small, "lengths": 3, "n_copies": 2}
        ),
        "induction.previous_token_scores": Call(
            induction.previous_token_scores, {**small, "length": 3}
        ),
        "induction.copying_scores": Call(induction.copying_scores, {**small, "length": 3}),
        "induction.repeated_prompts": Call(induction.repeated_prompts, {**small, "length": 3}),
        "induction.head_reference": Call(
            induction.head_reference, {"model": model(), "n_texts": 2, "length": 4}
        ),
        "induction.ablate_heads": Call(
            induction.ablate_heads, {"model": model(), "heads": [(0, 0)]}
        ),
        "induction.task_tokens": Call(induction.task_tokens, {"model": model(), "task": task()}),
        "induction.knockout": Call(induction.knockout, {"heads": [(0, 0)]}),
        "induction.select_heads": Call(
            induction.select_heads, {"scores": torch.rand(2, 3), "fraction": 0.5}
        ),
        "induction.random_heads": Call(induction.random_heads, {"like": [(0, 0)], "n_heads": 4}),
        "induction.HeadAblation": Call(induction.HeadAblation, {"heads": [(0, 0)]}),
        "induction.HeadAblation.by_layer": Call(
            induction.HeadAblation([(0, 0)]).by_layer, {"n_layers": 3, "n_heads": 4}
        ),
        "induction.HeadSet": Call(
            induction.HeadSet, {"heads": [(0, 0)], "n_layers": 3, "n_heads": 4}
        ),
        "induction.HeadScores.to_dataframe": Call(scored_heads().to_dataframe, {}),
        "induction.HeadEffects.interval": Call(effects().interval, {}),
        "induction.HeadEffects.to_dataframe": Call(effects().to_dataframe, {}),
        "induction.AblationResult.compare": Call(found.compare, {"n_resamples": 5}),
        "context_heads.HeadSweepResult.interval": Call(swept_heads.interval, {}),
        "context_heads.HeadSweepResult.share_below": Call(
            swept_heads.share_below, {"layer": 1, "n_resamples": 5}
        ),
        "context_heads.HeadSweepResult.to_dataframe": Call(swept_heads.to_dataframe, {}),
        "context_heads.HeadSweepResult.best": Call(swept_heads.best, {"n": 2}),
    }


def _trained() -> dict[str, Call]:
    config = LoraConfig(max_epochs=1, n_train=2, n_dev=1, rank=1, batch_size=2)
    return {
        "gates.GateConfig": Call(gates.GateConfig, {}),
        "gates.train_gates": Call(
            gates.train_gates,
            {"model": model(), "task": task(), "config": gates.GateConfig(max_epochs=1),
             "n_train": 2, "n_dev": 1, "n_curve": 1, **SIZES},
        ),
        "lora.LoraConfig": Call(LoraConfig, {}),
        "lora.lora_by_layer": Call(
            lora.lora_by_layer,
            {"model": model_directory(), "task": task(), "config": config, "layers": [0],
             "output": Path(mkdtemp(prefix="icl_arguments_")), "seeds": 0, "n_queries": 2,
             "max_new_tokens": 2, "device": "cpu"},
            0.1,
        ),
        "lora.LoraResult.interval": Call(tuned().interval, {}),
        "lora.LoraResult.rank_correlation": Call(
            tuned().rank_correlation, {"result": swept(), "n_resamples": 5}
        ),
    }  # fmt: skip


@cache
def formed() -> formation.FormationRun:
    return formation.train(**_formation_sizes(), progress=False)


def _formation_sizes() -> dict[str, Any]:
    task = formation.FormationTask(n_classes=3, n_features=4, n_test_classes=2)
    shape = formation.FormationShape(8, 2)
    return {
        "n_sequences": 4, "task": task, "shape": shape, "batch_size": 2, "evaluate_every": 4,
        "n_evaluated": 4,
    }  # fmt: skip


def _formation() -> dict[str, Call]:
    sizes = _formation_sizes() | {"progress": False}
    run, task = formed(), formation.FormationTask(n_classes=3)
    found = {"model": run.model(), "n": 4}
    grown = formation.FormationStudy.of({"none": [run]}, [0])
    return {
        "formation.train": Call(formation.train, sizes, 0.2),
        "formation.study": Call(formation.study, sizes | {"clamps": {"match": "match"}}, 0.2),
        "formation.ablate": Call(formation.ablate, found | {"heads": [(0, 1)]}, 0.5),
        "formation.induction_strengths": Call(formation.induction_strengths, found, 0.5),
        "formation.previous_token_strengths": Call(formation.previous_token_strengths, found, 0.5),
        "formation.only_head_accuracy": Call(formation.only_head_accuracy, found, 0.5),
        "formation.product_of_vectors": Call(formation.product_of_vectors, {"n_steps": 3}),
        "formation.FormationTask": Call(formation.FormationTask, {}),
        "formation.FormationTask.size": Call(task.size, {"name": "train"}),
        "formation.FormationTask.sequences": Call(task.sequences, {"n": 2}),
        "formation.FormationTask.batches": Call(
            task.batches, {"seed": 0, "step": 0, "batch_size": 2}
        ),
        "formation.FormationShape": Call(formation.FormationShape, {}),
        "formation.PatternClamp": Call(formation.PatternClamp, {"layer": 0, "head": 0}),
        "formation.ValueAblation": Call(formation.ValueAblation, {"layer": 0, "ablated": {1}}),
        "formation.CopyClamp": Call(formation.CopyClamp, {"head": 0}),
        "formation.FormationRun.reached": Call(run.reached, {}),
        "formation.FormationStudy.times": Call(grown.times, {}),
    }


def _vectors() -> dict[str, Call]:
    circuit, examples = planted_vector.boot(), planted_vector.task("same")
    on_circuit = {"model": circuit, "task": examples}
    found = vectors.head_indirect_effects(**on_circuit, n_prompts=2, n_mean=2)
    one = vectors.function_vector(circuit, found, n_heads=1)
    asked = {**on_circuit, "n_queries": 2}
    scores = one.score(**asked)
    several = vectors.in_context_vectors(circuit, examples.train[:3])
    steered = several.score(**asked, strengths=0.1)
    return {
        "vectors.locate_peak": Call(vectors.locate_peak, {"curve": tuned()}),
        "vectors.task_vectors": Call(
            vectors.task_vectors,
            {**SIZES, "model": model(), "task": task(), "dev": 2, "seeds": 0, "layers": [1],
             "n_dummies": 1, "controls": ["random"], "metric": "first_token_prob"},
            0.1,
        ),
        "vectors.override_study": Call(
            vectors.override_study,
            {**SIZES, "model": model(), "task": task(), "seeds": 0, "layers": [1], "n_dummies": 1,
             "other": icl.load_task("pseudo-translation/Novel"), "metric": "first_token_prob"},
            0.1,
        ),
        "vectors.patch_states": Call(
            vectors.patch_states,
            {**SIZES, "model": model(), "task": task(), "seeds": 0, "layers": [1],
             "other": icl.load_task("pseudo-translation/Novel"), "controls": ["random"],
             "places": {"last": "last"}, "metric": "first_token_prob"},
            0.1,
        ),
        "vectors.Override.to_dataframe": Call(override_result().to_dataframe, {}),
        "vectors.Patched.difference": Call(
            patched_result().difference, {"arm": "last", "other": "all"}
        ),
        "vectors.TaskVectors.curve": Call(task_vectors().curve, {}),
        "vectors.TaskVectors.beyond": Call(task_vectors().beyond, {"control": "random"}),
        "vectors.TaskVectors.test_table": Call(task_vectors().test_table, {}),
        "vectors.TaskVectors.edit": Call(task_vectors().edit, {}),
        "vectors.head_indirect_effects": Call(
            vectors.head_indirect_effects, {**on_circuit, "n_prompts": 2, "n_mean": 2}, 0.2
        ),
        "vectors.HeadIndirectEffects.best": Call(found.best, {"n": 2}),
        "vectors.HeadIndirectEffects.to_dataframe": Call(found.to_dataframe, {}),
        "vectors.function_vector": Call(
            vectors.function_vector,
            {"model": circuit, "effects": found, "n_heads": 1, "heads": None}, 0.5,
        ),
        "vectors.FunctionVector.edit": Call(one.edit, {"layer": 1}),
        "vectors.FunctionVector.score": Call(one.score, {**asked, "layers": [0]}, 0.2),
        "vectors.in_context_vectors": Call(
            vectors.in_context_vectors, {"model": circuit, "examples": examples, "n_pairs": 2}, 0.3
        ),
        "vectors.InContextVectors.edit": Call(several.edit, {"weight": 0.1}),
        "vectors.InContextVectors.average": Call(several.average, {"others": [several]}),
        "vectors.InContextVectors.score": Call(several.score, {**asked, "strengths": 0.1}, 0.2),
        "vectors.LayerScores.curve": Call(scores.curve, {"arm": "random"}),
        "vectors.LayerScores.gain_interval": Call(scores.gain_interval, {}),
        "vectors.LayerScores.beyond": Call(scores.beyond, {"control": "random"}),
        "vectors.LayerScores.spread_of": Call(scores.spread_of, {"name": "floor"}),
        "vectors.LayerScores.against": Call(scores.against, {"name": "ceiling"}),
        "vectors.StrengthScores.to_dataframe": Call(steered.to_dataframe, {}),
    }  # fmt: skip


@cache
def checkpoints() -> icl.OverCheckpoints:
    values = [Values(("a",), ((),), torch.tensor([0.5]), {"model": "m"})] * 2
    found = {"curves": [swept()] * 2, "accuracy": values}
    return icl.OverCheckpoints((1, 5), ("a", "b"), found)


def _checkpoints() -> dict[str, Call]:
    over = checkpoints()
    asked = {"measure": len_of, "models": {3: model()}, "output": Path(mkdtemp(prefix="icl_over_"))}
    return {
        "over_checkpoints": Call(icl.over_checkpoints, asked, 0.3),
        "OverCheckpoints.of": Call(over.of, {"measure": "curves"}),
        "OverCheckpoints.stack": Call(over.stack, {"attribute": "scores", "measure": "curves"}),
        "OverCheckpoints.locate": Call(over.locate, {"measure": "curves"}, 0.5),
        "OverCheckpoints.to_dataframe": Call(over.to_dataframe, {"measure": "curves"}),
        "checkpoints.Values.__getitem__": Call(
            over.results["accuracy"][0].__getitem__, {"name": "a"}
        ),
        "plots.over_checkpoints": Call(plots.over_checkpoints, {"result": over}, 0.3),
    }


def _agreement() -> dict[str, Call]:
    asked = {"model": model(), "task": task(), "methods": ["masking"], "metric": "log_prob"}
    return {
        "triangulate": Call(icl.triangulate, {**asked, **SIZES, "seeds": 0, "n_resamples": 5}, 0.1),
        "Agreement.to_dataframe": Call(agreement_result().to_dataframe, {"rows": "difference"}),
        "Agreement.__getitem__": Call(agreement_result().__getitem__, {"method": "masking"}),
        "plots.agreement": Call(plots.agreement, {"agreed": agreement_result()}, 0.3),
    }


def len_of(model: Any) -> float:
    """A measure that costs nothing."""
    return float(model.cfg.n_layers)


def _savings() -> dict[str, Call]:
    costs = ModelCosts("m", (8, 8, 8), 16, 4, 2, 8, 32, 64)
    share = {"n_layers": 4, "from_layer": 1, "n_shots": 5}
    return {
        "savings.measure_savings": Call(
            savings.measure_savings,
            {"model": model(), "task": task(), "layers": [1], "repeats": 1, **SIZES},
        ),
        "savings.estimate_savings": Call(
            savings.estimate_savings, {"model": costs, "from_layer": 1}
        ),
        "savings.paper_share": Call(savings.paper_share, share),
        "savings.ModelCosts.of": Call(ModelCosts.of, {"model": model()}),
        "savings.ModelCosts.projection_operations": Call(
            costs.projection_operations, {"n_rows": 3}
        ),
        "savings.ModelCosts.layer_operations": Call(
            costs.layer_operations, {"layer": 0, "n_rows": 1, "n_keys": 1}
        ),
        "savings.ModelCosts.decoding_operations": Call(
            costs.decoding_operations, {"layer": 0, "n_rows": 1, "n_keys": 1, "n_steps": 1}
        ),
        "savings.ModelCosts.unembedding_operations": Call(
            costs.unembedding_operations, {"n_rows": 1}
        ),
        "savings.ModelCosts.cache_bytes": Call(costs.cache_bytes, {"n_keys": 1}),
        "savings.ModelCosts.token_bytes": Call(costs.token_bytes, {"n_keys": 1}),
        "estimate_sweep": Call(
            icl.estimate_sweep,
            {"tokenizer": model().tokenizer, "costs": costs, "task": task(),
             "conditions": icl.PAPER_CONDITIONS[:1], "n_shots": 1, "n_queries": 2},
        ),
        "masking.measure_speed": Call(
            estimate.measure_speed,
            {"device": "cpu", "dtype": torch.float32, "seconds": 0.001}, 0.2,
        ),
    }  # fmt: skip


def _plots() -> dict[str, Call]:
    rates = icl.failure_rates(swept())
    curve = head_study().nested([(0, 0)])
    return {
        "plots.layer_curves": Call(plots.layer_curves, {"result": swept()}, 0.3),
        "plots.layer_differences": Call(
            plots.layer_differences, {"differences": icl.compare(swept(), swept())}, 0.5
        ),
        "plots.caption": Call(plots.caption, {"result": swept(), "locations": icl.locate(swept())}),
        "plots.transfer_curves": Call(plots.transfer_curves, {"result": task_vectors()}, 0.5),
        "plots.strength_curves": Call(
            plots.strength_curves, {"result": injected(vectors.StrengthScores, (0.1, 0.2))}, 0.5
        ),
        "plots.overrides": Call(plots.overrides, {"result": override_result()}, 0.5),
        "plots.formation_curves": Call(
            plots.formation_curves, {"study": formation_study(), "shown": "relabel"}, 0.5
        ),
        "plots.formation_times": Call(plots.formation_times, {"study": formation_study()}, 0.5),
        "plots.head_formation": Call(plots.head_formation, {"run": formation_run(100, 0, ())}, 0.5),
        "plots.strength_against_only_head": Call(
            plots.strength_against_only_head, {"run": formation_run(100, 0, ())}, 0.5
        ),
        "plots.product_of_vectors": Call(plots.product_of_vectors, {"n_steps": 20}, 0.5),
        "plots.importance_curves": Call(plots.importance_curves, {"result": swept("only")}, 0.5),
        "plots.run_curves": Call(plots.run_curves, {"results": {"a": swept()}}, 0.5),
        "plots.shots_curves": Call(plots.shots_curves, {"results": {1: swept()}}, 0.5),
        "plots.failure_curves": Call(
            plots.failure_curves, {"result": swept(), "rates": rates}, 0.5
        ),
        "plots.head_map": Call(plots.head_map, {"scores": torch.rand(2, 3)}, 0.5),
        "plots.ablation_bars": Call(plots.ablation_bars, {"result": ablated()}, 0.5),
        "plots.fraction_curves": Call(plots.fraction_curves, {"result": ablated()}, 0.5),
        "plots.head_set_curves": Call(lambda curve: plots.head_set_curves(curve), {"curve": curve}),
        "plots.lora_curves": Call(plots.lora_curves, {"tuned": tuned(), "result": swept()}, 0.3),
        "plots.prompt_segments": Call(
            plots.prompt_segments, {"model": model(), "prompts": prompts()}, 0.5
        ),
        "plots.gate_map": Call(plots.gate_map, {"result": gated()}, 0.5),
        "plots.pruning_curve": Call(plots.pruning_curve, {"result": gated()}, 0.5),
        "plots.savings_curves": Call(plots.savings_curves, {"measured": measured()}, 0.5),
    }


def _tasks(home: Path) -> dict[str, Call]:
    pair = (home / "one.txt", home / "one.txt")
    return {
        "tasks.classification_task": Call(classification_task, {"train": home / "rows.csv"}),
        "tasks.parallel_task": Call(parallel_task, {"train": pair, "test": pair}),
        "tasks.flores_task": Call(flores_task, {"direction": "en-fr", "path": home}),
        "tasks.human_eval_task": Call(human_eval_task, {"path": home}),
        "tasks.pattern_task": Call(pattern_task, {"name": "repetition", "n_per_class": 3}),
    }


def _metrics() -> dict[str, Call]:
    texts = {"answers": ["a", "b"], "targets": ["a", "c"]}
    examples = [icl.Example("a", "b", CodeCheck("")), icl.Example("b", "c", CodeCheck(""))]
    rate = metrics.PassRate().bound_to(examples)
    labels = metrics.LabelAccuracy(("a", "b"))
    mean = metrics.MeanMetric("m", "m", metrics.exact_match)
    both_labels = metrics.CalibratedLabels(("a", "b"), ("x",))
    rows = {"log_probs": [[0.0, 1.0]], "content_free": [[[0.5, 0.5]]]}
    bleu, chrf = metrics.CorpusBleu(), metrics.CorpusChrf()
    two, both = {"totals": np.array([1.0, 2.0])}, {"answer": "a", "target": "b"}
    return {
        "metrics.CalibratedLabelAccuracy": Call(metrics.CalibratedLabelAccuracy, {}),
        "metrics.CalibratedLabelAccuracy.for_task": Call(
            metrics.CalibratedLabelAccuracy().for_task, {"task": task(), "n_queries": 2}
        ),
        "metrics.CalibratedLabelAccuracy.statistics": Call(
            metrics.CalibratedLabelAccuracy().statistics,
            {"answers": [metrics.LabelChoice("a", "b")], "targets": ["b"]},
        ),
        "metrics.CalibratedLabelAccuracy.score": Call(
            metrics.CalibratedLabelAccuracy().score, {"totals": np.ones(3)}
        ),
        "metrics.CalibratedLabelAccuracy.scores": Call(
            metrics.CalibratedLabelAccuracy().scores, {"totals": np.ones((2, 3))}
        ),
        "metrics.CalibratedLabels": Call(
            metrics.CalibratedLabels, {"labels": ("a", "b"), "content_free": ("x",)}
        ),
        "metrics.CalibratedLabels.calibrate": Call(both_labels.calibrate, rows),
        "metrics.CalibratedLabels.choose": Call(
            both_labels.choose, {"log_probs": [[0.0, 1.0]], "prompts": ["p"]}
        ),
        "metrics.CalibratedLabels.choose_both": Call(
            both_labels.choose_both, {**rows, "prompts": ["p"]}
        ),
        "metrics.LabelChoice": Call(
            metrics.LabelChoice, {"label": "a", "uncalibrated": "b"}
        ),
        "metrics.domain_texts": Call(metrics.domain_texts, {"examples": examples}),
        "metrics.uncalibrated_signature": Call(
            metrics.uncalibrated_signature, {"signature": "a|calibrated:b"}
        ),
        "metrics.CorpusBleu": Call(metrics.CorpusBleu, {}),
        "metrics.CorpusBleu.named": Call(metrics.CorpusBleu.named, {"name": "bleu:zh"}),
        "metrics.CorpusBleu.statistics": Call(bleu.statistics, texts),
        "metrics.CorpusBleu.score": Call(bleu.score, {"totals": np.ones(10)}),
        "metrics.CorpusBleu.scores": Call(bleu.scores, {"totals": np.ones((2, 10))}),
        "metrics.CorpusChrf": Call(metrics.CorpusChrf, {}),
        "metrics.CorpusChrf.statistics": Call(chrf.statistics, texts),
        "metrics.CorpusChrf.score": Call(chrf.score, {"totals": np.ones(18)}),
        "metrics.CorpusChrf.scores": Call(chrf.scores, {"totals": np.ones((2, 18))}),
        "metrics.FirstToken": Call(metrics.FirstToken, {}),
        "metrics.FirstToken.for_task": Call(
            metrics.FirstToken().for_task, {"task": task(), "n_queries": 2}
        ),
        "metrics.FirstToken.statistics": Call(
            metrics.FirstToken().statistics, {"answers": [0.5], "targets": ["b"]}
        ),
        "metrics.FirstToken.score": Call(metrics.FirstToken().score, two),
        "metrics.LabelAccuracy": Call(metrics.LabelAccuracy, {}),
        "metrics.LabelAccuracy.bound_to": Call(labels.bound_to, {"examples": examples}),
        "metrics.LabelAccuracy.for_task": Call(
            labels.for_task, {"task": task(), "n_queries": 2}
        ),
        "metrics.NextToken": Call(metrics.NextToken, {}),
        "metrics.LabelLogProbs": Call(metrics.LabelLogProbs, {"labels": ("a", "b")}),
        "metrics.LabelLogProbs.choose": Call(
            labels.readout.choose, {"log_probs": [[0.5, 1.0]], "prompts": ["p"]}
        ),
        "metrics.LabelAccuracy.statistics": Call(labels.statistics, texts),
        "metrics.LabelAccuracy.score": Call(labels.score, two),
        "metrics.BareLabelAccuracy": Call(metrics.BareLabelAccuracy, {}),
        "metrics.BareLabels": Call(metrics.BareLabels, {"labels": ("a", "b")}),
        "metrics.LabelAccuracy.choose": Call(
            labels.choose, {"log_probs": [[0.5, 1.0]], "prompts": ["p"]}
        ),
        "metrics.MeanMetric": Call(
            metrics.MeanMetric, {"name": "m", "signature": "m", "of": metrics.exact_match}
        ),
        "metrics.MeanMetric.statistics": Call(mean.statistics, texts),
        "metrics.MeanMetric.score": Call(mean.score, two),
        "metrics.PassRate": Call(metrics.PassRate, {}),
        "metrics.PassRate.bound_to": Call(rate.bound_to, {"examples": examples}),
        "metrics.PassRate.for_task": Call(rate.for_task, {"task": task(), "n_queries": 2}),
        "metrics.PassRate.statistics": Call(
            rate.statistics, {"answers": ["x = 1"], "targets": ["b"]}, 0.2
        ),
        "metrics.PassRate.score": Call(rate.score, two),
        "metrics.PassRate.at_k": Call(
            rate.at_k, {"samples": [["x = 1"]], "targets": ["b"], "k": 1}, 0.2
        ),
        "metrics.exact_match": Call(metrics.exact_match, both),
        "metrics.token_accuracy": Call(metrics.token_accuracy, both),
        "metrics.first_sentence": Call(metrics.first_sentence, {"text": "A. B."}),
        "metrics.find_scorer": Call(
            metrics.find_scorer, {"name": "bleu", "custom": None, "provenance": {}}
        ),
        "metrics.generates": Call(metrics.generates, {"metric": "bleu"}),
        "metrics.get_metric": Call(metrics.get_metric, {"metric": "bleu"}),
        "metrics.is_known": Call(metrics.is_known, {"name": "bleu"}),
        "metrics.mean_statistics": Call(metrics.mean_statistics, {"values": [1.0]}),
        "metrics.score_totals": Call(
            metrics.score_totals, {"metric": mean, "totals": np.array([[1.0, 2.0]])}
        ),
    }  # fmt: skip
