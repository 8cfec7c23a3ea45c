"""Compositions of interventions, against nested contexts and plain Hugging Face models.

One kind, `ScaleMLP`, is defined here, outside the package, as a user would.
"""

import inspect
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations

import oracle
import pytest
import tiny
import torch
import transformers as hf
from transformers.cache_utils import DynamicCache, StaticCache

import icl_locate as icl
from icl_locate import Segment, induction, metrics
from icl_locate.engine.choice import choose_engine
from icl_locate.engine.grid import run_grid
from icl_locate.engine.hooked import answer_cell
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks import ablate_heads, hold, scale_heads
from icl_locate.hooks.points import check_point
from icl_locate.hooks.positions import RowCount
from icl_locate.interventions.base import Composition
from icl_locate.interventions.masks import MaskUnion

ARCHITECTURES = ["llama", "gpt2", "mistral", "gpt_neo"]
"""Grouped keys (llama, mistral), sliding windows (mistral, gpt_neo); gpt_neo takes masks alone."""
D_HEAD = tiny.D_MODEL // tiny.N_HEADS
BANK = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
QUERIES = [
    icl.Example("reverse", "dode"),
    icl.Example("one thin zero", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]


@dataclass(frozen=True)
class ScaleMLP(icl.Intervention):
    """Multiply what a layer's MLP gives, at some segments' rows."""

    layer: int
    factor: float
    rows: frozenset[Segment] = frozenset(Segment) - {Segment.PAD}


def scale_rows(site, part, value, hook):
    chosen = torch.isin(site.segments(), torch.tensor([*part.rows], dtype=torch.int8))
    return torch.where(chosen[..., None], part.factor * value, value)


@icl.register_intervention(ScaleMLP)
def put_scales_of_mlps(site, parts):
    n_layers = int(site.model.cfg.n_layers)
    for part in parts:
        if not 0 <= part.layer < n_layers:
            raise MaskError(f"layer is {part.layer}: the model has {n_layers}")
    return site.hooked(
        (f"blocks.{part.layer}.mlp.hook_out", partial(scale_rows, site, part)) for part in parts
    )


def two_back(positions, n_rows):
    """Every row loses the key two places in front of it."""
    total = positions.segments.shape[1]
    places = torch.arange(total)
    cells = places == places[total - n_rows :, None] - 2
    return cells.expand(len(positions.segments), -1, -1)


@cache
def prompts_for(architecture):
    template = icl.PromptTemplate(instruction="sort thin:")
    return icl.build_prompts(
        tiny.boot(architecture), QUERIES, examples=BANK, n_shots=2, template=template
    )


@cache
def reference(architecture):
    return induction.head_reference(tiny.boot(architecture), n_texts=4, length=20, seed=2)


@cache
def kinds(architecture):
    some = {(1, 0), (2, 1), (2, 2)}
    return {
        "segments": icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1)),
        "heads": icl.ContextMask({Segment.INSTRUCTIONS}, heads=some, rows="after"),
        "edges": icl.EdgeMask(two_back, {0, 2}),
        "zero": icl.HeadAblation({(1, 0), (2, 3)}),
        "mean": icl.HeadAblation({(0, 2), (2, 1)}, "mean_z", reference(architecture)),
        "scale": icl.HeadScale({(1, 0): 0.5, (0, 1): -2.0, (2, 2): 3.0}),
        "own": ScaleMLP(1, 3.0, frozenset({Segment.QUERY, Segment.GENERATED})),
    }


PAIRS = list(combinations(kinds("llama"), 2))


def special_case(model, prompts, part):
    """The context that stood before compositions did."""
    if isinstance(part, (icl.ContextMask, icl.EdgeMask)):
        return icl.mask_attention(model, prompts, part)
    if isinstance(part, icl.HeadAblation):
        return ablate_heads(model, part, prompts=prompts)
    if isinstance(part, icl.HeadScale):
        return scale_heads(model, part.table(tiny.N_LAYERS, tiny.N_HEADS)[0])
    return icl.intervene(model, prompts, part)


def logits_under(model, prompts, *contexts):
    with ExitStack() as stack, torch.no_grad():
        for context in contexts:
            stack.enter_context(context)
        found = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    return found[prompts.attention_mask]


