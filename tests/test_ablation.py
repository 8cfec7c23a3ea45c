"""Ablating heads by zero, means and resampling, against plain Hugging Face models."""

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import oracle
import planted_induction as planted
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import induction
from icl_locate.errors import MaskError, ModelError, PromptError, ResultError
from icl_locate.hooks import watch_attention
from icl_locate.interventions.ablation import METHODS

D_HEAD = tiny.D_MODEL // tiny.N_HEADS
HEADS = {(1, 0), (1, 3), (2, 2)}
BANK = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
QUERIES = [
    icl.Example("reverse", "dode"),
    icl.Example("one thin zero", "rovu goza zimo"),
    icl.Example("zero", "rovu"),
]


def projections(plain):
    found = [dict(module.named_children()) for module in oracle.attention_modules(plain)]
    return [next(c[name] for name in oracle.PROJECTIONS if name in c) for c in found]


@contextmanager
def edited_inputs(modules, edit):
    """Run with ``edit(layer, input)`` in place of each module's input."""
    with ExitStack() as stack:
        for layer, module in enumerate(modules):

            def give(module, args, kwargs, layer=layer):
                if args:
                    return (edit(layer, args[0]), *args[1:]), kwargs
                hidden = edit(layer, kwargs["hidden_states"])
                return args, kwargs | {"hidden_states": hidden}

            stack.callback(module.register_forward_pre_hook(give, with_kwargs=True).remove)
        yield


def tokens_of(n_texts, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, tiny.VOCABULARY, (n_texts, length), generator=generator)


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens, attention_mask=torch.ones_like(tokens))


def plain_logits(plain, tokens):
    with torch.no_grad():
        return plain(tokens, use_cache=False).logits


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_zero_ablation_equals_hugging_face(architecture):
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    tokens = tokens_of(2, 9)

    def silence(heads):
        def edit(layer, z):
            z = z.clone().unflatten(-1, (tiny.N_HEADS, D_HEAD))
            for at, head in heads:
                if at == layer:
                    z[..., head, :] = 0
            return z.flatten(-2)

        return edit

    every = {(layer, head) for layer in range(tiny.N_LAYERS) for head in range(tiny.N_HEADS)}
    clean = logits(model, tokens)
    for heads in (HEADS, every):
        with edited_inputs(projections(plain), silence(heads)):
            expected = plain_logits(plain, tokens)
        with induction.ablate_heads(model, heads):
            ours = logits(model, tokens)
        assert torch.allclose(ours, expected, atol=1e-4)
        assert not torch.allclose(ours, clean, atol=1e-3)
    assert torch.equal(logits(model, tokens), clean), "the model is restored"


