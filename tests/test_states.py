"""Laws of state edits, of the positions that they name, and of `icl.states`."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial

import pytest
import tiny
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import Part, Segment
from icl_locate.engine.grid import run_grid
from icl_locate.errors import MaskError, ModelError, NumericalError
from icl_locate.hooks import points
from icl_locate.hooks.edits import edits_of, is_edit
from icl_locate.hooks.heads import watch
from icl_locate.interventions.edits import POINTS, Where
from icl_locate.interventions.places import as_places, chosen_positions
from icl_locate.metrics import LOG_PROB

ARCHITECTURES = ["llama", "gpt2", "gemma2", "gptj", "gpt_neo"]
BANK = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
QUERIES = [
    icl.Example("reverse", "dode"),
    icl.Example("one thin zero", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]
ENDS = icl.At("examples", "target", shot="each", which="last")
PLACES = ["last", "all", "query", ENDS, ["last", icl.At("examples", "source", 1)], "examples"]
DISJOINT = [
    ("last", "examples"), (icl.At(shot=1), icl.At(shot=2)), ("instructions", ENDS),
    (icl.At("examples", "source"), icl.At("examples", "target")),
]  # fmt: skip


@cache
def prompts_for(architecture):
    template = icl.PromptTemplate(instruction="sort thin:")
    return icl.build_prompts(
        tiny.boot(architecture), QUERIES, examples=BANK, n_shots=2, template=template
    )


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def logits_under(architecture, *interventions, prompts=None):
    model = tiny.boot(architecture)
    prompts = prompts or prompts_for(architecture)
    with ExitStack() as stack, torch.no_grad():
        for intervention in interventions:
            stack.enter_context(icl.intervene(model, prompts, intervention))
        return model(prompts.tokens, attention_mask=prompts.attention_mask.long())


def everything_under(architecture, *interventions):
    """What passes each point, [layer, batch, pos, ...], padding included."""
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    found = {}
    with ExitStack() as stack, torch.no_grad():
        for intervention in interventions:
            stack.enter_context(icl.intervene(model, prompts, intervention))
        for point in POINTS:
            for_point = found.setdefault(point, {})
            stack.enter_context(watch(model, points.HOOKS[point], for_point.__setitem__))
        model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    return found


def places_of(architecture, at):
    return chosen_positions(as_places(at), prompts_for(architecture))


architectures = st.sampled_from(ARCHITECTURES)
layers = st.integers(0, tiny.N_LAYERS - 1)
some_points = st.sampled_from(POINTS)
places = st.sampled_from(PLACES)


def edit_of(method, values, layer, at, point, **options):
    """An edit; at "z", of one head with its part of the values."""
    if point == "z":
        options |= {"head": 1}
        if isinstance(values, torch.Tensor):
            values = values[..., : tiny.D_MODEL // tiny.N_HEADS]
    return icl.StateEdit(method, values, layer, at, point=point, **options)


@given(architecture=architectures, layer=layers, point=some_points, at=places)
def test_what_leaves_states_as_they_are_is_the_identity(architecture, layer, point, at):
    """Replacing a state by itself; scaling by 1, adding nothing, interpolating by nothing."""
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    clean = logits_under(architecture)
    found = icl.states(model, prompts, at, point=point)[layer]
    own = found[:, :, 1] if point == "z" else found
    head = 1 if point == "z" else None
    itself = icl.StateEdit("replace", own, layer, at, point=point, head=head)
    assert logits_under(architecture, itself).equal(clean)
    for method, values, weight in (
        ("scale", 1.0, 1.0), ("add", torch.zeros(tiny.D_MODEL), 1.0),
        ("interpolate", random(tiny.D_MODEL), 0.0), ("steer", random(tiny.D_MODEL), 0.0),
    ):  # fmt: skip
        edit = edit_of(method, values, layer, at, point, weight=weight)
        torch.testing.assert_close(logits_under(architecture, edit), clean, atol=1e-5, rtol=0)


@given(
    architecture=architectures, layer=layers, point=some_points, at=places,
    method=st.sampled_from(["replace", "add", "scale", "interpolate", "steer"]),
)  # fmt: skip
def test_nothing_below_an_edit_changes_nor_any_row_before_it(
    architecture, layer, point, at, method
):
    weight = 0.5 if method in ("interpolate", "steer") else 1.0
    edit = edit_of(method, random(tiny.D_MODEL), layer, at, point, weight=weight)
    clean, edited = everything_under(architecture), everything_under(architecture, edit)
    before = places_of(architecture, at).cumsum(dim=1) == 0
    for passed in POINTS:
        for at_layer in range(tiny.N_LAYERS):
            one, other = clean[passed][at_layer], edited[passed][at_layer]
            flows_later = at_layer == layer and _flows_before(passed, point)
            if at_layer < layer or flows_later:
                assert one.equal(other)
            elif (at_layer, passed) == (layer, point):
                differs = (one != other).flatten(2).any(-1)
                assert differs.equal(places_of(architecture, at)), "exactly these rows"
            real = before & prompts_for(architecture).attention_mask
            torch.testing.assert_close(one[real], other[real], atol=1e-6, rtol=0)
    clean_logits, logits = logits_under(architecture), logits_under(architecture, edit)
    assert not torch.allclose(clean_logits, logits, atol=1e-4)


def _flows_before(passed, point):
    """Whether a layer's value is made before an edit of the layer acts."""
    order = {"resid_pre": 0, "z": 1, "attn_out": 2, "mlp_out": 3, "resid_post": 4}
    return order[passed] < order[point]