def hidden_edges(part, layer, head, segments):
    """Bool[query, key] that a mask hides at a layer and head, cell by cell."""
    n = len(segments)
    cells = torch.zeros(n, n, dtype=torch.bool)
    layers = part.layers
    layers = layers if isinstance(layers, frozenset) else range(layers.start, tiny.N_LAYERS)
    if layer not in layers or (part.heads is not None and (layer, head) not in part.heads):
        return cells
    for i in range(n):
        for j in range(i + 1):
            cells[i, j] = i - j == 2
    if isinstance(part, icl.EdgeMask):
        return cells
    free = oracle.visible_cells(segments, set(), rows=part.rows)
    return free & ~oracle.visible_cells(segments, {int(s) for s in part.hide}, rows=part.rows)


def visible(architecture, parts, segments):
    """Bool[batch, head, query, key] of each layer."""
    masks = [part for part in parts if isinstance(part, (icl.ContextMask, icl.EdgeMask))]
    found = []
    for layer in range(tiny.N_LAYERS):
        window = oracle.window_of(architecture, layer)
        rows = []
        for row in segments:
            clean = oracle.visible_cells(row, set(), window=window)
            by_head = []
            for head in range(tiny.N_HEADS):
                cells = clean.clone()
                for mask in masks:
                    cells &= ~hidden_edges(mask, layer, head, row)
                by_head.append(cells)
            rows.append(torch.stack(by_head))
        found.append(torch.stack(rows))
    return found


@contextmanager
def edited_by_hand(plain, parts, segments):
    """Hooks on a Hugging Face model's output projections and MLPs: replaced first, then scaled."""
    places = [[sum(s != 0 for s in row[:i]) for i in range(len(row))] for row in segments]

    def edit_heads(layer, module, args):
        z = args[0].clone().unflatten(-1, (tiny.N_HEADS, D_HEAD))
        for part in parts:
            for at, head in part.heads if isinstance(part, icl.HeadAblation) else ():
                if at == layer and part.method == "zero":
                    z[:, :, head] = 0.0
                elif at == layer:
                    table = part.reference.mean_z[layer, :, head]
                    for row, own in enumerate(places):
                        for i, place in enumerate(own):
                            z[row, i, head] = table[min(place, len(table) - 1)]
        for part in parts:
            for (at, head), factor in (
                part.factors.items() if isinstance(part, icl.HeadScale) else ()
            ):
                if at == layer:
                    z[:, :, head] *= factor
        return (z.flatten(-2),)

    def edit_mlp(layer, module, args, output):
        output = output.clone()
        for part in parts:
            if isinstance(part, ScaleMLP) and part.layer == layer:
                for row, own in enumerate(segments):
                    for i, segment in enumerate(own):
                        if segment in part.rows:
                            output[row, i] *= part.factor
        return output

    mlps = [module for name, module in plain.named_modules() if name.endswith(".mlp")]
    with ExitStack() as stack:
        for layer, attention in enumerate(oracle.attention_modules(plain)):
            children = dict(attention.named_children())
            projection = next(children[name] for name in oracle.PROJECTIONS if name in children)
            handle = projection.register_forward_pre_hook(partial(edit_heads, layer))
            stack.callback(handle.remove)
            handle = mlps[layer].register_forward_hook(partial(edit_mlp, layer))
            stack.callback(handle.remove)
        yield


def naive_logits(architecture, plain, tokens, segments, parts):
    """All logits of a left-padded batch, by a plain model and loops."""
    real = torch.tensor(segments) != 0
    positions = (real.long().cumsum(-1) - 1).clamp(min=0)
    takes_positions = "position_ids" in inspect.signature(plain.forward).parameters
    extra = {"position_ids": positions} if takes_positions else {}
    with (
        torch.no_grad(),
        oracle.masked_attention(plain, visible(architecture, parts, segments)),
        edited_by_hand(plain, parts, segments),
    ):
        return plain(tokens, attention_mask=real.long(), use_cache=False, **extra).logits


