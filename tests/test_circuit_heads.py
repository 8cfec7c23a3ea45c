"""Heads of the inference circuit, against a naive loop over the attention of plain models."""

import re
from dataclasses import replace
from functools import cache

import planted_circuit as planted
import pytest
import tiny
import torch
import transformers as hf
from test_circuit_tokens import LAYOUTS
from test_projection import latent_heads
from transformers.pytorch_utils import Conv1D

import icl_locate as icl
from icl_locate import circuit
from icl_locate.circuit.assignment import cross_fitted
from icl_locate.circuit.attended import N_DRAWS, random_columns
from icl_locate.circuit.inputs import CircuitSetting
from icl_locate.circuit.retrieval import Shown
from icl_locate.circuit.retrieval import _cells as induction_cells
from icl_locate.errors import ModelError, NumericalError, TaskError
from icl_locate.models.projection import query_key_weights

LABELS = {1: ("vevo", "begu"), 3: ("vevo begu siba", "begu rare vevo")}
ASKED = {"n_shots": 6, "batch_size": 3, "seeds": [2]}
SHARP = ("q_proj", "k_proj", "c_attn", "query_key_value")


def classes(n_tokens, n=10):
    """Texts of one to three words, so that prompts are of several lengths."""
    labels = LABELS[n_tokens]
    words = ["sort", "invert", "halve", "repeat", "double", "largest", "count", "zero"]
    texts = [" ".join(words[(i + k) % 8] for k in range(1 + i % 3)) for i in range(24)]
    examples = [icl.Example(text, labels[i % 2]) for i, text in enumerate(texts)]
    return icl.Task("classes", tuple(examples[n:]), tuple(examples[:n]), LAYOUTS["plain"])


@cache
def models(architecture):
    """A plain model whose attention is far from even, and a bridge around a copy of it."""
    plain = tiny.build(architecture)
    with torch.no_grad():
        for name, weights in plain.named_parameters():
            if any(part in name for part in SHARP):
                weights.mul_(3)
    return plain, tiny.bridge(plain)


def shown(architecture, n_tokens, compat=None):
    model = models(architecture)[1]
    chosen = CircuitSetting.of(classes(n_tokens), "log_prob", n_shots=6, seeds=[2])
    return Shown.of(chosen, model, 2, compat)


@cache
def run(architecture, n_tokens, label):
    """Of each prompt with its right or a wrong label: attention, states, where s and y stand, and
    which examples are right. One text at a time, without padding; places by their characters."""
    plain, model = models(architecture)
    found = []
    for text, target in zip(
        (prompts := shown(architecture, n_tokens).inputs.prompts).texts,
        prompts.targets,
        strict=True,
    ):
        labels = LABELS[n_tokens]
        answer = target if label == "right" else labels[1 - labels.index(target)]
        encoded = model.tokenizer(
            text + answer, return_offsets_mapping=True, add_special_tokens=False
        )
        ids = torch.tensor([[model.tokenizer.bos_token_id, *encoded["input_ids"]]])
        begins = [start for start, _ in encoded["offset_mapping"]]
        answers = list(re.finditer("A:", text + answer))
        y = [1 + begins.index(one.end()) for one in answers]
        said = [re.match(r"[^\n]*", (text + answer)[one.end() :])[0] for one in answers]
        with torch.no_grad():
            out = plain(ids, output_attentions=True, output_hidden_states=True)
        right = [one == target for one in said[:-1]]
        attention = [layer[0].tolist() for layer in out.attentions]
        found.append((attention, [h[0] for h in out.hidden_states], y, right, ids.shape[1]))
    return found


def by_head(runs, value):
    """``value(attention[row][column], ...)`` of each layer, head and prompt."""
    return torch.tensor([
        [[value(one[0][layer][head], *one[2:]) for one in runs] for head in range(tiny.N_HEADS)]
        for layer in range(tiny.N_LAYERS)
    ], dtype=torch.float64)  # fmt: skip