@given(architecture=architectures, layer=layers, point=some_points, at=places, nested=st.booleans())
def test_adding_and_taking_away_is_the_identity(architecture, layer, point, at, nested):
    value = random(tiny.D_MODEL)
    there = edit_of("add", value, layer, at, point)
    back = edit_of("add", -value, layer, at, point)
    found = logits_under(architecture, *([there, back] if nested else [there | back]))
    torch.testing.assert_close(found, logits_under(architecture), atol=2e-5, rtol=0)
    assert not torch.allclose(logits_under(architecture, there), found, atol=1e-3)


@given(
    architecture=architectures, layer=layers, point=some_points, pair=st.sampled_from(DISJOINT),
    methods=st.lists(st.sampled_from(["replace", "add", "scale", "interpolate", "steer"]),
                     min_size=2, max_size=2),
)  # fmt: skip
def test_edits_at_disjoint_places_commute(architecture, layer, point, pair, methods):
    one, other = (
        edit_of(
            method, random(tiny.D_MODEL, seed=seed), layer, at, point,
            weight=0.5 if method in ("interpolate", "steer") else 1.0,
        )
        for seed, (at, method) in enumerate(zip(pair, methods, strict=True))
    )  # fmt: skip
    both = logits_under(architecture, one | other)
    assert both.equal(logits_under(architecture, other | one))
    assert both.equal(logits_under(architecture, one, other))
    assert both.equal(logits_under(architecture, other, one))
    for alone in (one, other):
        assert not torch.allclose(logits_under(architecture, alone), both, atol=1e-4)


def by_prompt(architecture, at):
    """An edit by prompt at one place, one by position at another, and one of generated tokens."""
    n = len(prompts_for(architecture))
    counts = places_of(architecture, at).sum(dim=1)
    values = random(n, int(counts.max()), tiny.D_MODEL)
    values[torch.arange(values.shape[1]) >= counts[:, None]] = torch.nan
    return (
        icl.StateEdit("replace", values, 1, at, point="mlp_out")
        | icl.StateEdit("add", random(n, tiny.D_MODEL), 0, "last", generated=True)
        | icl.StateEdit("steer", random(tiny.D_MODEL), 2, "all", weight=0.4, generated=True)
    )