@pytest.mark.parametrize("pair", PAIRS, ids="|".join)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pair_is_both_nested_and_both_by_hand(architecture, pair):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)
    assert not prompts.attention_mask.all(), "a padded batch"
    one, other = (kinds(architecture)[name] for name in pair)
    clean = logits_under(model, prompts)
    both = logits_under(model, prompts, icl.intervene(model, prompts, one | other))
    again = logits_under(model, prompts, icl.intervene(model, prompts, other | one | other))
    torch.testing.assert_close(again, both, atol=1e-6, rtol=0)
    nested = [special_case(model, prompts, part) for part in (one, other)]
    torch.testing.assert_close(logits_under(model, prompts, *nested), both, atol=1e-5, rtol=0)
    plain, segments = tiny.build(architecture), prompts.segments.tolist()
    by_hand = naive_logits(architecture, plain, prompts.tokens, segments, (one, other))
    torch.testing.assert_close(both, by_hand[prompts.attention_mask], atol=2e-4, rtol=0)
    for part in (one, other):
        alone = logits_under(model, prompts, icl.intervene(model, prompts, part))
        assert not torch.allclose(alone, clean, atol=1e-3), "each does something"
        assert not torch.allclose(alone, both, atol=1e-3), "and both do more"
    assert logits_under(model, prompts).equal(clean), "the model is restored"


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_at_once_holds_through_generation(architecture, padded):
    """Batched and cached, by the package; one prompt at a time, whole for each token, by hand."""
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    prompts = prompts_for(architecture)
    if not padded:
        prompts = prompts.take([0, 2])
    assert prompts.attention_mask.all() != padded
    parts = tuple(kinds(architecture).values())
    everything = parts[0]
    for part in parts[1:]:
        everything = everything | part
    n_new = 5
    texts = icl.generate(model, prompts, everything, max_new_tokens=n_new, stop=())
    scores = icl.score_targets(model, prompts, everything)
    assert texts != icl.generate(model, prompts, max_new_tokens=n_new, stop=())
    with icl.intervene(model, prompts, everything):
        own = [
            model.generate(
                prompts.tokens, attention_mask=prompts.attention_mask, max_new_tokens=n_new,
                do_sample=False, stop_at_eos=False, use_past_kv_cache=cached, verbose=False,
            )
            for cached in (True, False)
        ]  # fmt: skip
    assert own[0].equal(own[1])
    for i, real in enumerate(prompts.attention_mask):
        tokens, segments = prompts.tokens[i][real].tolist(), prompts.segments[i][real].tolist()
        width = len(tokens)

        def predict(tokens, segments):
            given = torch.tensor([tokens])
            return naive_logits(architecture, plain, given, [segments], parts)[0].log_softmax(-1)

        for n in range(n_new):
            tokens.append(int(predict(tokens, segments + [5] * n)[-1].argmax()))
        answer = tokens[width:]
        assert own[0][i, -n_new:].tolist() == answer
        eos = model.tokenizer.eos_token_id
        cut = answer[: answer.index(eos)] if eos in answer else answer
        assert texts[i] == model.tokenizer.decode(cut, skip_special_tokens=True).strip()
        target = prompts.target_tokens[i]
        forced = predict(tokens[:width] + target, segments + [5] * len(target))
        wanted = sum(float(forced[width - 1 + k, token]) for k, token in enumerate(target))
        assert abs(float(scores[i]) - wanted) < 1e-3


@pytest.mark.parametrize("kind", ["segments", "heads", "edges", "generated"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_masks_hold_with_a_cache_of_one_size(architecture, kind):
    """Its keys stand before those that are yet to come; a growing cache is what they equal."""
    model = tiny.boot(architecture)
    template = icl.PromptTemplate(instruction="sort thin:")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2, template=template)
    masks = {
        "segments": icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1), keep_self=True),
        "heads": icl.ContextMask({Segment.INSTRUCTIONS}, heads={(1, 0), (2, 1)}, rows="after"),
        "edges": icl.EdgeMask(two_back, {0, 2}),
        "generated": icl.ContextMask({Segment.QUERY}, {1}, hide_generated=1),
    }
    following = torch.randint(3, 40, (3, 3), generator=torch.Generator().manual_seed(0))
    width = prompts.tokens.shape[1]
    fixed = StaticCache(config=model.original_model.config, max_cache_len=width + 8)
    found = []
    for held in (DynamicCache(), fixed):
        seen = prompts.attention_mask.long()
        with icl.intervene(model, prompts, masks[kind]), torch.no_grad():
            for step in (prompts.tokens, *following.split(1, dim=1)):
                options = {"past_key_values": held, "use_cache": True}
                logits = model(step, attention_mask=seen, **options)
                found.append(logits[:, -1])
                seen = torch.nn.functional.pad(seen, (0, 1), value=1)
    torch.testing.assert_close(torch.stack(found[4:]), torch.stack(found[:4]), atol=1e-4, rtol=0)


