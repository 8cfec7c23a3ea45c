"""Every kind of intervention in the shared engine, against the hooks engine: alone and composed."""

from dataclasses import replace
from itertools import combinations

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_laws import masks, prompts_strategy
from test_shared import prompts_for

import icl_locate as icl
from icl_locate import Segment, induction
from icl_locate.engine.choice import choose_engine
from icl_locate.engine.grid import run_grid
from icl_locate.engine.shared.decoding import generate_many
from icl_locate.engine.shared.scoring import can_drop, score_many
from icl_locate.hooks.points import check_point
from icl_locate.interventions.edits import POINTS
from icl_locate.metrics import METRICS

LAYERS = range(tiny.N_LAYERS)


def state_edits(model, n_prompts):
    """Each method at each point of each layer, at places in turn; at new tokens now and then."""
    generator = torch.Generator().manual_seed(0)
    found, places = [], ("last", "examples", "query", "all", icl.At("examples", which="last"))
    for i, point in enumerate(POINTS):
        width, head = check_point(model, point), {"head": 1} if point == "z" else {}
        for j, layer in enumerate(LAYERS):
            for k, method in enumerate(("replace", "interpolate", "scale", "add", "steer")):
                shape = (width,) if (i + j + k) % 2 else (n_prompts, width)
                weight = {"weight": 0.5} if method in ("interpolate", "steer") else {}
                values = torch.randn(shape, generator=generator)
                at, new = places[(i + 2 * j + k) % 5], (i + j) % 2 == 0
                found.append(
                    icl.StateEdit(
                        method, values, layer, at, point=point, generated=new, **weight, **head
                    )
                )
    return found


def kinds(model, n_prompts):
    """One or more of each kind, of which any two may be joined."""
    edits = state_edits(model, n_prompts)
    reference = induction.head_reference(model, prompts_for(model), n_samples=3)
    return {
        "mask": [icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))],
        "mask of heads": [icl.ContextMask({Segment.QUERY}, heads={(1, 0), (2, 1)}, rows="after")],
        "edges": [induction.knockout({(1, 0), (2, 1)})],
        "silence": [icl.ContextMask(set(Segment) - {Segment.PAD}, {1}, without_bias=True)],
        "ablation": [icl.HeadAblation({(layer, 1)}) for layer in LAYERS],
        "stand-in": [
            icl.HeadAblation({(1, 0), (2, 0)}, method, reference)
            for method in ("resample", "mean_input", "mean_z")
        ],
        "scale": [icl.HeadScale({(0, 0): 0.5, (2, 1): 2.0}), icl.HeadScale({(2, 0): 0.0})],
        "generated": [icl.StateEdit("add", torch.ones(tiny.D_MODEL), 2, [], generated=True)],
        "edit": edits,
    }


def runs_of(model, n_prompts):
    every = kinds(model, n_prompts)
    runs = [run for some in every.values() for run in some]
    firsts = [some[-1] for some in every.values()] + every["edit"][:2]
    return runs + [one | other for one, other in combinations(firsts, 2)]


@pytest.fixture(scope="module", params=enumerate(tiny.ARCHITECTURES), ids=lambda param: param[1])
def numbered(request):
    """A model, and its number: each architecture takes its turn of all runs."""
    number, name = request.param
    return number, tiny.boot(name)


def test_log_probabilities_equal_the_hooks_engines(numbered):
    number, model = numbered
    prompts = prompts_for(model)
    runs = runs_of(model, len(prompts))[number % 4 :: 4]
    expected = torch.stack([icl.score_targets(model, prompts, run) for run in runs])
    for drop in {can_drop(model), False}:
        ours = score_many(model, prompts, runs, drop=drop)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    effect = (expected - icl.score_targets(model, prompts)).abs().amax(dim=1)
    assert (effect > 1e-4).float().mean() > 0.85, "they must matter, but for rows that none reads"


def test_answers_equal_the_hooks_engines(numbered):
    number, model = numbered
    prompts = prompts_for(model)
    runs = runs_of(model, len(prompts))[number % 8 :: 8]
    expected = [icl.generate(model, prompts, run, 6, ()) for run in runs]
    for drop in {can_drop(model), False}:
        assert generate_many(model, prompts, runs, 6, (), drop=drop) == expected
    assert len({tuple(texts) for texts in expected}) > 1


def test_rows_that_see_nothing_while_they_are_generated_are_silent_if_asked():
    model = tiny.boot("gpt2")  # whose output projection has a bias
    prompts = prompts_for(model)
    everything = set(Segment) - {Segment.PAD}
    runs = [
        icl.ContextMask(everything, {layer}, without_bias=silent)
        for layer in LAYERS
        for silent in (False, True)
    ]
    expected = [icl.generate(model, prompts, run, 8, ()) for run in runs]
    assert generate_many(model, prompts, runs, 8, ()) == expected
    assert expected[0::2] != expected[1::2]


