"""Our masks on TransformerLens against plain Hugging Face eager attention given the same mask."""

import oracle
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment

EXAMPLES = [
    icl.Example("sort reverse double", "dode zimo goza"),
    icl.Example("thin double", "zimo goza"),
    icl.Example("zero one count sort", "dode rovu zimo goza"),
]
QUERIES = [icl.Example("reverse", "dode"), icl.Example("one thin zero", "rovu goza zimo")]
TEMPLATE = icl.PromptTemplate("Translate English to Garupa:")
CONTEXT = {Segment.INSTRUCTIONS, Segment.EXAMPLES}
EVERYTHING = CONTEXT | {Segment.QUERY}

MASKS = {
    "examples from 1": icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1)),
    "context everywhere": icl.ContextMask(CONTEXT, icl.from_layer(0)),
    "later rows": icl.ContextMask({Segment.INSTRUCTIONS}, icl.from_layer(0), rows="after"),
    "query": icl.ContextMask({Segment.QUERY}, icl.from_layer(0)),
    "one layer": icl.ContextMask(CONTEXT, icl.only_layer(1)),
    "window": icl.ContextMask({Segment.EXAMPLES}, icl.window(0, 2)),
    "until": icl.ContextMask({Segment.EXAMPLES}, icl.until_layer(2)),
    "heads": icl.ContextMask(CONTEXT, icl.from_layer(0), heads={(0, 1), (1, 0), (1, 3), (2, 2)}),
    "with BOS": icl.ContextMask(EVERYTHING | {Segment.BOS}, icl.from_layer(1)),
    "all but self": icl.ContextMask(
        EVERYTHING | {Segment.BOS, Segment.GENERATED}, icl.from_layer(1), keep_self=True
    ),
}


def visibility(architecture, prompts, mask, n_new=0):
    """The oracle's cells for every layer: a list of Bool[batch, head, query, key]."""
    layers = mask.layers
    n_layers = tiny.N_LAYERS
    chosen = range(layers.start, n_layers if layers.stop is None else layers.stop)
    by_layer = []
    for layer in range(n_layers):
        by_head = []
        for head in range(tiny.N_HEADS):
            masked = layer in chosen and (mask.heads is None or (layer, head) in mask.heads)
            rows = [
                oracle.visible_cells(
                    segments + [int(Segment.GENERATED)] * n_new,
                    set(map(int, mask.hide)),
                    rows=mask.rows,
                    keep_self=mask.keep_self,
                    window=oracle.window_of(architecture, layer),
                    masked=masked,
                )
                for segments in prompts.segments.tolist()
            ]
            by_head.append(torch.stack(rows))
        by_layer.append(torch.stack(by_head, dim=1))
    return by_layer


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module")
def setting(architecture):
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(
        model, QUERIES, examples=EXAMPLES, n_shots=3, template=TEMPLATE, seed=1
    )
    assert not prompts.attention_mask.all(), "the batch must hold left padding"
    assert prompts.tokens.shape[1] > 3 * tiny.WINDOW
    return model, tiny.build(architecture), prompts


@pytest.mark.parametrize("name", MASKS)
def test_logits_equal_eager_attention(architecture, setting, name):
    model, reference, prompts = setting
    mask = MASKS[name]
    expected = oracle.logits(
        reference, prompts.tokens, prompts.attention_mask, visibility(architecture, prompts, mask)
    )
    with torch.no_grad(), icl.mask_attention(model, prompts, mask):
        ours = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    real = prompts.attention_mask
    torch.testing.assert_close(ours[real], expected[real], atol=1e-4, rtol=0)
    with torch.no_grad():
        clean = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    assert (clean[real] - expected[real]).abs().max() > 1e-3, "the mask must matter"


@pytest.mark.parametrize("name", ["examples from 1", "heads", "all but self"])
def test_greedy_tokens_equal_eager_attention(architecture, setting, name):
    model, reference, prompts = setting
    mask, n_new = MASKS[name], 2 * tiny.WINDOW
    tokens, real = prompts.tokens, prompts.attention_mask
    for step in range(n_new):
        visible = visibility(architecture, prompts, mask, step)
        following = oracle.logits(reference, tokens, real, visible)[:, -1].argmax(-1)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        real = torch.nn.functional.pad(real, (0, 1), value=True)
    for use_cache in (True, False):
        with icl.mask_attention(model, prompts, mask):
            ours = model.generate(
                prompts.tokens,
                attention_mask=prompts.attention_mask,
                max_new_tokens=n_new,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=use_cache,
                verbose=False,
            )
        assert ours.tolist() == tokens.tolist()


def test_generate_gives_the_same_answers(architecture, setting):
    model, _, prompts = setting
    mask = MASKS["examples from 1"]
    with icl.mask_attention(model, prompts, mask):
        tokens = model.generate(
            prompts.tokens,
            attention_mask=prompts.attention_mask,
            max_new_tokens=6,
            do_sample=False,
            stop_at_eos=False,
            verbose=False,
        )
    expected = model.tokenizer.batch_decode(
        tokens[:, prompts.tokens.shape[1] :], skip_special_tokens=True
    )
    ours = icl.generate(model, prompts, mask, max_new_tokens=6, stop=())
    for mine, theirs in zip(ours, expected, strict=True):
        assert theirs.strip().startswith(mine)  # ours also ends at EOS


@pytest.mark.parametrize("name", ["gpt2", "llama", "starcoder2", "qwen2", "gpt_neox", "gptj"])
def test_a_model_that_takes_the_mask_itself_agrees(name):
    """No hooks at all on the reference: the 4-D mask is an argument of its forward pass."""
    model, reference = tiny.boot(name), tiny.build(name)
    prompts = icl.build_prompts(
        model, QUERIES[:1], examples=EXAMPLES, n_shots=3, template=TEMPLATE, seed=1
    )
    mask = MASKS["context everywhere"]
    visible = visibility(name, prompts, mask)[0][:, :1]
    additive = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float).min)
    with torch.no_grad():
        expected = reference(prompts.tokens, attention_mask=additive).logits
        with icl.mask_attention(model, prompts, mask):
            ours = model(prompts.tokens, attention_mask=prompts.attention_mask.long())
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