def test_interventions_are_values_that_compose_in_any_order():
    found = kinds("llama")
    mask, ablation, scale, own = (found[k] for k in ("segments", "zero", "scale", "own"))
    assert type(mask | found["edges"]) is MaskUnion, "masks alone are a mask"
    both = mask | ablation
    assert isinstance(both, Composition) and both == ablation | mask
    assert hash(both) == hash(ablation | mask) and both | mask == both and both != ablation | scale
    assert own | mask == mask | ScaleMLP(1, 3.0, own.rows), "equal ones are one"
    assert set((both | (scale | own)).parts) == {mask, ablation, scale, own}
    assert (mask | found["edges"] | own).parts.__len__() == 3
    assert own.parts == (own,) and (own | own).parts == (own,)


def test_what_is_scaled_is_what_stands_in():
    """Whatever the order in which they are written."""
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    ablation = icl.HeadAblation({(1, 2)}, "mean_z", reference("llama"))
    half = icl.HeadScale({(1, 2): 0.5})
    halved = replace(reference("llama"), mean_z=reference("llama").mean_z * 0.5)
    wanted = logits_under(
        model, prompts, icl.intervene(model, prompts, replace(ablation, reference=halved))
    )
    for both in (ablation | half, half | ablation):
        found = logits_under(model, prompts, icl.intervene(model, prompts, both))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    silent = icl.HeadAblation({(1, 2)})
    found = logits_under(model, prompts, icl.intervene(model, prompts, silent | half))
    assert found.equal(logits_under(model, prompts, icl.intervene(model, prompts, silent)))


def test_a_head_is_ablated_in_one_way_and_scaled_by_one_factor():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    zero, mean = icl.HeadAblation({(1, 0), (2, 3)}), kinds("llama")["mean"]
    other = icl.HeadAblation({(0, 1), (2, 3)}, "mean_z", reference("llama"))
    seeds = [icl.HeadAblation({(2, 3)}, "resample", reference("llama"), seed) for seed in (0, 1)]
    for clash in (zero | other, other | zero, seeds[0] | seeds[1]):
        message = r"^head \(layer 2, head 3\) is ablated by"
        with pytest.raises(MaskError, match=message), icl.intervene(model, prompts, clash):
            pass
    gates = torch.ones(tiny.N_LAYERS, tiny.N_HEADS)
    gates[2, 2] = 0.5
    for clash in (
        icl.HeadScale({(2, 2): 0.25}) | icl.HeadScale({(2, 2): 0.5}),
        icl.HeadScale(gates) | icl.HeadScale({(0, 1): 1.0, (2, 2): 2.0}),
    ):
        message = r"^head \(layer 2, head 2\) is scaled by two factors"
        with pytest.raises(MaskError, match=message), icl.intervene(model, prompts, clash):
            pass
    for one, same in (
        (zero, icl.HeadAblation({(2, 3)})),
        (mean, icl.HeadAblation({(2, 1)}, "mean_z", reference("llama"), seed=5)),
        (icl.HeadScale({(2, 2): 0.5}), icl.HeadScale(gates)),
        (icl.HeadScale(gates), icl.HeadScale({(2, 2): 0.5, (1, 1): 1.0})),
    ):
        once = logits_under(model, prompts, icl.intervene(model, prompts, one))
        assert logits_under(model, prompts, icl.intervene(model, prompts, one | same)).equal(once)


def test_gradients_reach_gates_that_stand_beside_a_mask():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    gates = torch.rand(tiny.N_LAYERS, tiny.N_HEADS, requires_grad=True)
    both = icl.HeadScale(gates) | kinds("llama")["segments"] | icl.HeadScale({})
    with icl.intervene(model, prompts, both):
        logits = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
        logits[:, -1].sum().backward()
    assert gates.grad.abs().min() > 0