def same(measure, arm, expected):
    got = measure.statistics[measure.arms.index(arm)].select(-3, 0)[..., 0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


CASES = [("gpt2", 1), ("llama", 3), ("gpt_neox", 1), ("gpt_neox", 3)]


@pytest.mark.parametrize(("architecture", "n_tokens"), CASES)
def test_forerunner_heads_are_those_of_a_naive_loop(architecture, n_tokens):
    _, model = models(architecture)
    found = circuit.forerunner_heads(model, classes(n_tokens), **ASKED)
    theirs = circuit.forerunner_heads(model, classes(n_tokens), compat="cho2025", **ASKED)
    for label in ("right", "wrong"):
        runs = run(architecture, n_tokens, label)
        assert len({length for *_, length in runs}) > 1  # padded when they run together
        paid = by_head(runs, lambda a, y, right, t: a[y[-1]][y[-1] - 1])
        last = by_head(runs, lambda a, y, right, t: a[-1][-2])
        above = by_head(runs, lambda a, y, right, t: a[y[-1]][y[-1] - 1] > 5 / t)
        same(found, f"attention, {label} label", paid)
        same(found, f"{label} label", above)
        same(theirs, f"attention, {label} label", last)
        assert torch.equal(paid, last) == (n_tokens == 1)
        assert 0 < above.mean() < 1
    even = torch.tensor([1 / (y[-1] + 1) for *_, y, _, _ in run(architecture, n_tokens, "right")])
    assert found.chance[3] == pytest.approx(float(even.mean()), rel=1e-5)
    assert found.chance[0] == 0


@pytest.mark.parametrize(("architecture", "n_tokens"), CASES)
def test_induction_heads_are_those_of_a_naive_loop(architecture, n_tokens):
    _, model = models(architecture)
    runs = run(architecture, n_tokens, "right")
    for compat in (None, "cho2025"):
        found = circuit.induction_heads(model, classes(n_tokens), compat=compat, **ASKED)

        def row(y, t, compat=compat):
            return y[-1] - 1 if compat is None else t - 2

        def mass(a, y, right, t, row=row):
            return sum(a[row(y, t)][i] for i in y[:-1])

        def more(a, y, right, t, row=row):
            signs = [1 if one else -1 for one in right]
            return sum(sign * a[row(y, t)][i] for sign, i in zip(signs, y[:-1], strict=True))

        same(found, "attention, induction", by_head(runs, mass))
        same(found, "attention, correct induction", by_head(runs, more))
        counted = by_head(runs, lambda *one, mass=mass: mass(*one) > 5 / one[-1])
        same(found, "induction", counted)
        correct = by_head(runs, lambda *one, more=more: more(*one) > 5 / (one[-1] * 2))
        same(found, "correct induction", correct)
        assert 0 < counted.mean() < 1
        assert 0 < correct.mean() < 1
    y, t = runs[0][2], runs[0][4]
    assert (6 / y[-1] > 5 / t) == bool(found.chance[0])


def test_controls_are_what_the_drawn_cells_get():
    _, model = models("llama")
    found = circuit.induction_heads(model, classes(1), **ASKED)
    runs, cells = run("llama", 1, "right"), induction_cells(given := shown("llama", 1))
    skipped = (~given.prompts.attention_mask).sum(dim=1).tolist()
    for arm, chosen in (("random tokens", slice(2, 10)), ("permuted classes", slice(10, 18))):
        threshold = 5 if arm == "random tokens" else 5 / 2
        values = torch.zeros(2, tiny.N_LAYERS, tiny.N_HEADS, len(runs), dtype=torch.float64)
        for item, (attention, _, y, _, t) in enumerate(runs):
            for weights in cells.weights[chosen, item]:
                cells_of = zip(cells.columns[item].tolist(), weights.tolist(), strict=True)
                used = [(column - skipped[item], weight) for column, weight in cells_of if weight]
                for layer in range(tiny.N_LAYERS):
                    for head in range(tiny.N_HEADS):
                        a = attention[layer][head][y[-1] - 1]
                        paid = sum(weight * a[column] for column, weight in used)
                        values[:, layer, head, item] += torch.tensor([paid > threshold / t, paid])
        same(found, arm, values[0] / N_DRAWS)
        same(found, f"attention, {arm}", values[1] / N_DRAWS)


def test_other_columns_are_any_but_those_measured():
    given = shown("gpt2", 3)
    prompts, types, rows = given.prompts, given.types, given.rows
    drawn = random_columns(prompts, rows, types.y, 200, 0)
    assert torch.equal(drawn, random_columns(prompts, rows, types.y, 200, 0))
    assert not torch.equal(drawn, random_columns(prompts, rows, types.y, 200, 1))
    for item, row in enumerate(rows.tolist()):
        first = int((~prompts.attention_mask[item]).sum()) + 1  # BOS stands there
        free = set(range(first, row)) - set(types.y[item].tolist())
        assert set(drawn[item].flatten().tolist()) == free
        assert all(len(set(draw.tolist())) == 6 for draw in drawn[item])
    cells = induction_cells(given)
    others = cells.weights[2:10]
    assert (others.sum(dim=-1) == 6).all()  # as many as there are labels
    assert (others.sum(dim=0)[:, 6:] == 1).all()  # each drawn cell in its own draw
    signs = cells.weights[10:, :, :6]
    assert torch.equal(signs.sum(dim=-1), (given.right * 2.0 - 1).sum(dim=-1).expand(N_DRAWS, -1))
    assert len({tuple(draw) for draw in signs[:, 0].tolist()}) > 1


@pytest.mark.parametrize(("architecture", "n_tokens"), CASES)
def test_label_assignment_is_that_of_a_naive_loop(architecture, n_tokens):
    _, model = models(architecture)
    runs = run(architecture, n_tokens, "right")
    found = circuit.label_assignment(model, classes(n_tokens), **ASKED)

    def share(a, y, right, t, row=None):
        paid = [a[y[-1] - 1 if row is None else row][i] for i in y[:-1]]
        return sum(p for p, one in zip(paid, right, strict=True) if one) / (sum(paid) + 1e-5)

    heads = by_head(runs, share)
    same(found, "mean head", heads.mean(dim=1))
    same(found, "best head", cross_fitted(heads, 2))
    vanilla = torch.zeros(tiny.N_LAYERS, len(runs), dtype=torch.float64)
    for item, (_, states, y, right, _) in enumerate(runs):
        for layer in range(tiny.N_LAYERS):
            query = states[layer][y[-1] - 1]
            alike = [torch.cosine_similarity(states[layer][i - 1], query, dim=0) for i in y[:-1]]
            of_right = sum(a for a, one in zip(alike, right, strict=True) if one)
            vanilla[layer, item] = of_right / (sum(alike) + 1e-5)
    same(found, "vanilla", vanilla)
    theirs = circuit.label_assignment(model, classes(n_tokens), compat="cho2025", **ASKED)
    heads = by_head(runs, lambda a, y, right, t: share(a, y, right, t, row=t - 2))
    same(theirs, "best head", heads.amax(dim=1))
    same(theirs, "mean head", heads.mean(dim=1))
    same(theirs, "vanilla", vanilla)
    assert (found.chance == 0.5).all()
    assert theirs.chance[0].isnan().all()


def test_the_best_head_is_chosen_where_it_is_not_measured():
    noise = torch.rand(2, 200, 40, generator=torch.Generator().manual_seed(0)).double()
    assert noise.mean(dim=-1).amax(dim=1).min() > 0.6  # the best of all by chance
    assert (cross_fitted(noise, 0).mean(dim=-1) - 0.5).abs().max() < 0.1
    noise[:, 7] += 1
    torch.testing.assert_close(cross_fitted(noise, 0), noise[:, 7])


@cache
def on_planted(kind):
    model, task = planted.boot(), getattr(planted, kind)
    asked = {"n_queries": 12, "seeds": [0, 1]}
    return (
        circuit.forerunner_heads(model, task, **asked),
        circuit.induction_heads(model, task, **asked),
        circuit.label_assignment(model, task, **asked),
    )


@pytest.mark.parametrize("kind", ["TASK", "THREE_CLASSES", "LONG_LABELS"])
def test_planted_heads_are_found_and_no_others(kind):
    forerunner, induction, assignment = on_planted(kind)
    copy, retrieve = planted.COPY_LAYER, planted.RETRIEVE_LAYER
    assert [*forerunner.heads_beyond("random token")] == [planted.FORERUNNER_HEAD]
    counts = forerunner.per_layer()
    alone = torch.eye(planted.N_LAYERS, dtype=torch.float64)
    for arm in (0, 1):  # the head looks back from any label, be it right or wrong
        torch.testing.assert_close(counts.scores[arm].mean(dim=-1), alone[copy])
    assert forerunner.per_layer("max").scores[3, copy].min() > 0.9
    assert [*induction.heads_beyond("random tokens")] == [planted.RETRIEVAL_HEAD]
    more = induction.heads_beyond("permuted classes", "correct induction")
    assert [*more] == [planted.RETRIEVAL_HEAD]
    torch.testing.assert_close(induction.per_layer().scores[1].mean(dim=-1), alone[retrieve])
    best, _, vanilla = assignment.scores.mean(dim=-1)
    chance = float(assignment.chance[0, 0])
    assert best[retrieve] > 0.99
    others = torch.arange(planted.N_LAYERS) != retrieve
    assert (best[others] - chance).abs().max() < 0.02
    assert (vanilla[: planted.SUMMARY_LAYER + 1] - chance).abs().max() < 0.01
    assert (vanilla[planted.SUMMARY_LAYER + 1 :] - chance).min() > 0.03


def test_the_intervals_of_layers_are_those_of_the_counts():
    forerunner, induction, _ = on_planted("TASK")
    low, _ = forerunner.per_layer().beyond("random token").interval()
    assert low[planted.COPY_LAYER] > 0.9
    assert (low[: planted.COPY_LAYER] <= 0).all()
    assert (forerunner.beyond("wrong label").mean == 0).all()
    sums = induction.per_layer()
    values = induction.statistics[..., 0].sum(dim=2)
    torch.testing.assert_close(sums.statistics[..., 0], values)
    torch.testing.assert_close(sums.chance[:, 0], 4 * induction.chance)
    tops = induction.per_layer("max")
    torch.testing.assert_close(tops.statistics[..., 0], induction.statistics[..., 0].amax(dim=2))
    assert tops.chance.isnan().all()
    frame = induction.to_dataframe()
    assert len(frame) == induction.scores[..., 0].numel()
    row = frame.query("arm == 'induction' and layer == 5 and head == 0").iloc[0]
    assert (row["score"], row["low"], row["chance"]) == (1.0, 1.0, 0.0)


def test_heads_are_beyond_a_control_all_together():
    """Of 400 heads that are noise about ten lie beyond their own intervals."""
    values = torch.randn(2, 20, 20, 1, 30, generator=torch.Generator().manual_seed(0)).double()
    table = torch.stack([values, torch.ones_like(values)], dim=-1)
    noise = circuit.HeadMeasure(
        ("measured", "control"), (*range(20),), (*range(20),), (0,), table, values.mean(dim=-1),
        torch.zeros(2), "noise", {"metric_is_mean": True},
    )  # fmt: skip
    assert (noise.beyond("control").interval()[0] > 0).sum() > 4
    assert not noise.heads_beyond("control")
    table[0, 3, 7, ..., 0] += 3
    found = replace(noise, statistics=table, scores=table[..., 0].mean(dim=-1))
    assert [*found.heads_beyond("control")] == [(3, 7)]


def test_a_random_model_has_heads_by_chance_alone():
    model = models("gpt2")[1]
    found = circuit.induction_heads(model, classes(1), n_shots=6, seeds=range(4))
    assert not found.heads_beyond("permuted classes", "correct induction")
    low, high = found.per_layer().beyond("permuted classes", "correct induction").interval(0.99)
    assert ((low <= 0) & (high >= 0)).all()
    fair = circuit.label_assignment(model, classes(1), n_shots=6, seeds=range(4))
    theirs = circuit.label_assignment(
        model, classes(1), n_shots=6, seeds=range(4), compat="cho2025"
    )
    assert (fair.score_interval()[0, 0] < 0.5).all()
    assert theirs.scores[0].mean(dim=-1).min() > 0.6


def falcon():
    """All queries stand beside each other, with their one key behind them."""
    config = hf.FalconConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        multi_query=True, bias=True,
    )  # fmt: skip
    return hf.FalconForCausalLM(config).eval()


