"""Every result of every experiment carries the same recipe, complete before anything runs."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

import icl_locate as icl
from icl_locate.gates import GateConfig, train_gates
from icl_locate.induction import ablation_study, head_effects, head_scores
from icl_locate.lora import LoraConfig, lora_by_layer
from icl_locate.lora.adapters import Teacher
from icl_locate.savings import measure_savings
from icl_locate.studies.setting import Setting

RECIPE = {
    "model", "revision", "dtype", "vocabulary_sha256", "architecture", "fingerprint", "versions",
    "commit", "hardware", "task", "template", "bare_template", "n_shots", "n_queries", "seeds",
    "choice", "max_new_tokens", "signature", "metric_is_mean", "prompts_sha256",
}  # fmt: skip
ALIKE = RECIPE - {"versions", "n_shots", "seeds", "choice", "prompts_sha256"}
"""What must be equal in all results below: they ask the same model the same queries.

LoRA's fingerprint is of the model as transformers has it, the others' of its bridge.
"""

SIZES = {"n_queries": 3, "max_new_tokens": 2, "metric": "token_accuracy"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tiny.save(tiny.build("llama"), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(directory):
    return icl.load_model(directory, device="cpu")


def small_task():
    full = icl.load_task("pseudo-translation")
    return replace(full, train=full.train[:6], test=full.test[:4])


def sweep(model, directory, home):
    return icl.sweep(model, small_task(), conditions="examples", n_shots=1, seeds=(0, 1), **SIZES)


def heads(model, directory, home):
    return icl.HeadStudy(model, small_task(), n_shots=1, seeds=(0, 1), **SIZES).sweep()


def head_sets(model, directory, home):
    study = icl.HeadStudy(model, small_task(), n_shots=1, seeds=(0, 1), **SIZES)
    return study.nested([(0, 0), (1, 2)])


def ablation(model, directory, home):
    return ablation_study(
        model, small_task(), {(0, 0)}, 1, shots=(1, 2), seeds=(0, 1),
        interventions=("zero", "mean_z"), **SIZES,
    )  # fmt: skip


def gates(model, directory, home):
    config = GateConfig(max_epochs=1, seed=1)
    return train_gates(
        model, small_task(), config, n_shots=1, n_train=2, n_dev=1, n_curve=2, **SIZES
    )


def lora(model, directory, home):
    config = LoraConfig(rank=1, max_epochs=1, n_train=2, n_dev=1, batch_size=2)
    return lora_by_layer(
        directory, small_task(), home, config, layers=(0, 2), seeds=(0, 1), device="cpu", **SIZES
    )


def savings(model, directory, home):
    return measure_savings(model, small_task(), (0, 2), n_shots=1, seed=1, repeats=1, **SIZES)


EXPERIMENTS = {
    run.__name__: run for run in (sweep, heads, head_sets, ablation, gates, lora, savings)
}
EXPECTED = {
    "sweep": {"n_shots": 1, "seeds": [0, 1]},
    "heads": {"n_shots": 1, "seeds": [0, 1]},
    "head_sets": {"n_shots": 1, "seeds": [0, 1]},
    "ablation": {"n_shots": 2, "shots": [1, 2], "seeds": [0, 1]},
    "gates": {"n_shots": 1, "seeds": [1]},
    "lora": {"n_shots": 0, "seeds": [0, 1]},
    "savings": {"n_shots": 1, "seeds": [1]},
}


@pytest.fixture(scope="module")
def results(model, directory, tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    return {name: run(model, directory, home) for name, run in EXPERIMENTS.items()}


@pytest.fixture(params=sorted(EXPERIMENTS))
def name(request):
    return request.param


def test_every_result_carries_the_recipe(name, results, directory):
    result = results[name]
    recipe = result.provenance
    assert set(recipe) >= RECIPE
    assert recipe["model"] == str(directory) and recipe["architecture"] == "LlamaForCausalLM"
    assert recipe["dtype"] == "float32" and recipe["task"] == "pseudo-translation"
    assert recipe["n_queries"] == result.n_items == 3 and recipe["max_new_tokens"] == 2
    assert recipe["signature"] == "token_accuracy|split:space|over:longer"
    assert recipe["metric_is_mean"] is True and recipe["choice"] == "random"
    assert recipe["template"]["instruction"] == small_task().template.instruction
    assert recipe["bare_template"] == {**recipe["template"], "instruction": None}
    assert recipe["versions"]["torch"] == torch.__version__
    for digest in ("vocabulary_sha256", "fingerprint", "prompts_sha256"):
        assert len(recipe[digest]) == 64
    for key, value in EXPECTED[name].items():
        assert recipe[key] == value, key


def test_experiments_on_one_model_say_the_same_of_it(results):
    first = results["sweep"].provenance
    for name, result in results.items():
        for key in ALIKE - ({"fingerprint"} if name == "lora" else set()):
            assert result.provenance[key] == first[key], (name, key)
        assert result.provenance["versions"].items() >= first["versions"].items()


def test_every_result_has_intervals_and_comes_back(name, results, tmp_path):
    result = results[name]
    low, high = result.score_interval()
    scores = result.scores.mean(-1) if "seed" in result.axes else result.scores
    assert low.shape == scores.shape
    assert (low <= scores + 1e-6).all() and (scores <= high + 1e-6).all()
    again = type(result).load(result.save(tmp_path / name))
    assert torch.equal(again.statistics, result.statistics)
    assert torch.equal(again.scores, result.scores)
    assert again.provenance == json.loads(json.dumps(dict(result.provenance)))
    assert again.axes == result.axes
    for old, new in zip((low, high), again.score_interval(), strict=True):
        assert torch.equal(old, new)


class RanError(Exception):
    """A model ran."""


def test_the_recipe_is_complete_before_anything_runs(
    name, results, model, directory, tmp_path, monkeypatch
):
    """What is known of model, prompts and metric is noted first, whatever becomes of them."""
    noted = []

    def note(function):
        def noting(*args, **kwargs):
            noted.append(dict(function(*args, **kwargs)))
            return noted[-1]

        return noting

    def run(*args, **kwargs):
        raise RanError

    for kind in (Setting, Teacher):
        monkeypatch.setattr(kind, "recipe", note(kind.recipe))
    monkeypatch.setattr(LlamaForCausalLM, "forward", run)
    with pytest.raises(RanError):
        EXPERIMENTS[name](model, directory, tmp_path)
    (recipe,) = noted
    assert set(recipe) >= RECIPE
    for key, value in recipe.items():
        assert results[name].provenance[key] == value, key


def test_what_asks_no_task_says_what_it_asked(model, results):
    same = {"model", "revision", "dtype", "vocabulary_sha256", "architecture", "fingerprint"}
    prompts = icl.build_prompts(
        model, small_task().test[:2], examples=small_task().train, n_shots=1
    )
    effects = head_effects(model, prompts, [(0, 0)])
    scores = head_scores(model, lengths=3, n_copies=2, n_sequences=1)
    for result in (effects, scores):
        assert {key: result.provenance[key] for key in same} == {
            key: results["sweep"].provenance[key] for key in same
        }
        assert {"versions", "seed"} <= set(result.provenance)
        assert not {"task", "signature", "n_shots"} & set(result.provenance)
    assert {"n_prompts", "prompts_sha256", "template", "method", "reference"} <= {
        *effects.provenance
    }
    assert {"n_copies", "n_sequences", "drawn_from", "n_tokens"} <= {*scores.provenance}