def test_compositions_nest_with_each_other_on_a_model_that_nobody_looked_at():
    first, second = (kinds("llama")[k] for k in ("heads", "zero")), ("edges", "own")
    one = MaskUnion(frozenset()) | ScaleMLP(0, 1.0)
    for part in first:
        one = one | part
    other = kinds("llama")[second[0]] | kinds("llama")[second[1]]
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    nested = logits_under(
        model, prompts, icl.intervene(model, prompts, one), icl.intervene(model, prompts, other)
    )
    union = logits_under(model, prompts, icl.intervene(model, prompts, one | other))
    torch.testing.assert_close(nested, union, atol=1e-5, rtol=0)
    fresh = tiny.boot_fresh("llama")
    masked_first = [
        icl.mask_attention(fresh, prompts, kinds("llama")["heads"]),
        ablate_heads(fresh, kinds("llama")["zero"], prompts=prompts),
    ]
    torch.testing.assert_close(
        logits_under(fresh, prompts, *masked_first),
        logits_under(
            model, prompts,
            icl.intervene(model, prompts, kinds("llama")["heads"] | kinds("llama")["zero"]),
        ), atol=1e-5, rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_is_restored_after_an_exception(architecture):
    model, prompts = tiny.boot(architecture), prompts_for(architecture)

    def hooks():
        return [
            (name, len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        ]

    clean, before = logits_under(model, prompts), hooks()
    everything = Composition(tuple(kinds(architecture).values()))
    with icl.intervene(model, prompts, everything):
        assert hooks() != before
    with pytest.raises(KeyboardInterrupt), icl.intervene(model, prompts, everything):
        raise KeyboardInterrupt
    assert hooks() == before
    fails = kinds(architecture)["segments"] | ScaleMLP(tiny.N_LAYERS, 2.0)
    with (
        pytest.raises(MaskError, match="^layer is 3"),
        icl.intervene(model, prompts, fails),
    ):
        pass
    assert hooks() == before and logits_under(model, prompts).equal(clean)


def test_what_fits_neither_model_nor_prompts_is_refused():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    bare = icl.build_prompts(model, QUERIES, n_shots=0)
    mask = kinds("llama")["segments"]
    for part, message in (
        (icl.HeadScale({(0, 4): 2.0}), r"head \(layer 0, head 4\) is out of range"),
        (icl.HeadScale(torch.ones(2, 4)), r"factors are of shape \(2, 4\): expected one for each"),
        (icl.HeadAblation({(3, 0)}), r"head \(layer 3, head 0\) is out of range"),
        (icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(9)), "out of range"),
    ):
        with pytest.raises(MaskError, match=message), icl.intervene(model, prompts, part | mask):
            pass
    site = icl.Site(model, prompts, RowCount(None, "an intervention"))
    before = len(model.hook_dict["blocks.0.mlp.hook_out"].fwd_hooks)
    some = [("blocks.0.mlp.hook_out", print), ("blocks.0.mlp.nowhere", print)]
    message = "^hooks name a point that this LlamaForCausalLM lacks: .*blocks.0.mlp.nowhere"
    with pytest.raises(MaskError, match=message), site.hooked(some):
        pass
    assert len(model.hook_dict["blocks.0.mlp.hook_out"].fwd_hooks) == before
    with (
        pytest.raises(MaskError, match="hides EXAMPLES, but prompt 0"),
        icl.intervene(model, bare, ScaleMLP(0, 2.0) | mask),
    ):
        pass
    with (
        icl.intervene(model, prompts, ScaleMLP(0, 2.0)),
        pytest.raises(MaskError, match="under an intervention made for prompts of 3 x"),
    ):
        model(bare.tokens[:1])
    with (
        icl.intervene(model, prompts, ScaleMLP(0, 2.0)),
        pytest.raises(MaskError, match="without their attention mask"),
    ):
        model(prompts.tokens)


def test_kinds_that_nobody_registered_are_refused():
    @dataclass(frozen=True)
    class Unknown(icl.Intervention):
        layer: int

    @dataclass
    class NoKey(icl.Intervention):
        layer: int

    model, prompts = tiny.boot("llama"), prompts_for("llama")
    with (
        pytest.raises(MaskError, match="^nobody said how a Unknown is put on a model: register"),
        icl.intervene(model, prompts, Unknown(0) | kinds("llama")["zero"]),
    ):
        pass
    with pytest.raises(MaskError, match="^mask holds a NoKey, which is not hashable"):
        kinds("llama")["zero"] | NoKey(0)
    for kind in (icl.ContextMask, icl.HeadScale):
        with pytest.raises(MaskError, match="which icl_locate applies itself: subclass it"):
            icl.register_intervention(kind)

    @dataclass(frozen=True)
    class Later(ScaleMLP):
        """A kind's subclass is put on as the kind is."""

    with icl.intervene(model, prompts, Later(1, 3.0)):
        louder = model(prompts.tokens, attention_mask=prompts.attention_mask)
    with icl.intervene(model, prompts, ScaleMLP(1, 3.0)):
        assert louder.equal(model(prompts.tokens, attention_mask=prompts.attention_mask))


def test_a_model_whose_heads_cannot_be_edited_still_takes_masks(monkeypatch):
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    mask = kinds("llama")["segments"]

    def refuse(some, point):
        raise ModelError("the outputs of its heads cannot be replaced")

    for module in ("outputs", "apply"):
        monkeypatch.setattr(f"icl_locate.hooks.{module}.check_point", refuse)
    with icl.intervene(model, prompts, mask):
        pass
    with (
        pytest.raises(ModelError, match="cannot be replaced"),
        icl.intervene(model, prompts, mask | kinds("llama")["zero"]),
    ):
        pass


@dataclass(frozen=True)
class LoudMask(icl.ContextMask):
    """A mask whose own application does something else: it scales an MLP."""


@icl.register_intervention(LoudMask)
def put_loud_masks(site, parts):
    return put_scales_of_mlps(site, [ScaleMLP(1, 3.0)])


def test_a_kind_made_from_a_mask_acts_as_its_own_application_says():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    loud, idle = LoudMask({Segment.EXAMPLES}), LoudMask(frozenset())
    wanted = icl.score_targets(model, prompts, ScaleMLP(1, 3.0))
    clean = icl.ContextMask(frozenset())
    options = {"max_new_tokens": 3, "batch_size": 3}
    for run in (loud, idle, loud | idle):
        for engine in ("auto", "hooks"):
            runs = [clean, run]
            cells = run_grid(model, prompts, runs, metrics.LOG_PROB, engine=engine, **options)
            torch.testing.assert_close(torch.tensor(cells[1].statistics[:, 0]).float(), wanted)
    with pytest.raises(ModelError, match="a run holds a LoudMask"):
        run_grid(model, prompts, [loud], metrics.LOG_PROB, engine="shared", **options)
    with pytest.raises(MaskError, match="^the mask holds a LoudMask, which its own application"):
        icl.attention_hooks(model, prompts, loud | clean)

    class Quiet(icl.ContextMask):
        """A mask of one's own without an application of its own is a mask."""

    assert choose_engine(model, "auto", [Quiet({Segment.EXAMPLES})]) == "shared"


def test_runs_that_do_the_same_run_once(monkeypatch):
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    ran, told = [], []

    def count(model, prompts, run, *args, **kwargs):
        ran.append(run)
        return answer_cell(model, prompts, run, *args, **kwargs)

    monkeypatch.setattr("icl_locate.engine.grid.answer_cell", count)
    beside, mask = icl.HeadAblation({(1, 0)}), icl.ContextMask({Segment.EXAMPLES}, {1})
    hidden = (Segment.QUERY, Segment.EXAMPLES)
    nothing = [icl.ContextMask({segment}, icl.from_layer(3)) for segment in hidden]
    runs = [mask | beside, nothing[0] | beside, nothing[1] | beside, beside, mask | nothing[0],
            mask, MaskUnion(frozenset(nothing)), beside | mask, nothing[0],
            beside | beside]  # fmt: skip
    options = {"engine": "hooks", "max_new_tokens": 3, "batch_size": 3}
    cells = run_grid(model, prompts, runs, metrics.LOG_PROB, on_progress=told.append, **options)
    assert ran == [runs[0], runs[1], runs[4], runs[6]] and told == [1] * len(runs)
    for run, cell in zip(runs, cells, strict=True):
        wanted = icl.score_targets(model, prompts, run)
        torch.testing.assert_close(torch.tensor(cell.statistics[:, 0]).float(), wanted)
    for wrong, message in (
        (icl.ContextMask({Segment.QUERY}, icl.window(4, 1)), "out of range"),
        (icl.ContextMask(frozenset(), heads={(0, 9)}), "out of range"),
    ):
        with pytest.raises(MaskError, match=message):
            run_grid(model, prompts, [beside, beside | wrong], metrics.LOG_PROB, **options)
    bare = icl.build_prompts(model, QUERIES, n_shots=0)
    with pytest.raises(MaskError, match="hides EXAMPLES, but prompt 0"):
        run_grid(model, bare, [beside, beside | nothing[1]], metrics.LOG_PROB, **options)


def test_a_model_without_heads_outputs_says_so_each_time():
    config = hf.T5Config(
        vocab_size=tiny.VOCABULARY, d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4
    )
    model, prompts = tiny.bridge(hf.T5ForConditionalGeneration(config)), prompts_for("llama")
    tried = []
    for _ in range(2):
        for part in (icl.HeadAblation({(0, 1)}), icl.HeadScale({(0, 1): 0.5})):
            with (
                pytest.raises(ModelError, match="heads cannot be replaced") as raised,
                icl.intervene(model, prompts, part),
            ):
                pass
            tried.append(str(raised.value))
    assert len(set(tried)) == 1


def test_that_heads_can_be_edited_is_not_denied_for_a_context_that_was_open():
    model, prompts = tiny.boot_fresh("llama"), prompts_for("llama")
    with hold(model, runs_of_no_prompts), pytest.raises(MaskError, match="^not now"):
        check_point(model, "z")
    with icl.intervene(model, prompts, icl.HeadAblation({(0, 1)})):
        pass


def runs_of_no_prompts(tokens, given, n_cached):
    raise MaskError("not now")


def test_an_application_that_gives_no_context_is_named():
    @dataclass(frozen=True)
    class Forgetful(icl.Intervention):
        pass

    @icl.register_intervention(Forgetful)
    def put_forgetful(site, parts):
        site.hooked([])

    model, prompts = tiny.boot("llama"), prompts_for("llama")
    message = "^the application registered for Forgetful gave None: expected a context manager"
    with (
        pytest.raises(MaskError, match=message),
        icl.intervene(model, prompts, kinds("llama")["zero"] | Forgetful()),
    ):
        pass


def test_frozen_kinds_that_hold_lists_are_refused():
    @dataclass(frozen=True)
    class Listed(icl.Intervention):
        layers: object

    message = "^mask holds a Listed, which is not hashable .*: 'list'.* lists in it tuples"
    with pytest.raises(MaskError, match=message):
        kinds("llama")["zero"] | Listed([1, 2])
    with pytest.raises(MaskError, match="members holds a Listed"):
        Composition((Listed({}),))
    assert Listed((1, 2)) | Listed((1, 2)) == Composition((Listed((1, 2)),))


def test_gates_that_are_learned_stand_once():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    gates = torch.ones(tiny.N_LAYERS, tiny.N_HEADS, requires_grad=True)
    same = torch.ones(tiny.N_LAYERS, tiny.N_HEADS, requires_grad=True)
    fixed = icl.HeadScale(same.detach().clone())
    message = r"^head \(layer 0, head 0\) is scaled by gates that are learned and by other factors"
    for clash in (icl.HeadScale(gates) | icl.HeadScale(same), fixed | icl.HeadScale(gates),
                  icl.HeadScale(gates) | icl.HeadScale({(0, 0): 1.0})):  # fmt: skip
        with pytest.raises(MaskError, match=message), icl.intervene(model, prompts, clash):
            pass
    for _ in range(2):
        with icl.intervene(model, prompts, icl.HeadScale(gates) | icl.HeadScale(gates)):
            logits = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
            logits[:, -1].sum().backward()
        with torch.no_grad():
            gates -= 0.1 * gates.grad
    assert gates.grad.abs().min() > 0
    both = fixed | icl.HeadScale({(0, 0): 1.0})
    logits_under(model, prompts, icl.intervene(model, prompts, both))


@dataclass(frozen=True)
class Louder(icl.Condition):
    """A condition that hides, and scales an MLP beside it."""

    factor: float = 3.0

    def at(self, layers):
        return self.mask(layers) | ScaleMLP(1, self.factor)


@pytest.mark.parametrize("metric", ["log_prob", "exact_match", "label_accuracy"])
def test_grids_of_anything_run_on_the_hooks_engine(metric):
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    found = kinds("llama")
    labels = metrics.LabelAccuracy(tuple(query.target for query in QUERIES))
    scored = labels if metric == "label_accuracy" else metrics.get_metric(metric)
    runs = [
        found["segments"], found["zero"], found["segments"] | found["zero"] | found["own"],
        found["edges"] | found["scale"], icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(3)),
    ]  # fmt: skip
    options = {"max_new_tokens": 3, "batch_size": 2}
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = run_grid(
            model, prompts, runs, scored, engine="auto", on_progress=told.append, **options
        )
    assert sum(told) == len(runs)
    for run, cell in zip(runs, cells, strict=True):
        alone = run_grid(model, prompts, [run], scored, engine="hooks", **options)[0]
        assert alone.texts == cell.texts and (alone.statistics == cell.statistics).all()
    if metric == "log_prob":
        for run, cell in zip(runs, cells, strict=True):
            wanted = icl.score_targets(model, prompts, run)
            torch.testing.assert_close(torch.tensor(cell.statistics[:, 0]).float(), wanted)
        assert len({tuple(cell.statistics[:, 0]) for cell in cells}) == len(runs)
    some = [found["own"]]
    message = "^the shared engine cannot run here: a run holds a ScaleMLP, whose rows only its own"
    with pytest.raises(ModelError, match=message):
        run_grid(model, prompts, some, scored, engine="shared", **options)
    with pytest.raises(ModelError, match=message):
        choose_engine(model, "shared", some)
    assert choose_engine(model, "auto", some) == "hooks"