def matrices_of(plain, layer):
    """W_Q and W_K by the architecture's own layout."""
    named = {
        name.rpartition(".")[2]: module
        for name, module in plain.named_modules()
        if re.search(rf"\.{layer}\.(attn|attention|self_attn|self_attention)\b", name)
    }
    if "q_proj" in named:
        width = plain.config.head_dim if hasattr(plain.config, "head_dim") else 8
        return [named[k].weight.reshape(-1, width, 32) for k in ("q_proj", "k_proj")]
    if isinstance(named.get("c_attn"), Conv1D):
        return [part.T.reshape(4, 8, 32) for part in named["c_attn"].weight.split(32, dim=1)[:2]]
    joint = named["query_key_value"].weight
    if plain.config.model_type == "falcon":
        return joint[:32].reshape(4, 8, 32), joint[32:40].reshape(1, 8, 32)
    return joint.reshape(4, 3, 8, 32)[:, 0], joint.reshape(4, 3, 8, 32)[:, 1]


@pytest.mark.parametrize(
    "architecture", ["gpt2", "llama", "llama_wide", "gpt_neox", "bloom", "gptj", "falcon"]
)
def test_queries_and_keys_have_the_weights_of_the_plain_model(architecture):
    plain = falcon() if architecture == "falcon" else tiny.build(architecture)
    model = tiny.bridge(plain) if architecture == "falcon" else tiny.boot(architecture)
    for layer in range(tiny.N_LAYERS):
        for found, expected in zip(
            query_key_weights(model, layer), matrices_of(plain, layer), strict=True
        ):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-7)


