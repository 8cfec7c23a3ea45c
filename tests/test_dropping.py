"""Generation that drops the context: the answers of a mask, at the cost of what is left."""

from contextlib import ExitStack

import pytest
import tiny
import torch
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.dropping import CONTEXT
from icl_locate.errors import MaskError, ModelError
from icl_locate.hooks.positions import RowCount

BANK = [
    icl.Example("sort reverse double", "dode zimo goza"),
    icl.Example("thin sort", "zimo dode"),
    icl.Example("double reverse", "zimo goza"),
]
QUERIES = [
    icl.Example("reverse sort", "dode"),
    icl.Example("one thin zero double", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]
TEMPLATE = icl.PromptTemplate("Translate English to French:")
DROPPING = [name for name in tiny.ARCHITECTURES if name != "gpt_neo"]


def prompts_for(model, **options):
    return icl.build_prompts(
        model, QUERIES, **{"examples": BANK, "n_shots": 3, "template": TEMPLATE} | options
    )


def logits_of(model, prompts, following):
    """Logits behind the prompts and behind each token that follows them, through a cache."""
    cache, seen, logits = DynamicCache(), prompts.attention_mask.long(), []
    with torch.no_grad():
        for step in (prompts.tokens, *following.split(1, dim=1)):
            out = model(step, attention_mask=seen, past_key_values=cache, use_cache=True)
            logits.append(out[:, -1])
            seen = torch.nn.functional.pad(seen, (0, 1), value=1)
    return torch.stack(logits)


@pytest.mark.parametrize("start", range(tiny.N_LAYERS + 1))
@pytest.mark.parametrize("architecture", DROPPING)
def test_dropping_equals_masking(architecture, start):
    """Logits of every new token, teacher-forced through the cache, and the tokens themselves."""
    model = tiny.boot(architecture)
    prompts = prompts_for(model)
    mask = icl.ContextMask(CONTEXT, icl.from_layer(start))
    following = torch.randint(3, 40, (3, 4), generator=torch.Generator().manual_seed(start))
    with icl.drop_context(model, prompts, start):
        ours = logits_of(model, prompts, following)
    with icl.mask_attention(model, prompts, mask):
        theirs = logits_of(model, prompts, following)
    assert torch.allclose(ours, theirs, atol=1e-4)
    dropped = icl.generate(model, prompts, max_new_tokens=6, stop=(), drop_context_from=start)
    assert dropped == icl.generate(model, prompts, mask, max_new_tokens=6, stop=())
    alone = icl.generate(
        model, prompts, max_new_tokens=6, stop=(), drop_context_from=start, batch_size=1
    )
    assert alone == dropped


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "gpt_neox"])
def test_prompts_of_one_length_with_different_splits(architecture):
    """Without padding, one keeps more rows than the other: what fills up the other counts nowhere.

    Each query's own source is left out of its examples, so that each is shown the other's.
    """
    model = tiny.boot(architecture)
    pair = [icl.Example("one thin zero double", "dode"), icl.Example("sort", "zimo")]
    prompts = icl.build_prompts(model, pair, examples=pair, n_shots=1, template=TEMPLATE)
    assert prompts.attention_mask.all(), "of one length"
    kept = ((prompts.segments == Segment.BOS) | (prompts.segments == Segment.QUERY)).sum(dim=1)
    assert kept[0] == kept[1] + 3
    following = torch.randint(3, 40, (2, 4), generator=torch.Generator().manual_seed(0))
    whole = logits_of(model, prompts, following)
    for start in range(tiny.N_LAYERS):
        with icl.drop_context(model, prompts, start):
            ours = logits_of(model, prompts, following)
        with icl.mask_attention(model, prompts, icl.ContextMask(CONTEXT, icl.from_layer(start))):
            theirs = logits_of(model, prompts, following)
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, whole, atol=1e-3)
        for i in range(2):
            with icl.drop_context(model, prompts[i : i + 1], start):
                alone = logits_of(model, prompts[i : i + 1], following[i : i + 1])
            assert torch.allclose(alone[:, 0], ours[:, i], atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_prompts_of_one_token(architecture):
    """A step of one token is no new prompt, and a new prompt is no step."""
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(
        model, [icl.Example("sort", "dode"), icl.Example("thin", "dode")], n_shots=0,
        template=icl.PromptTemplate(None, "", "", "\n"), prepend_bos=False,
    )  # fmt: skip
    assert prompts.tokens.shape == (2, 1)
    following = torch.randint(3, 40, (2, 4), generator=torch.Generator().manual_seed(0))
    whole = logits_of(model, prompts, following)
    for start in range(tiny.N_LAYERS + 1):
        with icl.drop_context(model, prompts, start), torch.no_grad():
            for _ in range(2):
                assert torch.allclose(logits_of(model, prompts, following), whole, atol=1e-4)
                real = prompts.attention_mask.long()
                first = model(prompts.tokens, attention_mask=real)[:, -1]
                assert torch.allclose(first, whole[0], atol=1e-4)
        answers = icl.generate(model, prompts, max_new_tokens=4, stop=(), drop_context_from=start)
        assert answers == icl.generate(model, prompts, max_new_tokens=4, stop=())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_positions_are_the_original_ones(architecture):
    """The same prompts without their context in the first place give other logits."""
    model = tiny.boot(architecture)
    prompts, bare = prompts_for(model), prompts_for(model, n_shots=0, template=icl.PromptTemplate())
    with icl.drop_context(model, prompts, 0), torch.no_grad():
        logits = model(prompts.tokens, attention_mask=prompts.attention_mask.long())[:, -1]
    with torch.no_grad():
        moved = model(bare.tokens, attention_mask=bare.attention_mask.long())[:, -1]
    assert not torch.allclose(logits, moved, atol=1e-3)


def test_upper_layers_never_hold_the_context():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    n_kept = int(
        ((prompts.segments == Segment.BOS) | (prompts.segments == Segment.QUERY)).sum(1).max()
    )
    width = prompts.tokens.shape[1]
    cache, rows = DynamicCache(), []
    with icl.drop_context(model, prompts, 1), torch.no_grad():
        watch = [
            (f"blocks.{i}.mlp.hook_in", lambda x, hook: rows.append(x.shape[1])) for i in range(3)
        ]
        with model.hooks(fwd_hooks=watch):
            model(
                prompts.tokens, attention_mask=prompts.attention_mask.long(),
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
        lengths = [layer.keys.shape[-2] for layer in cache.layers]
        assert lengths == rows == [width, n_kept, n_kept]
        for n in range(1, 4):
            seen = torch.nn.functional.pad(prompts.attention_mask.long(), (0, n), value=1)
            step = prompts.tokens[:, :1]
            model(step, attention_mask=seen, past_key_values=cache, use_cache=True)
        lengths = [layer.keys.shape[-2] for layer in cache.layers]
        assert lengths == [width + 3, n_kept + 3, n_kept + 3]
        assert cache.get_seq_length() == width + 3


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("start", [0, 1])
def test_the_context_holds_through_the_models_own_generate(architecture, use_cache, start):
    model = tiny.boot(architecture)
    prompts = prompts_for(model)
    options = {
        "attention_mask": prompts.attention_mask, "max_new_tokens": 4, "do_sample": False,
        "use_past_kv_cache": use_cache, "verbose": False, "stop_at_eos": False,
    }  # fmt: skip
    with icl.mask_attention(model, prompts, icl.ContextMask(CONTEXT, icl.from_layer(start))):
        masked = model.generate(prompts.tokens, **options)
    with icl.drop_context(model, prompts, start):
        dropped = model.generate(prompts.tokens, **options)
    assert torch.equal(masked, dropped)
    whole = model.generate(prompts.tokens, **options)
    again = model.generate(prompts.tokens, **options)
    assert torch.equal(whole, again), "the model is restored"


def test_what_may_be_dropped():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    examples = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    with icl.drop_context(model, prompts, 1, drop={Segment.EXAMPLES}), torch.no_grad():
        ours = model(prompts.tokens, attention_mask=prompts.attention_mask.long())[:, -1]
    with icl.mask_attention(model, prompts, examples), torch.no_grad():
        theirs = model(prompts.tokens, attention_mask=prompts.attention_mask.long())[:, -1]
    assert torch.allclose(ours, theirs, atol=1e-4)
    lonely = prompts_for(model, n_shots=0, template=icl.PromptTemplate())
    answers = icl.generate(model, lonely, max_new_tokens=3, stop=(), drop_context_from=1)
    assert answers == icl.generate(model, lonely, max_new_tokens=3, stop=()), "nothing to drop"


def test_bad_dropping():
    model = tiny.boot("llama")
    prompts = prompts_for(model)
    for options, message in (
        ({"from_layer": 4}, "from_layer is 4: expected a whole number from 0 to 3"),
        ({"from_layer": -1}, "from_layer is -1"),
        ({"from_layer": 1, "drop": {Segment.QUERY}}, "drop is QUERY: expected some of"),
    ):
        with pytest.raises(MaskError, match=message), icl.drop_context(model, prompts, **options):
            pass
    with pytest.raises(MaskError, match="not both"):
        icl.generate(model, prompts, icl.ContextMask({Segment.QUERY}), drop_context_from=1)
    tokens, real = prompts.tokens, prompts.attention_mask.long()
    cache = DynamicCache()
    with torch.no_grad():
        model(tokens, attention_mask=real, past_key_values=cache, use_cache=True)
    seen = torch.nn.functional.pad(real, (0, 1), value=1)
    with icl.drop_context(model, prompts, 1), torch.no_grad():
        with pytest.raises(MaskError, match="run it on prompts.tokens"):
            model(tokens[:1], attention_mask=real[:1])
        model(tokens, attention_mask=real)
        with pytest.raises(ModelError, match="a cache that holds the whole context"):
            model(tokens[:, :1], attention_mask=seen, past_key_values=cache, use_cache=True)
    neo = tiny.boot("gpt_neo")
    with (
        pytest.raises(ModelError, match="masks by index.*hide it with a ContextMask"),
        icl.drop_context(neo, prompts_for(neo), 1),
    ):
        pass


def logits(model, prompts, *contexts):
    with ExitStack() as stack, torch.no_grad():
        for context in contexts:
            stack.enter_context(context)
        return model(prompts.tokens, attention_mask=prompts.attention_mask.long())[:, -1]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_what_counts_on_rows_acts_below_the_layers_that_drop_them(architecture):
    model = tiny.boot(architecture)
    prompts = prompts_for(model)
    hide, start = icl.ContextMask(CONTEXT, icl.from_layer(1)), 1
    means = icl.induction.head_reference(model, n_texts=4, length=20, seed=2)
    edges = icl.EdgeMask(lambda p, n: torch.ones(len(p.segments), n, p.segments.shape[1]) > 0, {0})
    for below in (icl.ContextMask({Segment.QUERY}, {0}), edges,
                  icl.HeadAblation({(0, 1)}, "mean_z", means), icl.HeadAblation({(2, 1)}),
                  icl.HeadScale({(2, 1): 0.5})):  # fmt: skip
        ours = logits(
            model, prompts, icl.drop_context(model, prompts, start),
            icl.intervene(model, prompts, below),
        )  # fmt: skip
        theirs = logits(model, prompts, icl.intervene(model, prompts, hide | below))
        assert torch.allclose(ours, theirs, atol=1e-4)
        assert not torch.allclose(ours, logits(model, prompts, icl.intervene(model, prompts, hide)))
    handed = icl.attention_hooks if architecture == "llama" else None
    for above in (icl.ContextMask({Segment.QUERY}, {2}),
                  icl.HeadAblation({(2, 1)}, "mean_z", means),
                  icl.HeadAblation({(1, 0)}, "resample", means)):  # fmt: skip
        with (
            icl.drop_context(model, prompts, start),
            pytest.raises(MaskError, match="drop_context shows the layers from 1 on only some"),
        ):
            logits(model, prompts, icl.intervene(model, prompts, above))
        if handed is not None and isinstance(above, icl.ContextMask):
            hooks = handed(model, prompts, above)
            with (
                icl.drop_context(model, prompts, start),
                pytest.raises(MaskError, match="drop_context shows the layers from 1 on only some"),
            ):
                logits(model, prompts, model.hooks(fwd_hooks=hooks))
    logits(model, prompts, icl.intervene(model, prompts, above))  # and then everywhere again


def test_a_mask_on_the_steps_alone_is_refused_and_so_is_dropping_twice():
    model = tiny.boot("llama")
    prompts, cache = prompts_for(model), DynamicCache()
    mask = icl.ContextMask({Segment.QUERY}, {1})
    seen = torch.nn.functional.pad(prompts.attention_mask.long(), (0, 1), value=1)
    with icl.drop_context(model, prompts, 1), torch.no_grad():
        model(
            prompts.tokens, attention_mask=prompts.attention_mask.long(), past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        with (
            pytest.raises(MaskError, match="only some"),
            icl.mask_attention(model, prompts, mask),
        ):
            model(prompts.tokens[:, :1], attention_mask=seen, past_key_values=cache, use_cache=True)
        site = icl.Site(model, prompts, RowCount(prompts.attention_mask, "mine", model=model))
        with pytest.raises(MaskError, match="^mine counts on every row"):
            site.segments()
        with (
            pytest.raises(ModelError, match="a drop_context is open around it"),
            icl.drop_context(model, prompts, 2),
        ):
            pass
    assert site.segments().shape[0] == len(prompts), "afterwards nothing is dropped"


def test_text_streams_as_it_settles(embedded):
    task = icl.load_task("pseudo-translation")
    prompts = icl.build_prompts(
        embedded, task.test[:5], examples=task.train, n_shots=2, template=task.template
    )
    whole = icl.generate(embedded, prompts, max_new_tokens=6, stop=())
    middle = whole[0][4:9]  # a stop string across tokens: its beginning must wait
    for stop in ((), (middle,), ("\n", middle[1:3])):
        pieces = {}

        def hear(row, text, pieces=pieces):
            pieces.setdefault(row, []).append(text)

        options = {"max_new_tokens": 6, "stop": stop, "drop_context_from": 6}
        answers = icl.generate(embedded, prompts, on_text=hear, batch_size=2, **options)
        assert answers == icl.generate(embedded, prompts, **options)
        assert ["".join(pieces.get(row, [])) for row in range(5)] == answers
        assert max(map(len, pieces.values())) > 2, "piece by piece"