def test_all_heads_ablated_is_attention_removed():
    """Nothing is left of attention but the output projection's bias, if it has one."""
    model, plain = tiny.boot("llama"), tiny.build("llama")
    tokens = tokens_of(2, 9)
    with torch.no_grad():
        for projection in projections(plain):
            projection.weight.zero_()
    every = {(layer, head) for layer in range(tiny.N_LAYERS) for head in range(tiny.N_HEADS)}
    with induction.ablate_heads(model, every):
        ours = logits(model, tokens)
    assert torch.allclose(ours, plain_logits(plain, tokens), atol=1e-4)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_mean_ablation_equals_hugging_face(architecture):
    """Means and the heads' outputs on mean inputs, by plain hooks on plain modules."""
    model, plain = tiny.boot(architecture), tiny.build(architecture)
    corpus, tokens = tokens_of(5, 8, seed=1), tokens_of(2, 10)
    reference = induction.head_reference(model, corpus, batch_size=2)
    assert reference.n_positions == 8

    def record(modules, tokens, edits=None):
        seen = {}

        def keep(layer, value):
            seen[layer] = value
            return value

        with ExitStack() as stack:
            if edits:
                stack.enter_context(edited_inputs(*edits))
            stack.enter_context(edited_inputs(modules, keep))
            plain_logits(plain, tokens)
        return seen

    attention = oracle.attention_modules(plain)
    outputs, inputs = record(projections(plain), corpus), record(attention, corpus)
    means = {
        "mean_z": {layer: z.mean(0) for layer, z in outputs.items()},
        "mean_input": {
            layer: z[0]
            for layer, z in record(
                projections(plain),
                corpus[:1],
                (attention, lambda layer, value: inputs[layer].mean(0, keepdim=True)),
            ).items()
        },
    }
    for method, table in means.items():

        def replace(layer, z, table=table):
            z = z.clone().unflatten(-1, (tiny.N_HEADS, D_HEAD))
            mean = table[layer].unflatten(-1, (tiny.N_HEADS, D_HEAD))
            mean = torch.cat([mean, mean.mean(0, keepdim=True).expand(2, -1, -1)])  # beyond it
            for at, head in HEADS:
                if at == layer:
                    z[:, :, head] = mean[:, head]
            return z.flatten(-2)

        with edited_inputs(projections(plain), replace):
            expected = plain_logits(plain, tokens)
        with induction.ablate_heads(model, HEADS, method, reference=reference):
            ours = logits(model, tokens)
        assert torch.allclose(ours, expected, atol=1e-4), method
    assert not torch.allclose(*(means[m][1] for m in means), atol=1e-3), "two different methods"


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("method", ["mean_z", "mean_input", "resample"])
def test_a_constant_corpus_makes_ablation_the_identity_on_it(architecture, method):
    model = tiny.boot(architecture)
    every = {(layer, head) for layer in range(tiny.N_LAYERS) for head in range(tiny.N_HEADS)}
    tokens = tokens_of(1, 9)
    reference = induction.head_reference(model, tokens.repeat(4, 1), n_samples=3)
    with induction.ablate_heads(model, every, method, reference=reference):
        ours = logits(model, tokens.repeat(2, 1))
    assert torch.allclose(ours, logits(model, tokens.repeat(2, 1)), atol=1e-4)
    with induction.ablate_heads(model, every, method, reference=reference):
        other = logits(model, tokens_of(1, 9, seed=7))
    assert not torch.allclose(other, logits(model, tokens_of(1, 9, seed=7)), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_ablation_holds_through_generation(architecture, method):
    """Batched, left-padded and cached equals one prompt at a time, run whole for every token."""
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2)
    reference = induction.head_reference(model, prompts)
    ablation = induction.HeadAblation(HEADS, method, reference, seed=1)
    n_new = 5
    ours = icl.generate(model, prompts, ablation, max_new_tokens=n_new, stop=())
    for i in range(len(prompts)):
        single = prompts[i : i + 1]
        grown, answer = single.tokens, []
        for _ in range(n_new):
            with induction.ablate_heads(model, ablation, prompts=single):
                answer.append(int(logits(model, grown)[0, -1].argmax()))
            grown = torch.cat([grown, torch.tensor([[answer[-1]]])], dim=1)
        eos = model.tokenizer.eos_token_id
        cut = answer[: answer.index(eos)] if eos in answer else answer
        assert ours[i] == model.tokenizer.decode(cut, skip_special_tokens=True).strip()


def test_nothing_before_the_first_ablated_layer_changes():
    model = tiny.boot("llama")
    tokens = tokens_of(2, 9)

    def run(context=None):
        seen = {}
        with ExitStack() as stack:
            if context is not None:
                stack.enter_context(context)
            stack.enter_context(watch_attention(model, "hook_z", seen.__setitem__))
            logits(model, tokens)
        return seen

    clean, ablated = run(), run(induction.ablate_heads(model, {(1, 2)}))
    assert torch.equal(clean[0], ablated[0])
    kept = [0, 1, 3]
    assert torch.equal(clean[1][:, :, kept], ablated[1][:, :, kept])
    assert not ablated[1][:, :, 2].any() and clean[1][:, :, 2].all()
    assert not torch.allclose(clean[2], ablated[2])


def test_the_model_is_restored_after_an_exception():
    model = tiny.boot("gpt2")
    tokens = tokens_of(1, 5)
    clean = logits(model, tokens)
    with pytest.raises(RuntimeError, match="mine"), induction.ablate_heads(model, HEADS):
        raise RuntimeError("mine")
    assert torch.equal(logits(model, tokens), clean)


