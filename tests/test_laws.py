"""The ten laws of a mask, on random segments, masks, batches, paddings and architectures.

Law 9 (segments) is tested in test_tokens.py, law 10 (engines) in test_shared.py.
"""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import Segment
from icl_locate.hooks import Route, find_route
from icl_locate.interventions.hidden import hidden_cells
from icl_locate.interventions.layers import LayerRange

ARCHITECTURES = ["gpt2", "llama", "bloom", "mistral", "gemma2", "gpt_neo", "opt"]
CONTEXT = [Segment.INSTRUCTIONS, Segment.EXAMPLES, Segment.QUERY]
REAL = [Segment.BOS, *CONTEXT]


def make_prompts(segments, tokens):
    """Prompts with given segments; no text stands behind them."""
    segments = torch.tensor(segments, dtype=torch.int8)
    n = len(segments)
    return icl.Prompts(
        tokens=tokens,
        attention_mask=segments != Segment.PAD,
        segments=segments,
        parts=torch.zeros_like(segments),
        shots=torch.zeros_like(segments, dtype=torch.long),
        words=torch.full_like(segments, -1, dtype=torch.long),
        target_tokens=[[9, 10]] * n,
        texts=[""] * n,
        sources=["s"] * n,
        targets=["t"] * n,
        template=icl.PromptTemplate(),
    )


@st.composite
def prompts_strategy(draw, max_batch=3):
    """Left-padded rows of BOS and of context segments in any order, each segment in every row."""
    batch = draw(st.integers(1, max_batch))
    width = draw(st.integers(6, 13))
    rows = []
    for _ in range(batch):
        n_pad = draw(st.integers(0, width - 5))
        rest = draw(
            st.lists(st.sampled_from(CONTEXT), min_size=width - n_pad - 4, max_size=width - n_pad)
        )
        body = draw(st.permutations([*CONTEXT, *rest[: width - n_pad - 4]]))
        rows.append([Segment.PAD] * n_pad + [Segment.BOS, *body])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tokens = torch.randint(3, tiny.VOCABULARY, (batch, width), generator=generator)
    return make_prompts(rows, tokens)


layer_sets = st.one_of(
    st.integers(0, tiny.N_LAYERS).map(icl.from_layer),
    st.integers(0, tiny.N_LAYERS).map(icl.until_layer),
    st.integers(0, tiny.N_LAYERS - 1).map(icl.only_layer),
    st.sets(st.integers(0, tiny.N_LAYERS - 1)),
)
head_sets = st.none() | st.sets(
    st.tuples(st.integers(0, tiny.N_LAYERS - 1), st.integers(0, tiny.N_HEADS - 1))
)


def does_something(mask):
    """Whether a head that is named lies in a layer that is; such masks alone are taken."""
    layers = mask.layers
    if isinstance(layers, LayerRange):
        layers = layers.resolve(tiny.N_LAYERS)
    return not mask.heads or not layers or any(layer in layers for layer, _ in mask.heads)


masks = st.builds(
    icl.ContextMask,
    hide=st.sets(st.sampled_from([*REAL, Segment.GENERATED])),
    layers=layer_sets,
    heads=head_sets,
    rows=st.sampled_from(["all", "after"]),
    keep_self=st.booleans(),
).filter(does_something)


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return tiny.boot(request.param)


def run(model, prompts, *masks):
    with torch.no_grad(), ExitStack() as stack:
        for mask in masks:
            stack.enter_context(icl.mask_attention(model, prompts, mask))
        return model(prompts.tokens, attention_mask=prompts.attention_mask.long())


def cache(model, prompts, names, *masks):
    with torch.no_grad(), ExitStack() as stack:
        for mask in masks:
            stack.enter_context(icl.mask_attention(model, prompts, mask))
        _, found = model.run_with_cache(
            prompts.tokens,
            attention_mask=prompts.attention_mask.long(),
            names_filter=lambda name: any(name.endswith(end) for end in names),
        )
    return found


def attached_hooks(model):
    """Every hook on every module, TransformerLens's own included."""
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def acting(mask, layer):
    """The heads on which a mask acts at a layer."""
    layers = mask.layers
    if isinstance(layers, LayerRange):
        layers = layers.resolve(tiny.N_LAYERS)
    if layer not in layers:
        return []
    return [h for h in range(tiny.N_HEADS) if mask.heads is None or (layer, h) in mask.heads]


@given(data=st.data())
def test_law_1_hidden_weights_are_zero_and_the_others_sum_to_one(model, data):
    prompts, mask = data.draw(prompts_strategy()), data.draw(masks)
    found = cache(model, prompts, ["attn.hook_pattern", "attn.hook_z"], mask)
    cells = hidden_cells(mask, prompts.segments, prompts.tokens.shape[1])
    for layer in range(tiny.N_LAYERS):
        pattern = found[f"blocks.{layer}.attn.hook_pattern"]
        z = found[f"blocks.{layer}.attn.hook_z"].transpose(1, 2)
        for head in acting(mask, layer):
            weights = pattern[:, head]
            empty = (z[:, head] == 0).all(-1)
            shown = ~empty[..., None] if find_route(model) is Route.MASK else True
            assert (weights.masked_fill(~(cells & shown), 0.0) == 0).all()
            seen = prompts.attention_mask & ~empty
            torch.testing.assert_close(
                weights.sum(-1)[seen], torch.ones(int(seen.sum())), atol=1e-5, rtol=0
            )