def test_latent_attention_has_no_such_weights():
    with pytest.raises(ModelError, match="does not make the .* of its heads, each .* wide"):
        query_key_weights(tiny.bridge(latent_heads().eval()), 0)


def components(points, others):
    """The first two principal components, by the covariance's eigenvectors."""
    away = points - points.mean(dim=0)
    values, vectors = torch.linalg.eigh(away.T @ away)
    two = vectors[:, [-1, -2]]
    return away @ two, (others - points.mean(dim=0)) @ two, values[[-1, -2]] / values.sum()


@pytest.mark.parametrize(("compat", "n_tokens"), [(None, 3), ("cho2025", 3), (None, 1)])
def test_the_view_is_that_of_the_plain_model(compat, n_tokens):
    plain, model = models("llama")
    found = circuit.query_key_view(
        model, classes(n_tokens), layer=2, head=1, item=4, n_shots=6, seed=2, compat=compat
    )
    _, states, y, right, _ = run("llama", n_tokens, "right")[4]
    block = plain.model.layers[2]
    entering = states[2].detach() if compat else block.input_layernorm(states[2]).detach()
    group = 1 % 2 if compat else 1 // 2
    w_q = block.self_attn.q_proj.weight.detach()[8:16].double()
    w_k = block.self_attn.k_proj.weight.detach()[8 * group : 8 * group + 8].double()
    places = y[:-1] if compat else [i + n_tokens - 1 for i in y[:-1]]
    seen = entering[places].double() @ w_k.T @ w_q
    query = entering[y[-1] - 1].double()
    points, (at, zero), explained = components(seen, torch.stack([query, 0 * query]))
    signs = (points * found.points).sum(dim=0).sign()
    for got, expected in ((found.points, points), (found.query, at), (found.zero, zero)):
        torch.testing.assert_close(got, expected * signs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.explained, explained, rtol=1e-4, atol=1e-6)
    assert [label == found.asked for label in found.classes] == right
    assert (found.layer, found.head, found.counted) == (2, 1, None)


