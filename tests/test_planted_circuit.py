"""The planted inference circuit does what its page says, where it says, and nothing elsewhere."""

from functools import cache, partial

import planted_circuit as planted
import pytest
import torch

import icl_locate as icl
from icl_locate.engine.labels import score_labels

COLON, STOP = planted.WORDS.index(":"), planted.WORDS.index(".")
TEXT = range(STOP + 1, planted.WORDS.index("l0"))


def kinds_of(tokens):
    """Which tokens are of a text (x), forerunners (s) or labels (y), the number of each one's
    block, and which block is the query's."""
    block = (tokens == STOP).cumsum(dim=1)
    x = (tokens >= TEXT.start) & (tokens < TEXT.stop)
    return x, tokens == COLON, tokens >= TEXT.stop, block, block == block.max(dim=1)[0][:, None]


def edges(positions, n_rows, *, route):
    """The cells (row, key) of a route."""
    x, s, y, block, query = kinds_of(positions.tokens)
    same = block[:, :, None] == block[:, None, :]
    row, key = (slice(None), slice(None), None), (slice(None), None, slice(None))
    cells = {
        "x->s": s[row] & x[key] & same & ~query[row],
        "xq->sq": s[row] & x[key] & same & query[row],
        "s->y": y[row] & s[key] & same,
        "y->sq": (s & query)[row] & y[key],
        "s->s": s[row] & s[key] & ~same,
    }[route]
    return cells[:, -n_rows:]


def prompts_of(model, task, n_shots=4, n_queries=24):
    return icl.build_prompts(
        model, task.test[:n_queries], examples=task.train, n_shots=n_shots,
        template=task.template, choice="balanced", seed=0,
    )  # fmt: skip


def margins(model, task, prompts, mask=None):
    """By how much the right label beats the best other one."""
    labels = sorted({example.target for example in task.train})
    scores = score_labels(model, prompts, labels, mask)
    right = torch.tensor([[labels.index(target)] for target in prompts.targets])
    others = scores.scatter(1, right, -torch.inf).amax(dim=1)
    return scores.gather(1, right)[:, 0] - others


@cache
def patterns(bypass):
    """Attention [layer, batch, head, row, key], and the tokens, with each query's label behind."""
    model = planted.boot(bypass=bypass)
    prompts = prompts_of(model, planted.TASK)
    ends = torch.tensor([[planted.WORDS.index(target)] for target in prompts.targets])
    tokens = torch.cat([prompts.tokens, ends], dim=1)
    real = torch.nn.functional.pad(prompts.attention_mask, (0, 1), value=True)
    _, cache = model.run_with_cache(tokens, attention_mask=real)
    layers = range(planted.N_LAYERS)
    return torch.stack([cache[f"blocks.{i}.attn.hook_pattern"] for i in layers]), tokens


@pytest.mark.parametrize("bypass", [False, True])
def test_it_learns_in_context_alone(bypass):
    """Labels that changed places are told as well; without examples the answer is a guess."""
    model = planted.boot(bypass=bypass)
    tasks = [(planted.TASK, 4), (planted.SWAPPED, 4), (planted.THREE_CLASSES, 6)]
    for task, n_shots in tasks:
        assert margins(model, task, prompts_of(model, task, n_shots)).min() > 8
        guesses = margins(model, task, prompts_of(model, task, 0))
        assert guesses.abs().max() < 2
        assert (guesses > 0).float().mean() < 0.7
    if not bypass:
        long = prompts_of(model, planted.LONG_LABELS)
        assert margins(model, planted.LONG_LABELS, long).min() > 3


@pytest.mark.parametrize("bypass", [False, True])
def test_heads_look_where_they_should(bypass):
    attention, tokens = patterns(bypass)
    x, s, y, block, _ = kinds_of(tokens)
    same = block[:, :, None] == block[:, None, :]
    row, key = (slice(None), slice(None), None), (slice(None), None, slice(None))

    def on(head, cells, rows):
        return (attention[head[0]][:, head[1]] * cells).sum(dim=2)[rows]

    assert on(planted.SUMMARY_HEAD, x[key] & same, s).min() > 0.99
    assert on(planted.FORERUNNER_HEAD, s[key] & same, y).min() > 0.99
    last = torch.zeros_like(s)
    last[:, -2] = True  # the query's own ":"
    sources = torch.tensor([TEXT.index(int(token)) // 12 for token in tokens[:, -3]])
    labels = tokens - TEXT.stop
    right = y & (labels == sources[:, None])
    right[:, -1] = False
    if not bypass:
        assert on(planted.RETRIEVAL_HEAD, right[key], last).min() > 0.99
        return
    before = y[key] & (block[key] == block[row] - 1)
    assert on(planted.COLLECTING_HEAD, before, s & (block > 0)).min() > 0.99
    collected = torch.zeros_like(s)  # the ":" of an example behind one with the right label
    for prompt, place in s.nonzero().tolist():
        behind = right[prompt] & (block[prompt] == block[prompt, place] - 1)
        collected[prompt, place] = bool(behind.any()) and place != len(s[0]) - 2
    assert on(planted.BYPASS_HEAD, collected[key], last).min() > 0.98


TRUTH = {
    False: {
        "x->s": planted.SUMMARY_LAYER, "xq->sq": planted.SUMMARY_LAYER,
        "s->y": planted.COPY_LAYER, "y->sq": planted.RETRIEVE_LAYER, "s->s": None,
    },
    True: {
        "x->s": planted.SUMMARY_LAYER, "xq->sq": planted.SUMMARY_LAYER,
        "s->y": planted.COPY_LAYER, "y->sq": None, "s->s": planted.BYPASS_LAYER,
    },
}  # fmt: skip


@pytest.mark.parametrize("bypass", [False, True])
def test_a_cut_matters_at_its_layer_alone(bypass):
    model = planted.boot(bypass=bypass)
    prompts = prompts_of(model, planted.TASK, n_queries=6)
    for route, truth in TRUTH[bypass].items():
        for layer in range(planted.N_LAYERS):
            cut = icl.EdgeMask(partial(edges, route=route), layers={layer})
            left = margins(model, planted.TASK, prompts, cut)
            if layer == truth:
                assert left.abs().max() < 2, (route, layer)
            else:
                assert left.min() > 8, (route, layer)


@pytest.mark.parametrize("bypass", [False, True])
def test_the_sweep_finds_the_last_layer_that_needs_examples(bypass):
    model = planted.boot(bypass=bypass)
    swept = icl.sweep(
        model, planted.TASK, n_shots=4, metric="label_accuracy", n_queries=24, seeds=[0],
        conditions="examples", layers=range(5, 9), engine="shared",
    )  # fmt: skip
    (found,) = icl.locate(swept)
    needed = planted.BYPASS_LAYER if bypass else planted.RETRIEVE_LAYER
    assert found.layer == needed + 1
    assert found.ceiling == 1
    assert found.floor == 0.5