@settings(max_examples=15)
@given(architecture=architectures, at=places, masked=st.booleans())
def test_a_batch_equals_its_prompts_one_by_one(architecture, at, masked):
    """Scores, labels, tokens and states, under values of each prompt; left padding or not."""
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    edit = by_prompt(architecture, at)
    if masked:
        edit = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(2)) | edit
    whole = icl.score_targets(model, prompts, edit)
    assert not torch.allclose(whole, icl.score_targets(model, prompts), atol=1e-2)
    labels = icl.score_labels(model, prompts, ["dode", "rovu goza"], edit)
    texts = icl.generate(model, prompts, edit, 4, ())
    read = icl.states(model, prompts, "query", intervention=edit)
    for size in (1, 2):
        cut = {"batch_size": size}
        assert torch.allclose(icl.score_targets(model, prompts, edit, **cut), whole, atol=1e-4)
        again = icl.score_labels(model, prompts, ["dode", "rovu goza"], edit, **cut)
        assert torch.allclose(again, labels, atol=1e-4)
        assert icl.generate(model, prompts, edit, 4, (), **cut) == texts
        some = icl.states(model, prompts, "query", intervention=edit, **cut)
        assert torch.allclose(some, read, atol=1e-4, equal_nan=True)
    alone = [icl.score_targets(model, prompts[i : i + 1], edit.take([i])) for i in range(3)]
    assert torch.allclose(torch.cat(alone), whole, atol=1e-4)