def test_the_view_is_of_the_head_most_often_correct():
    found = circuit.query_key_view(planted.boot(), planted.TASK, n_shots=6, n_queries=6)
    assert (found.layer, found.head) == planted.RETRIEVAL_HEAD
    assert found.counted == 1
    ahead = found.points[:, 0] > 0
    assert len({(bool(side), label) for side, label in zip(ahead, found.classes, strict=True)}) == 2
    frame = found.to_dataframe()
    assert frame["kind"].tolist() == ["label"] * 6 + ["query", "zero"]
    assert frame["label"].tolist() == [*found.classes, found.asked, ""]
    _, model = models("llama")
    counts = circuit.induction_heads(model, classes(1), n_shots=6, seeds=2)
    counted = counts.scores[1, ..., 0]
    view = circuit.query_key_view(model, classes(1), n_shots=6, seed=2, compat="cho2025")
    assert view.layer * tiny.N_HEADS + view.head == int(counted.flatten().argmax())
    of_layer = circuit.query_key_view(model, classes(1), n_shots=6, seed=2, layer=0)
    assert counted[0, of_layer.head] == counted[0].max() == of_layer.counted
    # what enters the first layer is one of two tokens: there is no second direction
    assert of_layer.explained[1] < 1e-12
    assert not torch.cat([of_layer.points[:, 1], of_layer.query[1:], of_layer.zero[1:]]).any()