@given(data=st.data())
def test_law_1_the_others_are_the_softmax_over_visible_keys(data):
    model = tiny.boot(data.draw(st.sampled_from(["gpt2", "llama", "mistral", "bloom"])))
    prompts = data.draw(prompts_strategy())
    start = data.draw(st.integers(0, tiny.N_LAYERS - 1))
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(start))
    scores = cache(model, prompts, ["hook_attn_scores"])[f"blocks.{start}.attn.hook_attn_scores"]
    pattern = cache(model, prompts, ["hook_pattern"], mask)[f"blocks.{start}.attn.hook_pattern"]
    hidden = hidden_cells(mask, prompts.segments, prompts.tokens.shape[1])[:, None]
    possible = (scores > torch.finfo(torch.float32).min / 2) & ~hidden
    weights = scores.masked_fill(~possible, -torch.inf).softmax(-1).nan_to_num(0.0)
    rows = prompts.attention_mask[:, None, :, None]
    torch.testing.assert_close(pattern * rows, weights * rows, atol=1e-6, rtol=0)


@given(data=st.data())
def test_law_2_future_and_padding_stay_hidden(model, data):
    prompts, mask = data.draw(prompts_strategy()), data.draw(masks)
    before = run(model, prompts, mask)
    tokens = prompts.tokens.clone()
    tokens[~prompts.attention_mask] = 5
    position = data.draw(st.integers(1, tokens.shape[1] - 1))
    tokens[:, position:] = 7
    after = run(model, replace(prompts, tokens=tokens), mask)
    earlier = prompts.attention_mask.clone()
    earlier[:, position:] = False
    torch.testing.assert_close(before[earlier], after[earlier], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_law_3_a_row_that_sees_nothing_attends_to_nothing(architecture, dtype):
    model = tiny.boot_fresh(architecture).to(dtype)
    segments = [[0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 4], [1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4, 4]]
    prompts = make_prompts(segments, torch.arange(24).view(2, 12) + 5)
    everything = icl.ContextMask(set(REAL), icl.from_layer(1))
    found = cache(model, prompts, ["attn.hook_z"], everything)
    logits = run(model, prompts, everything)
    for layer in range(1, tiny.N_LAYERS):
        z = found[f"blocks.{layer}.attn.hook_z"][prompts.attention_mask]
        assert (z == 0).all()
    assert (found["blocks.0.attn.hook_z"][prompts.attention_mask] != 0).any(-1).all()
    assert not logits[prompts.attention_mask].isnan().any()


@given(data=st.data())
def test_law_4_nothing_before_the_effect(model, data):
    prompts, mask = data.draw(prompts_strategy()), data.draw(masks)
    names = ["hook_in", "attn.hook_z"]
    clean, masked = cache(model, prompts, names), cache(model, prompts, names, mask)
    first = next((layer for layer in range(tiny.N_LAYERS) if acting(mask, layer)), tiny.N_LAYERS)
    for layer in range(min(first + 1, tiny.N_LAYERS)):
        assert clean[f"blocks.{layer}.hook_in"].equal(masked[f"blocks.{layer}.hook_in"])
    if first < tiny.N_LAYERS:
        name = f"blocks.{first}.attn.hook_z"
        others = [head for head in range(tiny.N_HEADS) if head not in acting(mask, first)]
        assert clean[name][:, :, others].equal(masked[name][:, :, others])


@given(prompts=prompts_strategy())
def test_law_4_rows_outside_the_mask_are_untouched(model, prompts):
    mask = icl.ContextMask({Segment.EXAMPLES}, rows="after")
    clean, masked = run(model, prompts), run(model, prompts, mask)
    for row, segments in enumerate(prompts.segments.tolist()):
        last = max(i for i, segment in enumerate(segments) if segment == Segment.EXAMPLES)
        first = segments.index(Segment.BOS)
        assert clean[row, first : last + 1].equal(masked[row, first : last + 1])


@given(prompts=prompts_strategy())
def test_law_5_identities(model, prompts):
    clean = run(model, prompts)
    for mask in (
        icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(tiny.N_LAYERS)),
        icl.ContextMask({Segment.EXAMPLES}, icl.until_layer(0)),
        icl.ContextMask(set(), icl.from_layer(0)),
        icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(0), heads=set()),
        icl.ContextMask({Segment.EXAMPLES}, set()),
    ):
        assert run(model, prompts, mask).equal(clean)