def test_compositions_of_masks_alone_run_on_the_shared_engine():
    model, prompts = tiny.boot("llama"), prompts_for("llama")
    mask, other = kinds("llama")["segments"], kinds("llama")["heads"]
    options = {"max_new_tokens": 3, "batch_size": 3, "engine": "shared"}
    runs = [Composition((mask, other)), mask | other, mask]
    assert choose_engine(model, "auto", runs) == "shared"
    cells = run_grid(model, prompts, runs, metrics.get_metric("log_prob"), **options)
    assert (cells[0].statistics == cells[1].statistics).all()
    assert (cells[0].statistics != cells[2].statistics).any()


def test_a_sweep_takes_conditions_that_do_more_than_hide():
    model = tiny.boot("llama")
    task = icl.Task("words", tuple(BANK), tuple(QUERIES), icl.PromptTemplate(), "log_prob")
    plain = icl.Condition("examples", {Segment.EXAMPLES}, instruction=False)
    louder = Louder("louder", {Segment.EXAMPLES}, instruction=False)
    options = {"n_shots": 2, "n_queries": 3, "seeds": 0}
    found = icl.sweep(model, task, conditions=[plain, louder], **options)
    assert found.provenance["engine"] == "hooks"
    described = found.provenance["conditions"]
    assert "own" not in described[0] and described[1]["own"]["factor"] == 3.0
    for layer in range(tiny.N_LAYERS + 1):
        prompts = icl.build_prompts(
            model, QUERIES, examples=BANK, n_shots=2, template=task.template, seed=0
        )
        mask = plain.mask(icl.from_layer(layer))
        for place, run in enumerate((mask, mask | ScaleMLP(1, 3.0))):
            wanted = icl.score_targets(model, prompts, run).mean()
            torch.testing.assert_close(found.scores[place, layer, 0].float(), wanted)
    alone = icl.sweep(model, task, conditions=[plain], **options)
    assert alone.provenance["engine"] == "shared"
    with pytest.raises(ModelError, match="holds a ScaleMLP, .*; use engine='hooks'"):
        icl.sweep(model, task, conditions=[louder], engine="shared", **options)
