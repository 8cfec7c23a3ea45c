"""Sweeps with something done in every cell, beside the masks: against single runs, one by one."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from tiny import boot

import icl_locate as icl
from icl_locate.studies.recipe import describe_intervention, describe_value

TASK = icl.load_task("pseudo-translation")
OPTIONS = {
    "conditions": ["examples, instructions kept", "query"], "n_shots": 2, "n_queries": 4,
    "seeds": [0], "max_new_tokens": 3,
}  # fmt: skip
HEADS = {(0, 1), (2, 0)}


def prompts_of(model):
    return icl.build_prompts(
        model, TASK.test[:4], examples=TASK.train, n_shots=2, template=TASK.template, seed=0
    )


def scaled():
    """Factors that leave most heads alone."""
    factors = torch.ones(tiny.N_LAYERS, boot("llama").cfg.n_heads)
    factors[1] = 0.25
    return icl.HeadScale(factors)


ALONGSIDE = {
    "ablation": lambda: icl.HeadAblation(HEADS),
    "scale": scaled,
    "mask": lambda: icl.ContextMask({icl.Segment.EXAMPLES}, icl.only_layer(1)),
    "edges": lambda: icl.EdgeMask(lambda p, n: torch.ones_like(p.tokens, dtype=torch.bool)
                                  [:, None, :].expand(-1, n, -1), icl.only_layer(2)),
    "both": lambda: icl.HeadAblation(HEADS) | icl.ContextMask(
        {icl.Segment.INSTRUCTIONS}, icl.from_layer(2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONGSIDE)
def test_every_cell_is_the_run_of_its_mask_and_what_acts_alongside(name):
    model, beside = boot("llama"), ALONGSIDE[name]()
    found = icl.sweep(model, TASK, metric="log_prob", alongside=beside, **OPTIONS)
    prompts = prompts_of(model)
    for i, condition in enumerate(icl.PAPER_CONDITIONS[2:4]):
        for layer in found.layers:
            with icl.intervene(model, prompts, beside):
                wanted = icl.score_targets(model, prompts, condition.mask(icl.from_layer(layer)))
            torch.testing.assert_close(
                found.item_scores[i, layer, 0], wanted.double(), atol=1e-4, rtol=0
            )
    clean = icl.sweep(model, TASK, metric="log_prob", **OPTIONS)
    assert not found.ceiling.allclose(clean.ceiling), "it acts where nothing is hidden, too"


def test_generated_answers_are_those_of_single_runs():
    model, beside = boot("llama"), icl.HeadAblation(HEADS)
    found = icl.sweep(model, TASK, metric="exact_match", alongside=beside, **OPTIONS)
    prompts = prompts_of(model)
    mask = icl.PAPER_CONDITIONS[2].mask(icl.from_layer(1))
    assert found.texts[0][1][0] == icl.generate(model, prompts, mask | beside, 3)
    assert found.texts[0][-1][0] == icl.generate(model, prompts, beside, 3)


def test_engines():
    model = boot("llama")
    mask, heads = ALONGSIDE["mask"](), icl.HeadAblation(HEADS)
    fast, slow = (
        icl.sweep(model, TASK, metric="log_prob", alongside=mask, engine=engine, **OPTIONS)
        for engine in ("shared", "hooks")
    )
    assert fast.provenance["engine"] == "shared" and slow.provenance["engine"] == "hooks"
    torch.testing.assert_close(fast.scores, slow.scores, atol=1e-4, rtol=0)
    found, slow = (
        icl.sweep(model, TASK, metric="log_prob", alongside=heads, engine=engine, **OPTIONS)
        for engine in ("auto", "hooks")
    )
    assert found.provenance["engine"] == "shared"
    torch.testing.assert_close(found.scores, slow.scores, atol=1e-4, rtol=0)


def test_the_recipe_tells_what_acted():
    model = boot("llama")
    found = icl.sweep(model, TASK, metric="log_prob", alongside=ALONGSIDE["both"](), **OPTIONS)
    kinds = [part["kind"] for part in found.provenance["alongside"]]
    assert sorted(kinds) == ["ContextMask", "HeadAblation"]
    assert icl.sweep(model, TASK, metric="log_prob", **OPTIONS).provenance["alongside"] is None


def test_equal_interventions_and_no_others_are_described_alike():
    one, other = icl.HeadAblation({(0, 1), (2, 0)}), icl.HeadAblation({(2, 0), (0, 1)})
    assert describe_intervention(one) == describe_intervention(other)
    mask = icl.ContextMask({icl.Segment.EXAMPLES, icl.Segment.QUERY}, {3, 1})
    assert describe_intervention(mask | one) == describe_intervention(other | mask)
    different = [
        one, mask, icl.HeadAblation({(0, 1)}), icl.ContextMask({icl.Segment.QUERY}, {3, 1}),
        icl.HeadScale(torch.ones(2, 2)), icl.HeadScale(torch.ones(2, 2) * 0.5),
        icl.EdgeMask(prompts_of), icl.EdgeMask(scaled),
    ]  # fmt: skip
    described = [str(describe_intervention(each)) for each in different]
    assert len(set(described)) == len(described)


@dataclass(frozen=True)
class Fill(icl.Intervention):
    """A kind whose field JSON has no number for."""

    value: float = float("-inf")


def adder(amount):
    return lambda value, hook: value + amount


def test_values_that_differ_are_described_apart_and_equal_ones_alike():
    """Whatever a recipe may have to hold: JSON takes it, and takes it the same way twice."""
    numbers = np.arange(5000)
    values = [
        Fill(), Fill(1.0), numbers, numbers + (numbers == 2500), numbers.astype(float),
        torch.tensor([1.0]), torch.tensor([1]), torch.tensor([[1.0]]), np.float64(2.5),
        float("nan"),
        adder(1), adder(2), partial(adder, 1), partial(adder, 2), lambda: 1, lambda: 2, len, max,
        {"a": {2, 1}}, {"a": {2, 3}}, icl.Segment.QUERY, None, True, "True",
    ]  # fmt: skip
    described = [json.dumps(describe_value(value), allow_nan=False) for value in values]
    assert len(set(described)) == len(values), described
    assert described == [json.dumps(describe_value(value)) for value in values]
    assert describe_value(adder(1)) == describe_value(adder(1))
    assert describe_value({3, 11, 2}) == describe_value({11, 2, 3})
    assert describe_value(object()) == describe_value(object()), "of it only the class is known"
    looped = []
    assert describe_value(lambda: looped) != describe_value(lambda: None)