@pytest.mark.parametrize("metric", ["first_token_prob", "label_accuracy", "bleu", "log_prob"])
def test_grids_of_all_kinds_run_on_the_shared_engine_in_any_chunks(metric):
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    runs = [*runs_of(model, len(prompts))[::7], icl.ContextMask(set())]
    scored = METRICS[metric]
    if metric == "label_accuracy":
        scored = scored.bound_to([icl.Example("a", target) for target in ("zimo", "zimo zimo")])
    assert choose_engine(model, "shared", runs) == "shared"
    options = {"max_new_tokens": 4, "batch_size": 64}
    expected = run_grid(model, prompts, runs, scored, engine="hooks", **options)
    for more in ({}, {"batch_size": 1}, {"token_budget": 900}):
        found = run_grid(model, prompts, runs, scored, engine="shared", **options | more)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.texts == theirs.texts
            torch.testing.assert_close(
                torch.tensor(ours.statistics), torch.tensor(theirs.statistics), atol=1e-4, rtol=0
            )


@settings(max_examples=15)
@given(
    prompts=prompts_strategy(),
    mask=masks,
    places=st.lists(
        st.tuples(
            st.sampled_from(["replace", "add", "scale"]),
            st.sampled_from(POINTS),
            st.integers(0, tiny.N_LAYERS - 1),
            st.sampled_from(["last", "all"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda place: place[1:3],
    ),
)
def test_a_composition_with_any_mask_equals_the_hooks_engines(prompts, mask, places):
    model = tiny.boot("llama")
    run = mask
    for i, (method, point, layer, at, generated) in enumerate(places):
        values = torch.randn(check_point(model, point), generator=torch.Generator().manual_seed(i))
        head = 0 if point == "z" else None
        run |= icl.StateEdit(method, values, layer, at, point=point, head=head, generated=generated)
    ours = score_many(model, prompts, [run, mask])
    expected = torch.stack([icl.score_targets(model, prompts, one) for one in (run, mask)])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_each_kind_is_compared_once_a_model(monkeypatch):
    from icl_locate.engine import choice

    model, tried = tiny.boot_fresh("gpt2"), []
    compare = choice._compare
    monkeypatch.setattr(choice, "_compare", lambda *a: tried.append(a[1][0]) or compare(*a))
    ablation = icl.HeadAblation({(0, 0)})
    edit = icl.StateEdit("scale", 0.5, 1, point="mlp_out")
    for runs in ([ablation], [ablation | edit], [icl.HeadAblation({(2, 1)}), edit], []):
        assert choose_engine(model, "auto", runs) == "shared"
    kinds = [type(one).__name__ for one in tried]
    assert kinds == ["HeadAblation", "StateEdit", "ContextMask"] and tried[1].point == "mlp_out"


def test_a_kind_that_differs_falls_back_alone(monkeypatch):
    from icl_locate.engine import choice

    model = tiny.boot_fresh("llama")
    real = choice.score_many

    def wrong(model, prompts, runs, **options):
        found = real(model, prompts, runs, **options)
        return found + 1.0 if isinstance(runs[0], icl.HeadScale) else found

    monkeypatch.setattr(choice, "score_many", wrong)
    scale = icl.HeadScale({(0, 0): 0.5})
    with pytest.warns(UserWarning, match="falling back to the hooks engine: on this Llama.* 1.0e"):
        assert choose_engine(model, "auto", [icl.HeadAblation({(0, 0)}), scale]) == "hooks"
    assert choose_engine(model, "auto", [icl.HeadAblation({(0, 0)})]) == "shared"


@pytest.mark.parametrize("point", POINTS)
def test_an_edit_may_touch_none_of_the_rows_that_are_computed(point):
    """Two runs of one prompt, beside each other by the row that is read, which no edit touches."""
    model = tiny.boot("llama")
    prompts = prompts_for(model)[:1]
    prompts = replace(prompts, target_tokens=[prompts.target_tokens[0][:1]])
    values, head = torch.ones(check_point(model, point)), 1 if point == "z" else None
    mask, at = icl.ContextMask({Segment.QUERY}), icl.At("query", which="first")
    run = mask | icl.StateEdit("add", values, 1, at, point=point, head=head)
    expected = icl.score_targets(model, prompts, mask)
    ours = score_many(model, prompts, [mask, run])
    torch.testing.assert_close(ours, torch.stack([expected] * 2), atol=1e-4, rtol=0)