@given(data=st.data())
def test_law_6_masks_compose_by_union(model, data):
    prompts = data.draw(prompts_strategy())
    a, b = data.draw(masks), data.draw(masks)
    union = run(model, prompts, a | b)
    assert run(model, prompts, b | a).equal(union)
    assert run(model, prompts, (a | b) | a).equal(union)
    assert run(model, prompts, a | a).equal(run(model, prompts, a))
    real = prompts.attention_mask
    for nested in (run(model, prompts, a, b), run(model, prompts, b, a)):
        torch.testing.assert_close(nested[real], union[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("swap", [False, True])
def test_law_6_a_row_that_only_both_masks_empty(model, swap):
    """One mask hides all but BOS, the other BOS: together they leave nothing to see."""
    prompts = make_prompts([[1, 2, 2, 3, 3, 4, 4, 4]], torch.arange(8)[None] + 5)
    pair = [icl.ContextMask(set(CONTEXT)), icl.ContextMask({Segment.BOS})]
    nested = pair[::-1] if swap else pair
    union = run(model, prompts, pair[0] | pair[1])
    torch.testing.assert_close(run(model, prompts, *nested), union, atol=1e-5, rtol=0)


@given(data=st.data())
def test_law_7_information_barrier(model, data):
    """Hidden from layer l, a segment acts only through the layers below l."""
    prompts = data.draw(prompts_strategy())
    start = data.draw(st.integers(0, tiny.N_LAYERS - 1))
    segment = data.draw(st.sampled_from(CONTEXT))
    mask = icl.ContextMask({segment}, icl.from_layer(start))
    inside = prompts.segments == segment
    name = f"blocks.{start}.hook_in"
    clean = cache(model, prompts, ["hook_in"])[name]
    before = run(model, prompts, mask)

    def other_states(residual, hook):
        noise = torch.randn(residual.shape, generator=torch.Generator().manual_seed(3))
        return torch.where(inside[..., None], clean + noise, clean)

    with model.hooks(fwd_hooks=[(name, other_states)]):
        after = run(model, prompts, mask)
    outside = prompts.attention_mask & ~inside
    torch.testing.assert_close(before[outside], after[outside], atol=2e-5, rtol=0)


@given(data=st.data())
def test_law_7_hidden_tokens_change_no_output_outside(model, data):
    prompts = data.draw(prompts_strategy())
    segment = data.draw(st.sampled_from(CONTEXT))
    mask = icl.ContextMask({segment})
    inside = prompts.segments == segment
    tokens = torch.where(inside, (prompts.tokens + 17) % tiny.VOCABULARY, prompts.tokens)
    before, after = run(model, prompts, mask), run(model, replace(prompts, tokens=tokens), mask)
    outside = prompts.attention_mask & ~inside
    assert before[outside].equal(after[outside])


@given(data=st.data())
def test_law_8_batch_equals_single(model, data):
    prompts, mask = data.draw(prompts_strategy()), data.draw(masks)
    together = run(model, prompts, mask)
    for row in range(len(prompts)):
        alone = prompts[row : row + 1]
        assert alone.attention_mask.all(), "a single prompt needs no padding"
        n = alone.tokens.shape[1]
        torch.testing.assert_close(
            run(model, alone, mask)[0], together[row, -n:], atol=2e-5, rtol=0
        )


@settings(max_examples=10)
@given(data=st.data())
def test_law_8_cached_generation_equals_uncached(model, data):
    prompts, mask = data.draw(prompts_strategy()), data.draw(masks)
    with icl.mask_attention(model, prompts, mask):
        outcomes = [
            model.generate(
                prompts.tokens,
                attention_mask=prompts.attention_mask,
                max_new_tokens=8,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=cached,
                verbose=False,
            )
            for cached in (True, False, True)
        ]
    assert outcomes[0].equal(outcomes[1])
    assert outcomes[0].equal(outcomes[2])


def test_law_8_the_model_is_restored_after_an_exception(model):
    segments = [[1, 2, 3, 3, 4]]
    prompts = make_prompts(segments, torch.arange(5)[None] + 5)
    clean, hooks_before = run(model, prompts), attached_hooks(model)
    mask = icl.ContextMask({Segment.EXAMPLES})
    with pytest.raises(KeyboardInterrupt), icl.mask_attention(model, prompts, mask):
        raise KeyboardInterrupt
    assert run(model, prompts).equal(clean)
    assert attached_hooks(model) == hooks_before


@given(prompts=prompts_strategy())
def test_attention_hooks_are_the_same_mask(prompts):
    model = tiny.boot("llama")
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1), heads={(1, 2), (2, 0)})
    with torch.no_grad():
        ours = model.run_with_hooks(
            prompts.tokens,
            attention_mask=prompts.attention_mask.long(),
            fwd_hooks=icl.attention_hooks(model, prompts, mask),
        )
    assert ours.equal(run(model, prompts, mask))