def test_ablations_and_masks_nest():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=2)
    mask = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(1))
    first, second = {(0, 1)}, {(1, 2), (2, 0)}
    with induction.ablate_heads(model, first), induction.ablate_heads(model, second):
        both = icl.score_targets(model, prompts, mask)
    with icl.mask_attention(model, prompts[0:1], mask), pytest.raises(MaskError, match="made for"):
        icl.score_targets(model, prompts, mask)
    with induction.ablate_heads(model, first | second):
        assert torch.allclose(both, icl.score_targets(model, prompts, mask), atol=1e-6)
    assert not torch.allclose(both, icl.score_targets(model, prompts, mask), atol=1e-3)


def test_resampled_outputs_are_drawn_by_prompt():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    reference = induction.head_reference(model, tokens_of(6, 7, seed=2), n_samples=6)
    found = {}
    ablation = induction.HeadAblation({(1, 2)}, "resample", reference)
    with (
        induction.ablate_heads(model, ablation, prompts=prompts),
        watch_attention(model, "hook_z", found.__setitem__),
    ):
        logits_of = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    assert logits_of.isfinite().all()
    for row in range(len(prompts)):
        z = found[1][row, prompts.attention_mask[row]][:, 2]
        places = torch.arange(len(z)) % 7
        matches = [torch.allclose(z, s[places], atol=1e-6) for s in reference.samples[1, :, :, 2]]
        assert sum(matches) == 1, "one sample, in its order, again from its start"
    whole = icl.score_targets(model, prompts, ablation)
    assert torch.allclose(
        whole, icl.score_targets(model, prompts, ablation, batch_size=1), atol=1e-5
    )
    bare = replace(prompts, texts=[""] * len(prompts))  # token ids have no texts
    assert torch.allclose(
        icl.score_targets(model, bare, ablation),
        icl.score_targets(model, bare, ablation, batch_size=1),
        atol=1e-5,
    )
    others = [
        icl.score_targets(
            model, prompts, induction.HeadAblation({(1, 2)}, "resample", reference, s)
        )
        for s in range(1, 6)
    ]
    assert any(not torch.allclose(whole, other, atol=1e-4) for other in others)


def test_a_corpus_of_texts_prompts_or_random_tokens(tmp_path):
    model = tiny.boot("llama")
    texts = ["sort reverse", "zero one thin double"]
    reference = induction.head_reference(model, texts)
    by_hand = {}
    for text in texts:
        seen = {}
        with watch_attention(model, "hook_z", seen.__setitem__):
            logits(model, model.to_tokens(text))
        by_hand[text] = seen[1][0]
    short, long = (by_hand[text] for text in texts)
    assert torch.allclose(reference.mean_z[1, 0], (short[0] + long[0]) / 2, atol=1e-5)
    assert torch.allclose(reference.mean_z[1, len(long) - 1], long[-1], atol=1e-5)
    overall = torch.cat([short, long]).mean(0)
    assert torch.allclose(reference.mean_z[1, -1], overall, atol=1e-5)
    assert reference.sample_lengths.tolist() == [len(short), len(long)]

    path = reference.save(tmp_path / "means")
    again = induction.HeadReference.load(path)
    assert torch.equal(again.mean_z, reference.mean_z)
    assert torch.equal(again.samples, reference.samples)
    assert again.provenance == reference.provenance
    with pytest.raises(ResultError, match="is not a result"):
        icl.SweepResult.load(path)

    letters = induction.head_reference(model, texts[1])
    assert letters.provenance["n_texts"] == 1, "one text, not its letters"

    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    one = induction.head_reference(model, prompts, batch_size=1)
    assert torch.allclose(one.mean_z, induction.head_reference(model, prompts).mean_z, atol=1e-5)
    random = induction.head_reference(model, n_texts=3, length=1000, seed=2)
    assert random.n_positions == tiny.N_CTX, "cut to the context"
    same = induction.head_reference(model, n_texts=3, length=1000, seed=2)
    assert torch.equal(random.mean_input_z, same.mean_input_z)


def test_a_model_whose_hooks_do_nothing_is_refused(monkeypatch):
    from contextlib import nullcontext

    from icl_locate.hooks import scale_heads

    model = tiny.boot_fresh("llama")
    reference = induction.head_reference(model, n_texts=1, length=4)
    with monkeypatch.context() as patch:
        patch.setattr(model, "hooks", lambda fwd_hooks: nullcontext())
        for context in (
            induction.ablate_heads(model, HEADS, "mean_z", reference=reference),
            scale_heads(model, torch.ones(3, 4)),
        ):
            with (
                pytest.raises(ModelError, match="values passed in 0 of its 3 layers"),
                context,
            ):
                pass
        for run in (induction.head_reference, induction.head_scores, induction.copying_scores):
            with pytest.raises(ModelError, match="nothing passed hook_"):
                run(model)
    with induction.ablate_heads(model, HEADS):
        pass