@settings(max_examples=10)
@given(architecture=architectures, at=places)
def test_cached_generation_equals_the_text_run_anew(architecture, at):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    edit = by_prompt(architecture, at)
    with icl.intervene(model, prompts, edit):
        cached, anew = (
            model.generate(
                prompts.tokens, attention_mask=prompts.attention_mask, max_new_tokens=5,
                do_sample=False, stop_at_eos=False, use_past_kv_cache=use, verbose=False,
            )
            for use in (True, False)
        )  # fmt: skip
    assert cached.equal(anew)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generated_tokens_are_edited_only_if_asked(architecture):
    """Each token's logits with a cache are those of the whole text with the row edited by hand."""
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    following, value = torch.tensor([[7, 5], [9, 7], [5, 11]]), random(3, tiny.D_MODEL)
    text = torch.cat([prompts.tokens, following], dim=1)
    seen = torch.nn.functional.pad(prompts.attention_mask, (0, 2), value=True).long()
    width = prompts.tokens.shape[1]
    for generated, at in ((True, "last"), (False, "last"), (True, ())):
        edit = icl.StateEdit("replace", value, 1, at, generated=generated)
        rows = [width - 1] * (at == "last") + [width, width + 1] * generated

        def by_hand(state, hook, rows=rows):
            state = state.clone()
            for row in rows:
                state[:, row] = value
            return state

        with torch.no_grad():
            with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", by_hand)]):
                wanted = model(text, attention_mask=seen)
            with icl.intervene(model, prompts, edit):
                assert model(text, attention_mask=seen).equal(wanted)
                _, cache = model(
                    prompts.tokens, attention_mask=prompts.attention_mask.long(), use_cache=True,
                    return_type="logits_and_cache",
                )  # fmt: skip
                found = model(following, attention_mask=seen, past_key_values=cache, use_cache=True)
        torch.testing.assert_close(found, wanted[:, -2:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edits_beside_masks_and_ablations_are_both_nested(architecture):
    """Ablated heads and scales first, whatever the order in which they are written."""
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    ablation, scale = icl.HeadAblation({(1, 1), (2, 0)}), icl.HeadScale({(0, 2): 0.3, (1, 1): 2.0})
    edit = by_prompt(architecture, "query")
    for other in (mask, ablation, scale, mask | ablation | scale):
        both = logits_under(architecture, edit | other)
        assert both.equal(logits_under(architecture, other | edit))
        torch.testing.assert_close(both, logits_under(architecture, other, edit), atol=1e-5, rtol=0)
        for alone in (edit, other):
            assert not torch.allclose(both, logits_under(architecture, alone), atol=1e-3)
    head = edit_of("replace", random(tiny.D_MODEL), 1, "all", "z")
    alone = logits_under(architecture, head)
    assert logits_under(architecture, icl.HeadAblation({(1, 1)}) | head)[:, -1].equal(alone[:, -1])
    doubled = logits_under(architecture, icl.HeadScale({(1, 1): 2.0}) | head)
    assert doubled[:, -1].equal(alone[:, -1]), "states are edited behind scales"


def test_the_order_of_methods_at_one_place():
    """((1 - w) r + w i) s + a, then steered."""
    replaced, mixed, added, against = (random(tiny.D_MODEL, seed=seed) for seed in range(4))
    towards = against - 2 * ((0.75 * replaced + 0.25 * mixed) * 3.0 + added)
    edits = [
        icl.StateEdit("steer", towards, 1, weight=0.5),
        icl.StateEdit("add", added, 1),
        icl.StateEdit("scale", 3.0, 1),
        icl.StateEdit("interpolate", mixed, 1, weight=0.25),
        icl.StateEdit("replace", replaced, 1),
    ]
    together = edits[0]
    for edit in edits[1:]:
        together = together | edit
    x = (0.75 * replaced + 0.25 * mixed) * 3.0 + added
    cosine = torch.cosine_similarity(x, towards, dim=0)
    assert cosine < -0.5
    turned = x / x.norm() + 0.5 * (1 + (-cosine).clamp(min=0)) * towards / towards.norm()
    wanted = x.norm() * turned / turned.norm()
    found = logits_under("llama", together)
    by_hand = logits_under("llama", icl.StateEdit("replace", wanted, 1))
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=0)
    again = [icl.StateEdit("scale", 2.0, 1), icl.StateEdit("add", added, 1)]
    x = (replaced * 3.0 * 2.0) + added + added
    found = logits_under("llama", again[0] | edits[4] | again[1] | edits[2] | edits[1])
    torch.testing.assert_close(
        found, logits_under("llama", icl.StateEdit("replace", x, 1)), atol=1e-5, rtol=0
    )
    assert logits_under("llama", edits[1] | edits[1]).equal(logits_under("llama", edits[1]))


def test_edits_that_contradict_are_refused_and_equal_ones_are_one():
    value, other = random(3, tiny.D_MODEL), random(tiny.D_MODEL, seed=1)
    for method, weight in (("replace", 1.0), ("interpolate", 0.5), ("steer", 0.5)):
        one = icl.StateEdit(method, value, 1, "all", weight=weight, generated=True)
        alone = logits_under("llama", one)
        rest = torch.full((3, 5, tiny.D_MODEL), torch.nan)
        n_query = places_of("llama", "query").sum(dim=1)
        for i, n in enumerate(n_query):
            rest[i, :n] = value[i]
        for same in (
            icl.StateEdit(method, value.clone(), 1, "query", weight=weight, generated=True),
            icl.StateEdit(method, rest, 1, "query", weight=weight),
        ):
            for both in (one | same, same | one):
                torch.testing.assert_close(logits_under("llama", both), alone, atol=1e-6, rtol=0)
        for clash in (
            icl.StateEdit(method, other, 1, weight=weight),
            icl.StateEdit(method, other, 1, (), weight=weight, generated=True),
        ):
            message = f"^two StateEdits {method} the same states .layer 1, resid_post; "
            with pytest.raises(MaskError, match=message):
                logits_under("llama", one | clash)
        elsewhere = (
            icl.StateEdit(method, other, 2, weight=weight)
            | icl.StateEdit(method, other, 1, point="resid_pre", weight=weight)
            | icl.StateEdit(method, other[:8], 1, point="z", head=0, weight=weight)
            | icl.StateEdit(method, other[8:16], 1, point="z", head=1, weight=weight)
        )
        logits_under("llama", one | elsewhere)
    learned = torch.zeros(tiny.D_MODEL, requires_grad=True)
    twin = learned.detach().clone().requires_grad_()
    both = icl.StateEdit("replace", learned, 1) | icl.StateEdit("replace", twin, 1)
    with pytest.raises(MaskError, match="the same states"):
        logits_under("llama", both)


@pytest.mark.parametrize("method", ["replace", "add", "scale", "interpolate", "steer"])
def test_gradients_reach_the_values(method):
    """Of the rows that are edited, even where steering meets states of zeros."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    values = random(3, tiny.D_MODEL).requires_grad_()
    weight = 0.5 if method in ("interpolate", "steer") else 1.0
    edit = icl.StateEdit(method, values, 1, ENDS, weight=weight)
    silent = icl.StateEdit("scale", 0.0, 1, [ENDS, "query"])
    for intervention in (edit, edit | silent):
        values.grad = None
        with icl.intervene(model, prompts, intervention):
            logits = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
            logits[:, -1].square().sum().backward()
        assert values.grad.isfinite().all()
    values.grad = None
    with icl.intervene(model, prompts, edit):
        model(prompts.tokens, attention_mask=prompts.attention_mask.long())[:, -1].sum().backward()
    assert (values.grad.abs().amax(dim=1) > 0).all()


def test_positions_are_those_that_are_named():
    prompts = prompts_for("llama")
    last = prompts.tokens.shape[1] - 1

    def named(at):
        return places_of("llama", at).nonzero().tolist()

    assert named("last") == [[i, last] for i in range(3)]
    assert named("all") == prompts.attention_mask.nonzero().tolist()
    assert named("query") == (prompts.segments == Segment.QUERY).nonzero().tolist()
    assert named(["query", "last", Segment.BOS]) == sorted(
        named("query") + (prompts.segments == Segment.BOS).nonzero().tolist()
    )
    targets = (prompts.parts == Part.TARGET) & (prompts.segments == Segment.EXAMPLES)
    for which, pick in (("first", min), ("last", max)):
        wanted = []
        for i in range(3):
            for shot in (1, 2):
                row = (targets & (prompts.shots == shot))[i].nonzero()[:, 0].tolist()
                wanted.append([i, pick(row)])
        assert named(icl.At("examples", "target", "each", which)) == wanted
        assert named(icl.At("examples", "target", {1, 2}, which)) == wanted
        assert named(icl.At(part=Part.TARGET, shot=2, which=which)) == wanted[1::2]
        alone = [max(pair) if which == "last" else min(pair) for pair in _pairs(wanted)]
        assert named(icl.At("examples", "target", which=which)) == alone
    assert named(icl.At("examples", "target")) == targets.nonzero().tolist()
    assert icl.At("EXAMPLES", "Target", 1) == icl.At(Segment.EXAMPLES, Part.TARGET, {1})
    forced = prompts[0:3]
    assert (places_of("llama", ["all"]) == forced.attention_mask).all()


def _pairs(found):
    return zip(found[::2], found[1::2], strict=True)


def test_targets_that_are_scored_are_no_positions_of_the_prompt():
    """ "last" and "all" stay the prompt's when a target is appended to it."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    value = random(tiny.D_MODEL)
    width = prompts.tokens.shape[1]
    for i in range(3):
        single = prompts[i : i + 1]
        target = single.target_tokens[0]
        text = torch.cat([single.tokens, torch.tensor([target])], dim=1)
        n = single.tokens.shape[1]
        for generated in (False, True):
            rows = slice(n - 1, None if generated else n)

            def by_hand(state, hook, rows=rows):
                state = state.clone()
                state[:, rows] = value
                return state

            with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", by_hand)]):
                logits = model(text, attention_mask=torch.ones_like(text)).log_softmax(-1)
            wanted = sum(float(logits[0, n - 1 + k, token]) for k, token in enumerate(target))
            edit = icl.StateEdit("replace", value, 1, generated=generated)
            found = icl.score_targets(model, prompts, edit)[i]
            assert abs(float(found) - wanted) < 1e-4
    assert width == prompts.tokens.shape[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_the_rows_of_one_pass(architecture, monkeypatch):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    clean = everything_under(architecture)
    edit = icl.StateEdit("add", random(tiny.D_MODEL), 1, point="mlp_out")
    edited = everything_under(architecture, edit)
    for point in POINTS:
        for at in PLACES:
            chosen = places_of(architecture, at)
            found = icl.states(model, prompts, at, point=point)
            under = icl.states(model, prompts, at, point=point, intervention=edit)
            assert found.shape[:3] == (tiny.N_LAYERS, 3, int(chosen.sum(dim=1).max()))
            for layer in range(tiny.N_LAYERS):
                for i in range(3):
                    n = int(chosen[i].sum())
                    assert found[layer, i, :n].equal(clean[point][layer][i, chosen[i]])
                    assert under[layer, i, :n].equal(edited[point][layer][i, chosen[i]])
                    assert found[layer, i, n:].isnan().all()
    sizes = []
    whole = icl.states(model, prompts, "query")
    monkeypatch.setattr("icl_locate.engine.states.watch", _counting(sizes))
    for options, wanted in (
        ({"batch_size": 2}, [2, 1]), ({"token_budget": prompts.tokens.shape[1]}, [1, 1, 1]),
    ):  # fmt: skip
        sizes.clear()
        again = icl.states(model, prompts, "query", **options)
        assert torch.allclose(again, whole, atol=1e-5, equal_nan=True)
        assert sizes == wanted


def _counting(sizes):
    def counted(model, name, keep, layers):
        sizes.append(len(keep.args[0]))  # the numbers of its prompts
        return watch(model, name, keep, layers)

    return counted


@pytest.mark.parametrize("point", ["resid_post", "z"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_of_generated_tokens(architecture, point):
    """Against what passes while each prompt is continued by itself, with a cache."""
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    n_new, ends = 5, model.tokenizer.eos_token_id
    value = random(3, tiny.D_MODEL)
    edit = icl.StateEdit("add", value, 0, "last", generated=True)
    edit = edit | icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    options = {"point": point, "intervention": edit, "max_new_tokens": n_new}
    found = icl.states(model, prompts, ["last", "generated"], **options)
    assert icl.states(model, prompts, "generated", batch_size=2, **options).isfinite().any()
    for i in range(3):
        single, rows = prompts[i : i + 1], []
        step, cache = single.tokens, None
        with torch.no_grad(), icl.intervene(model, single, edit.take([i])):
            for n in range(n_new + 1):
                passed = {}
                with watch(model, points.HOOKS[point], passed.__setitem__):
                    logits, cache = model(
                        step, attention_mask=torch.ones(1, single.tokens.shape[1] + n).long(),
                        past_key_values=cache, use_cache=True, return_type="logits_and_cache",
                    )  # fmt: skip
                rows.append(torch.stack([passed[k][0, -1] for k in range(tiny.N_LAYERS)]))
                step = logits[:, -1].argmax(-1, keepdim=True)
                if int(step) == ends:
                    break
        wanted = torch.stack(rows, dim=1)
        n = wanted.shape[1]
        torch.testing.assert_close(found[:, i, :n], wanted, atol=1e-4, rtol=0)
        assert found[:, i, n:].isnan().all()


def test_a_prompt_whose_answer_is_empty_has_no_generated_states():
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    likely = int(logits_under("llama")[0, -1].argmax())
    model.tokenizer.eos_token_id = likely
    model.original_model.generation_config.eos_token_id = likely
    found = icl.states(model, prompts, ["last", "generated"], max_new_tokens=2)
    assert found[:, 0, 0].isfinite().all() and found[:, 0, 1:].isnan().all()


def test_half_precision_is_read_as_it_is_and_nan_is_named():
    model = tiny.boot_fresh("llama")
    prompts = prompts_for("llama")
    model.original_model.to(torch.bfloat16)
    found = icl.states(model, prompts)
    assert found.dtype == torch.float32 and found.equal(found.bfloat16().float())
    edit = icl.StateEdit("replace", found[1], 1)
    assert icl.states(model, prompts, intervention=edit).equal(found)
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(NumericalError, match="the model gave NaN for prompt 0"):
        icl.states(model, prompts)


def test_edits_know_the_rows_that_they_touch():
    """What another engine asks an edit for: rows in any choice and order."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    values, width = random(3, tiny.D_MODEL), prompts.tokens.shape[1]
    edit = icl.StateEdit("replace", values, 1, ENDS, generated=True)
    mask = icl.ContextMask({Segment.EXAMPLES})
    parts = icl.HeadScale({(0, 1): 2.0}) | edit | mask | icl.HeadAblation({(2, 2)})
    assert [is_edit(part) for part in (edit, mask, *(icl.HeadAblation({(2, 2)}),))] == [1, 0, 1]
    found = edits_of(model, prompts, parts)
    assert [(one.layer, one.point) for one in found] == [(2, "z"), (0, "z"), (1, "resid_post")]
    assert found[0].touched is None and found[0].generated
    one = found[2]
    assert one.touched.equal(places_of("llama", ENDS)) and one.generated
    positions = torch.tensor([[width + 3, 4, width - 1], [8, 9, width]])
    where = Where(torch.tensor([2, 0]), positions, positions)
    wanted = [[True, bool(one.touched[2, 4]), False],
              [bool(one.touched[0, 8]), bool(one.touched[0, 9]), True]]  # fmt: skip
    assert one.rows(where).tolist() == wanted
    state = random(2, 3, tiny.D_MODEL, seed=3)
    new = one(state, lambda: where)
    for row, prompt in enumerate((2, 0)):
        for place in range(3):
            kept = values[prompt] if wanted[row][place] else state[row, place]
            assert new[row, place].equal(kept)


def test_edits_inside_a_dropped_context():
    """They count on every row: below its start they act, from it on they are refused."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    for layer in (0, 1, 2):
        edit = icl.StateEdit("add", random(tiny.D_MODEL), layer, generated=True)
        scale = icl.HeadScale({(layer, 1): 0.5})
        mask = icl.ContextMask({Segment.INSTRUCTIONS, Segment.EXAMPLES}, icl.from_layer(1))
        for part in (edit, scale):
            with (
                icl.drop_context(model, prompts, 1),
                icl.intervene(model, prompts, part),
                torch.no_grad(),
            ):
                if part is edit and layer:
                    with pytest.raises(MaskError, match="counts on every row, but drop_context"):
                        model(prompts.tokens, attention_mask=prompts.attention_mask.long())
                    continue
                found = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
            wanted = logits_under("llama", part | mask)
            torch.testing.assert_close(found[:, -1], wanted[:, -1], atol=1e-4, rtol=0)


def test_a_point_at_which_edits_have_not_their_effect_is_refused(monkeypatch):
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    edit = icl.StateEdit("add", random(tiny.D_MODEL), 1, point="mlp_out")
    fine = icl.StateEdit("add", random(tiny.D_MODEL), 1)

    def refused(message):
        with pytest.raises(ModelError, match=message), icl.intervene(model, prompts, edit):
            pass
        with pytest.raises(ModelError, match=message):
            icl.states(model, prompts, point="mlp_out")

    hooks = model.hooks

    def only(act):
        def of(fwd_hooks):
            return hooks(fwd_hooks=[
                (name, partial_of(act, hook) if "mlp_out" in name else hook)
                for name, hook in fwd_hooks
            ])  # fmt: skip

        return of

    def partial_of(act, mine):
        return lambda value, hook: act(value, mine(value, hook=hook))

    kept = "what the MLPs add to the residual stream cannot be replaced in this LlamaForCausalLM: "
    with monkeypatch.context() as patch:
        patch.setattr(model, "hooks", only(lambda value, new: value))
        refused(kept + "with other values there nothing changed")
        patch.setattr(model, "hooks", only(lambda value, new: new.flip(1)))
        refused(kept + "with its own values put back there the logits changed")
        patch.setattr(
            model, "hooks",
            only(lambda value, new: new if new.equal(value) else new + (new - value).flip(1)),
        )  # fmt: skip
        refused(kept + "edits of later rows acted on earlier ones")
        patch.setitem(points.HOOKS, "mlp_out", "blocks.{}.hook_nowhere")
        refused(kept + "TransformerLens offers no blocks.0.hook_nowhere in each of its layers")
        with icl.intervene(model, prompts, fine):
            pass
    with icl.intervene(model, prompts, edit):
        pass


def test_nested_on_a_model_that_nobody_looked_at():
    """The outer context is open when the inner one asks what the model takes."""
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    edit = icl.StateEdit("add", random(tiny.D_MODEL), 1, point="attn_out")
    with (
        icl.intervene(model, prompts, mask),
        icl.intervene(model, prompts, edit),
        torch.no_grad(),
    ):
        found = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    torch.testing.assert_close(found, logits_under("llama", mask | edit), atol=1e-6, rtol=0)


@given(at=places, seed=st.integers(0, 5))
def test_what_was_read_can_be_put_into_other_prompts(at, seed):
    """A roundtrip by position, NaN behind included: the states of one batch in another."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    source = prompts.take([seed % 3])
    other = prompts.take([(seed + 1) % 3])
    n_given = chosen_positions(as_places(at), source).sum()
    assume(n_given == chosen_positions(as_places(at), other).sum())
    given_states = icl.states(model, source, at)
    edit = icl.StateEdit("replace", given_states[1], 1, at)
    found = icl.states(model, other, at, intervention=edit)
    assert found[1].equal(given_states[1])


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_grids_cut_values_with_their_prompts(engine):
    """And refuse those for more prompts than there are, which a cut alone would pass over."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    runs = [by_prompt("llama", "query"), icl.ContextMask({Segment.EXAMPLES})]
    runs.append(runs[0] | runs[1])
    for batch_size in (1, 2, 3):
        options = {"engine": engine, "max_new_tokens": 2, "batch_size": batch_size}
        cells = run_grid(model, prompts, runs, LOG_PROB, **options)
        for run, cell in zip(runs, cells, strict=True):
            wanted = icl.score_targets(model, prompts, run)
            found = torch.tensor(cell.statistics[:, 0]).float()
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        for n in (2, 4):
            edit = icl.StateEdit("add", random(n, tiny.D_MODEL), 1)
            with pytest.raises(MaskError, match=f"has values for {n} prompts, but runs on 3"):
                run_grid(model, prompts, [runs[1], edit | runs[1]], LOG_PROB, **options)


@dataclass(frozen=True, eq=False)
class Louder(icl.Intervention):
    """A kind of one's own with a factor for each prompt."""

    factors: torch.Tensor

    def take(self, items):
        return Louder(self.factors[[*items]])


def louder(part, value, hook):
    return value * part.factors[:, None, None]


@icl.register_intervention(Louder)
def put_louder(site, parts):
    return site.hooked(("blocks.1.mlp.hook_out", partial(louder, part)) for part in parts)


def test_kinds_of_ones_own_may_hold_something_for_each_prompt():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    kind = Louder(torch.tensor([3.0, -2.0, 0.5])) | icl.HeadScale({(0, 0): 2.0})
    whole = icl.score_targets(model, prompts, kind)
    assert not torch.allclose(whole, icl.score_targets(model, prompts), atol=1e-3)
    for size in (1, 2):
        found = icl.score_targets(model, prompts, kind, batch_size=size)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("compat", [None, "sia2024"])
def test_a_sweep_alongside_values_of_each_prompt(compat, monkeypatch):
    """Where prompts part by what other code hides behind them, too."""
    monkeypatch.setattr(
        "icl_locate.masking.plan.sia2024_prompts",
        lambda tokenizer, prompts, c: (prompts, (0, 1, 0)),
    )
    model = tiny.boot("llama")
    task = icl.Task(
        "words", tuple(BANK), tuple(QUERIES), icl.PromptTemplate("sort thin:"), "log_prob"
    )
    edit = icl.StateEdit("add", random(3, tiny.D_MODEL), 0)
    options = {"n_shots": 2, "n_queries": 3, "seeds": 0, "conditions": "examples"}
    found = icl.sweep(model, task, alongside=edit, compat=compat, **options)
    template = task.template_for(instruction=False)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2, template=template)
    wanted = icl.score_targets(
        model, prompts, edit
    )  # as at the last layer, where nothing is hidden
    torch.testing.assert_close(found.item_scores[0, -1, 0].float(), wanted, atol=1e-4, rtol=0)
    assert not torch.allclose(wanted, icl.score_targets(model, prompts), atol=1e-2)