@pytest.mark.parametrize(
    ("study", "options", "says"),
    [
        ("forerunner_heads", {"compat": "sia2024"}, "compat is 'sia2024'"),
        ("induction_heads", {"n_shots": 1}, "2 classes, each of which"),
        ("label_assignment", {"n_queries": 1}, "n_queries is 1: the best head"),
        ("query_key_view", {"n_shots": 2}, "n_shots is 2: expected .* 3"),
        ("query_key_view", {"n_shots": 4, "item": 10}, "item is 10"),
        ("query_key_view", {"n_shots": 4, "layer": 3}, "layer is 3"),
        ("query_key_view", {"n_shots": 4, "layer": 1, "head": 4}, "head is 4"),
        ("query_key_view", {"n_shots": 4, "head": 1}, "layer is None: expected the layer of"),
    ],
)
def test_what_cannot_be_measured_is_refused(study, options, says):
    with pytest.raises(TaskError, match=says):
        getattr(circuit, study)(tiny.boot("llama"), classes(1), **options)


def test_numbers_that_are_none_are_refused():
    plain = tiny.build("gpt2")
    with torch.no_grad():
        plain.transformer.h[1].attn.c_attn.weight[:] = torch.nan
    with pytest.raises(NumericalError):
        circuit.forerunner_heads(tiny.bridge(plain), classes(1, n=2), n_shots=2)


@pytest.mark.parametrize("measure", [circuit.forerunner_heads, circuit.induction_heads])
def test_what_is_drawn_for_a_prompt_does_not_depend_on_the_others(measure):
    model, options = planted.boot(), {"n_shots": 4, "seeds": (0, 3)}
    few, many = (measure(model, planted.TASK, n_queries=n, **options) for n in (3, 6))
    assert torch.equal(few.statistics, many.statistics[..., :3, :])
    other = measure(model, planted.TASK, n_queries=3, n_shots=4, seeds=(0, 4))
    assert torch.equal(other.statistics[:, :, :, 0], few.statistics[:, :, :, 0])
    arm = few.arms.index(
        f"attention, {'random tokens' if 'induction' in few.arms else 'random token'}"
    )
    assert not torch.equal(other.statistics[arm, ..., 1, :, :], few.statistics[arm, ..., 1, :, :])