def interventions(model, prompts):
    """An ablation, a mask of segments, and one of edges."""
    reference = induction.head_reference(model, tokens_of(4, 20, seed=2))
    yield induction.ablate_heads(model, HEADS, "mean_z", reference=reference, prompts=prompts)
    yield icl.mask_attention(model, prompts, icl.ContextMask({icl.Segment.QUERY}, heads=HEADS))
    yield icl.mask_attention(model, prompts, induction.knockout(HEADS))


def steps(model, text, ends):
    """Logits of a text that is given piece by piece, each piece behind the last one's cache."""
    start, cache, found = 0, None, []
    for end in ends:
        logits, cache = model(
            text[:, start:end],
            attention_mask=torch.ones(1, end, dtype=torch.long),
            past_key_values=cache,
            use_cache=True,
            return_type="logits_and_cache",
        )
        start = end
        found.append(logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
def test_prompts_may_be_as_short_as_the_pieces_that_follow_them(n_tokens):
    model = tiny.boot("llama")
    queries = [icl.Example(" ".join(["zero"] * n_tokens), "rovu")]
    template = icl.PromptTemplate(source_prefix="", target_prefix="")
    options = {"n_shots": 0, "template": template, "prepend_bos": False}
    prompts = icl.build_prompts(model, queries, **options)
    assert prompts.tokens.shape == (1, n_tokens)
    text = torch.cat([prompts.tokens, torch.tensor([[7, 5, 7, 9, 7]])], dim=1)
    for context, again in zip(
        interventions(model, prompts), interventions(model, prompts), strict=True
    ):
        with again, torch.no_grad():
            whole = model(text, attention_mask=torch.ones_like(text))
        with context, torch.no_grad():
            for _ in range(2):  # a second run of one token is no step
                found = steps(model, text, range(n_tokens, text.shape[1] + 1))
                torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_several_new_tokens_may_come_at_once():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, QUERIES[:1], examples=BANK, n_shots=1)
    text = torch.cat([prompts.tokens, torch.tensor([[7, 5, 7, 9, 7]])], dim=1)
    n = prompts.tokens.shape[1]
    for context in interventions(model, prompts):
        with context, torch.no_grad():
            whole = model(text, attention_mask=torch.ones_like(text))
            found = steps(model, text, (n, n + 3, n + 5))
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


def test_bad_arguments():
    model = tiny.boot("llama")
    reference = induction.head_reference(model, n_texts=1, length=4, n_samples=0)
    assert induction.HeadAblation(HEADS, "mean_z", reference).seed == 0, "means need no samples"
    other = induction.head_reference(planted.boot(), n_texts=1, length=4)
    for options, message in (
        ({"heads": {(3, 0)}}, r"head \(layer 3, head 0\) is out of range"),
        ({"heads": HEADS, "method": "median"}, "method is 'median': expected one of 'zero'"),
        ({"heads": HEADS, "method": "mean_z"}, "give reference=head_reference"),
        ({"heads": HEADS, "method": "mean_z", "reference": other}, "was measured on another model"),
        ({"heads": HEADS, "method": "resample", "reference": reference}, "holds no samples"),
    ):
        with pytest.raises(MaskError, match=message), induction.ablate_heads(model, **options):
            pass
    prompts = icl.build_prompts(model, QUERIES, examples=BANK, n_shots=1)
    with (
        induction.ablate_heads(model, HEADS, prompts=prompts),
        pytest.raises(MaskError, match="under an ablation made for prompts of 3 x"),
    ):
        logits(model, prompts.tokens[:1])
    for corpus, message in (
        ([], "the corpus is empty"),
        (["zero " * 300], "has 301 tokens, but the model's context holds 256"),
    ):
        with pytest.raises(PromptError, match=message):
            induction.head_reference(model, corpus)
    model.train()
    try:
        with pytest.raises(ModelError, match="call model.eval"):
            induction.head_reference(model)
    finally:
        model.eval()
