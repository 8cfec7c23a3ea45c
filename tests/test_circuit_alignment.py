"""Kernel alignment against naive loops on Hugging Face's states, and its laws."""

from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import planted_circuit as planted
import pytest
import tiny
import torch
import transformers as hf
from circuit_oracle import hf_states, type_states

import icl_locate as icl
from icl_locate import circuit
from icl_locate.circuit.alignment import choose_k
from icl_locate.circuit.labels import name_by_letters
from icl_locate.circuit.perplexity import text_prompts
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import ModelError, PromptError, ResultError, TaskError
from icl_locate.prompts.template import Example, choose_examples

TEMPLATE = icl.PromptTemplate(None, "Q:", "A:", "\n")
WORDS = ["sort", "invert", "halve", "repeat", "double", "largest", "count", "zero"]
SHORT, LONG = ("vevo", "begu"), ("vevo siba rare", "begu siba rare")


def task(labels=SHORT):
    """Texts of one to three words, each with a last word of its own."""
    train = [Example(f"{word} one", labels[i % 2]) for i, word in enumerate(WORDS)]
    test = [
        Example(" ".join([*WORDS[: i % 3], word]), labels[i % 2])
        for i, word in enumerate(WORDS[:7])
    ]
    return icl.Task("classes", tuple(train), tuple(test), TEMPLATE)


@cache
def features(n=7, seed=0):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


@cache
def states_of(architecture, labels, normed=False):
    """By type [layer, item, d], each prompt run alone."""
    model, tokenizer, asked = tiny.build(architecture), build_tokenizer(), task(labels)
    found = []
    for query in asked.test:
        shown = choose_examples(query, asked.train, 2, seed=4, choice="balanced")
        found.append(
            type_states(model, tokenizer, TEMPLATE, shown, query, query.target, normed=normed)
        )
    return {at: np.stack([one[at] for one in found], axis=1) for at in "xsy"}


def cosine(a, b):
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def naive(a, b, k):
    """The overlap of each item, by sorting; nothing ties."""
    found = []
    for i in range(len(a)):
        near = []
        for each in (a, b):
            others = [j for j in range(len(a)) if j != i]
            others.sort(key=lambda j: -cosine(each[i], each[j]))
            near.append(set(others[:k]))
        found.append(len(near[0] & near[1]) / k)
    return found


def naive_cho(a, b, k):
    """Own similarity 0; the last of numpy's ascending order."""
    found = []
    for i in range(len(a)):
        near = []
        for each in (a, b):
            row = [0.0 if j == i else cosine(each[i], each[j]) for j in range(len(a))]
            near.append({int(j) for j in np.argsort(row)[len(a) - k :]})
        found.append(len(near[0] & near[1]) / k)
    return found


@pytest.mark.parametrize(
    ("architecture", "labels", "at"),
    [("llama", SHORT, "x"), ("llama", LONG, "s"), ("gpt2", LONG, "y"), ("gpt2", SHORT, "s")],
)
def test_alignment_is_that_of_a_naive_loop(architecture, labels, at):
    wanted = states_of(architecture, labels)[at]
    given = features().double().numpy()
    found = circuit.kernel_alignment(
        tiny.boot(architecture), task(labels), features=features(), at=at, k=3, n_shots=2, seeds=4,
        batch_size=3,
    )  # fmt: skip
    assert found.arms == ("alignment",)
    assert found.layers == tuple(range(tiny.N_LAYERS + 1))
    first = 0 if at == "x" else 1  # before the first block these tokens are the same
    for layer in range(first, tiny.N_LAYERS + 1):
        by_item = found.statistics[0, layer, 0, :, 0].tolist()
        assert by_item == naive(wanted[layer], given, 3), layer
    assert torch.equal(found.chance, torch.full((1, 4), 3 / 6, dtype=torch.float64))
    if (architecture, at) == ("llama", "s"):  # no place tells these apart either
        assert found.scores[0, 0].item() == pytest.approx(3 / 6, abs=1e-12)


@pytest.mark.parametrize("at", ["x", "y"])
def test_compat_is_what_the_authors_compute(at):
    wanted = states_of("gpt2", SHORT, normed=True)[at]
    given = features().double().numpy()
    found = circuit.kernel_alignment(
        tiny.boot("gpt2"), task(), features=features(), at=at, k=3, n_shots=2, seeds=4,
        compat="cho2025",
    )  # fmt: skip
    for layer in range(0 if at == "x" else 1, tiny.N_LAYERS + 1):
        by_item = found.statistics[0, layer, 0, :, 0].tolist()
        assert by_item == naive_cho(wanted[layer], given, 3), layer
    assert found.chance[0, 0] == 3 / 7
    layer = circuit.kernel_alignment(
        tiny.boot("gpt2"), task(), features=tiny.N_LAYERS, at=at, k=3, n_shots=2, seeds=4,
        compat="cho2025",
    )  # fmt: skip
    last = wanted[-1]
    assert layer.statistics[0, -2, 0, :, 0].tolist() == naive_cho(wanted[-2], last, 3)


def test_features_of_every_kind():
    """A layer's states are equal to themselves, however they are given."""
    options = {"at": "x", "k": 2, "n_shots": 2, "seeds": 4}
    model = tiny.boot("llama")
    own = circuit.kernel_alignment(model, task(), features=2, **options)
    assert own.scores[0, 2].item() == 1
    assert own.scores[0, :2].max() < 1
    rows = torch.from_numpy(states_of("llama", SHORT)["x"][2])
    given = circuit.kernel_alignment(model, task(), features=rows, **options)
    places = {query.source: i for i, query in enumerate(task().test)}

    def encoder(texts):
        return rows[[places[text] for text in texts]].float()

    encoded = circuit.kernel_alignment(model, task(), features=encoder, **options)
    for other in (given, encoded):
        assert torch.equal(other.statistics, own.statistics)
    labels = circuit.kernel_alignment(model, task(), **options)
    classes = torch.tensor([[1.0, 0], [0, 1]])[[i % 2 for i in range(7)]]
    same = circuit.kernel_alignment(model, task(), features=classes, **options)
    assert torch.equal(labels.statistics, same.statistics)
    assert labels.provenance["ceiling"] == pytest.approx((4 * 2 / 3 + 3 * 1) / 7)
    assert own.provenance["features"] == {"kind": "layer", "layer": 2}


def test_a_null_is_measured_beside():
    options = {"at": "x", "k": 2, "n_shots": 2, "seeds": 4}
    model, other = tiny.boot("llama"), features(9, seed=1)

    def encoder(texts):
        return torch.cat([features(9)[: len(texts)], torch.zeros(len(texts), 1)], dim=1)

    found = circuit.kernel_alignment(model, task(), features=2, null=other, **options)
    assert found.arms == ("alignment", "null")
    alone = circuit.kernel_alignment(model, task(), features=other[:7], **options)
    assert torch.equal(found.statistics[1], alone.statistics[0])
    texts = [f"text {i}" for i in range(9)]
    for null in (texts, task(LONG)):
        found = circuit.kernel_alignment(model, task(), features=encoder, null=null, **options)
        assert torch.equal(found.statistics[1], found.statistics[0])  # it looks at no text
    states = circuit.kernel_alignment(model, task(), features=2, null=task(), **options)
    assert states.scores[1, 2] == 1  # the same data
    labels = circuit.kernel_alignment(model, task(), null=task(LONG), **options)
    assert torch.equal(labels.statistics[1], labels.statistics[0])  # the same classes
    spread = labels.beyond("null")
    assert float(abs(spread.mean).max()) == 0


def test_states_of_the_planted_circuit_are_aligned_from_the_summary_on():
    asked = planted.task(n_test=64)
    shuffled = icl.Task(
        "others", asked.train,
        tuple(Example(query.source, f"l{i * 7 % 64 // 32}") for i, query in enumerate(asked.test)),
        asked.template,
    )  # fmt: skip
    found = circuit.kernel_alignment(planted.boot(), asked, null=shuffled, seeds=[0, 1])
    assert found.provenance["k"] == 8
    scores, chance = found.scores.mean(dim=-1), 8 / 63
    known = planted.SUMMARY_LAYER + 1
    assert (scores[0, :known] - chance).abs().max() < 0.03
    assert (scores[0, known:] - found.provenance["ceiling"]).abs().max() < 1e-9
    assert (scores[1] - chance).abs().max() < 0.03


def test_texts_of_another_data_set_are_a_null():
    """Words' counts as an encoder: near are texts that share words, so those of a kind."""
    asked, other = planted.task(n_test=64), planted.task(n_test=80, seed=1)

    def count(texts):
        counts = [[text.split().count(word) for word in planted.WORDS] for text in texts]
        return torch.tensor(counts, dtype=torch.float32)

    order = np.random.default_rng(0).permutation(80)
    texts = [other.test[i].source for i in order]
    found = circuit.kernel_alignment(planted.boot(), asked, features=count, null=texts)
    known = planted.SUMMARY_LAYER + 1
    alignment, null = found.scores[..., 0]
    assert alignment[known:].min() > 0.2
    assert (null - 8 / 63).abs().max() < 0.03
    assert (found.beyond("null").interval()[0][known:] > 0).all()


def test_prompts_may_fill_the_context():
    """With the label behind them, which counts once."""
    model, filled = tiny.boot("llama"), 256 - 1 - 3 * 8 - 5
    asked = task()
    longest = Example(" ".join(["one"] * filled), "vevo")
    prompts = icl.build_prompts(model, [longest], template=TEMPLATE, shots=[asked.train[:2]])
    free = tiny.N_CTX - prompts.tokens.shape[1] - 1
    longest = Example(" ".join(["one"] * (filled + free)), "vevo")
    full = icl.Task("full", asked.train, (longest, *asked.test[:3]), TEMPLATE)
    found = circuit.kernel_alignment(model, full, at="y", n_shots=2, seeds=4)
    assert found.scores.isfinite().all()


def test_a_text_counts_once_against_the_context():
    """With BOS before it, and its first word, which stands in for a target."""
    model, text = tiny.boot("llama"), " ".join(["one"] * (tiny.N_CTX - 2))
    (row,) = text_prompts(model, [text], None).target_tokens
    assert len(row) == tiny.N_CTX - 2
    with pytest.raises(PromptError):
        text_prompts(model, [f"{text} one one"], None)


def test_labels_take_over_what_forerunners_have_at_the_copying_layer():
    asked = planted.task(n_test=64)
    found = circuit.label_alignment(planted.boot(), asked, letters=False, seeds=[0, 1])
    assert found.arms == ("alignment", "one label", "classes")
    assert found.layers == tuple(range(planted.N_LAYERS))
    scores = dict(zip(found.arms, found.scores.mean(dim=-1), strict=True))
    before, at = planted.COPY_LAYER - 1, planted.COPY_LAYER
    assert scores["one label"][before] < 0.6
    assert scores["one label"][at:].min() > 0.8
    assert scores["alignment"][at:].min() > scores["alignment"][:at].max()
    known = planted.SUMMARY_LAYER + 1
    assert scores["classes"][known:].min() > 0.25 > 0.14 > scores["classes"][:known].max()


def test_label_alignment_is_that_of_a_naive_loop():
    found = circuit.label_alignment(
        tiny.boot("gpt2"), task(), letters=False, k=2, n_shots=2, seeds=4
    )
    states = states_of("gpt2", SHORT)
    for layer in range(1, tiny.N_LAYERS):
        wanted = naive(states["y"][layer + 1], states["s"][layer], 2)
        assert found.statistics[0, layer, 0, :, 0].tolist() == wanted, layer


def test_labels_become_letters():
    named = name_by_letters(task())
    assert [example.target for example in named.test[:3]] == ["A", "B", "A"]
    assert [example.source for example in named.train] == [e.source for e in task().train]
    options = {"k": 2, "n_shots": 2, "seeds": 4}
    found = circuit.label_alignment(tiny.boot("llama"), task(LONG), **options)
    same = circuit.label_alignment(tiny.boot("llama"), named, letters=False, **options)
    assert torch.equal(found.statistics, same.statistics)
    assert found.provenance["labels"] == ["A", "B"]
    many = tuple(Example(f"text {i}", f"label {i}") for i in range(27))
    with pytest.raises(TaskError, match="27 labels: expected 26"):
        circuit.label_alignment(
            tiny.boot("llama"), icl.Task("many", many, many, TEMPLATE), n_shots=27
        )
    odd = replace(task(), test=(Example("text", "A"), *task().test))  # a letter, but no class
    with pytest.raises(TaskError, match="has the label 'A', which no example of the task"):
        circuit.label_alignment(tiny.boot("llama"), odd)


def test_a_task_without_classes_has_neighbours_too():
    words = [Example(f"{word} one", word) for word in WORDS]
    translation = icl.Task("words", tuple(words), tuple(words), TEMPLATE)
    for at in "xsy":
        found = circuit.kernel_alignment(tiny.boot("llama"), translation, features=3, at=at, k=2)
        assert found.scores[0, 3] == 1
    with pytest.raises(TaskError, match="n_shots is 4, but the task 'words' has 8 classes"):
        circuit.kernel_alignment(tiny.boot("llama"), translation, k=2)


# -- overlaps -------------------------------------------------------------------------------------


def test_equal_features_overlap_wholly_and_others_by_chance():
    chance = torch.Generator().manual_seed(0)
    a = torch.randn(300, 8, generator=chance)
    assert circuit.neighbour_overlap(a, a, 12).eq(1).all()
    draws = [torch.randn(300, 8, generator=chance) for _ in range(5)]
    means = torch.stack([circuit.neighbour_overlap(a, b, 12).mean() for b in draws])
    assert abs(float(means.mean()) - 12 / 299) < 0.005


def test_overlaps_heed_neither_order_nor_scale():
    chance = torch.Generator().manual_seed(1)
    a, b = (torch.randn(40, d, generator=chance) for d in (3, 6))
    wanted = circuit.neighbour_overlap(a, b, 5)
    assert wanted.tolist() == naive(a.double().numpy(), b.double().numpy(), 5)
    order = torch.randperm(40, generator=chance)
    torch.testing.assert_close(circuit.neighbour_overlap(a[order], b[order], 5), wanted[order])
    scales = torch.logspace(-30, 30, 40)[:, None]
    torch.testing.assert_close(circuit.neighbour_overlap(a * scales, b, 5), wanted)
    torch.testing.assert_close(circuit.neighbour_overlap(b, a, 5), wanted)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=chance)).Q
    torch.testing.assert_close(circuit.neighbour_overlap(a, b @ turned, 5), wanted)


def test_chunks_change_nothing(monkeypatch):
    a, b = features(30), features(30, seed=1)
    wanted = circuit.neighbour_overlap(a, b, 4)
    monkeypatch.setattr("icl_locate.circuit.neighbours.ROWS_AT_ONCE", 7)
    torch.testing.assert_close(circuit.neighbour_overlap(a, b, 4), wanted)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_ties_count_by_what_is_expected_of_breaking_them(k):
    """All ways to break them, one after the other, in both of the two."""
    a = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 1], [3, 3], [0.1, 0]])
    b = torch.eye(2)[[0, 0, 1, 0, 1, 0]]
    found = circuit.neighbour_overlap(a, b, k)

    def ways(rows, i):
        others = [j for j in range(len(rows)) if j != i]
        near = [cosine(rows[i].double().numpy(), rows[j].double().numpy()) for j in others]
        rounded = dict(zip(others, np.round(near, 9), strict=True))
        return [set(sorted(order, key=lambda j: -rounded[j])[:k]) for order in permutations(others)]

    for i in range(6):
        first, second = ways(a, i), ways(b, i)
        wanted = np.mean([len(x & y) / k for x in first for y in second])
        assert float(found[i]) == pytest.approx(wanted, abs=1e-9)


# -- perplexity and similarity --------------------------------------------------------------------


def test_perplexities_are_the_loss_of_the_model_on_the_text_alone():
    model, tokenizer = tiny.build("gpt2"), build_tokenizer()
    found = circuit.perplexity_alignment(
        tiny.boot("gpt2"), task(), features=features(), at="x", k=3, n_shots=2, seeds=[4, 5]
    )
    for query, value in zip(task().test, found.log_perplexities, strict=True):
        ids = torch.tensor([[1, *tokenizer(query.source, add_special_tokens=False).input_ids]])
        assert float(value) == pytest.approx(float(model(ids, labels=ids).loss.detach()), rel=1e-5)
    aligned = circuit.kernel_alignment(
        tiny.boot("gpt2"), task(), features=features(), at="x", k=3, n_shots=2, seeds=[4, 5]
    )
    assert torch.equal(found.alignments, aligned.statistics[0, ..., 0])
    ranks = [np.argsort(np.argsort(found.log_perplexities.numpy())).astype(float)]
    means = found.alignments.mean(dim=1).numpy()
    for layer, row in enumerate(means):
        level = np.array([np.mean([(row < v).sum(), (row <= v).sum() - 1]) for v in row])
        wanted = np.corrcoef(ranks[0], level)[0, 1]
        assert float(found.correlations[layer]) == pytest.approx(wanted)
    low, high = found.interval(0.9)
    table = found.to_dataframe(0.9)
    assert [*table.columns] == ["layer", "correlation", "low", "high"]
    assert [*table.layer] == [*found.layers] and [*table.low] == [*low] and [*table.high] == [*high]
    assert ((low < found.correlations.numpy()) & (found.correlations.numpy() < high)).all()


def test_intervals_of_correlations_hold_the_true_one():
    """Of two normal variables, whose rank correlation is 6/pi arcsin(rho/2)."""
    chance, held = np.random.default_rng(0), 0
    true = 6 / np.pi * np.arcsin(-0.6 / 2)
    for _ in range(200):
        x, noise = chance.normal(size=(2, 40))
        pair = torch.from_numpy(np.stack([x, -0.6 * x + 0.8 * noise]))
        found = circuit.PerplexityAlignment((0,), (0,), pair[0], pair[1][None, None], {})
        low, high = found.interval(0.9)[:, 0]
        held += bool(low <= true <= high)
    assert 0.85 < held / 200 < 0.95
    with pytest.raises(ResultError, match="confidence"):
        found.interval(1)
    flat = circuit.PerplexityAlignment((0,), (0,), pair[0], torch.ones(1, 1, 40), {})
    assert flat.correlations.isnan().all()
    assert np.isnan(flat.interval()).all()


def test_forerunner_states_are_compared_with_the_same_and_with_other_queries():
    model, tokenizer, ks = tiny.build("gpt2"), build_tokenizer(), (0, 2, 3)
    found = circuit.forerunner_similarity(tiny.boot("gpt2"), task(), ks=ks, layer=2, seeds=[4])
    rows = [
        [
            type_states(
                model, tokenizer, TEMPLATE,
                choose_examples(query, task().train, k, seed=4, choice="balanced"), query, "",
            )["s"][2]
            for query in task().test
        ]
        for k in ks
    ]  # fmt: skip
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            pairs = [(a, b) for a in range(7) for b in range(7)]
            same = [cosine(one[a], other[b]) for a, b in pairs if a == b]
            others = [cosine(one[a], other[b]) for a, b in pairs if a != b]
            assert float(found.scores[0, i, j, 0]) == pytest.approx(np.mean(same), abs=1e-6)
            assert float(found.scores[1, i, j, 0]) == pytest.approx(np.mean(others), abs=1e-6)
            torch.testing.assert_close(found.statistics[0, i, j, 0, :, 0].tolist(), same)
    middle = circuit.forerunner_similarity(tiny.boot("gpt2"), task(), ks=(2,), seeds=[4])
    assert middle.layer == tiny.N_LAYERS // 2


def test_the_mean_over_pairs_scatters_as_much_as_its_interval_says():
    from icl_locate.circuit.neighbours import unit_rows
    from icl_locate.circuit.similarity import similarities

    chance = torch.Generator().manual_seed(0)
    means, errors = [], []
    for _ in range(300):
        base = torch.randn(30, 3, generator=chance) + 0.7
        near = base + 0.5 * torch.randn(30, 3, generator=chance)
        values = similarities([unit_rows("a", base), unit_rows("b", near)])[1, 0, 1]
        means.append(float(values.mean()))
        errors.append(float(values.std() / 30**0.5))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


# -- encoders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny random encoder of sentences, which takes texts of 12 tokens."""
    directory = tmp_path_factory.mktemp("bert")
    config = hf.BertConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.BertModel(config).eval()
    return model, str(tiny.save(model, directory))


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_an_encoder_gives_each_text_features_of_its_own(bert, pooling):
    model, directory = bert
    texts = ["sort", "sort invert halve", "begu", " ".join(["vevo"] * 30)]
    found = circuit.SentenceEncoder(directory, pooling, batch_size=3)(texts)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([build_tokenizer()(text).input_ids[:12]])
        out = model(ids)
        wanted = out.pooler_output if pooling == "pooler" else out.last_hidden_state.mean(dim=1)
        torch.testing.assert_close(row, wanted[0], atol=1e-5, rtol=1e-4)
    encoder = circuit.SentenceEncoder(directory, pooling)
    asked = [query.source for query in task().test]
    options = {"at": "x", "k": 2, "n_shots": 2}
    aligned = circuit.kernel_alignment(
        tiny.boot("llama"), task(), features=encoder, null=texts * 2, **options
    )
    given = circuit.kernel_alignment(
        tiny.boot("llama"), task(), features=encoder(asked), null=encoder((texts * 2)[:7]),
        **options,
    )  # fmt: skip
    assert torch.equal(aligned.statistics, given.statistics)
    assert aligned.provenance["features"]["encoder"]["name"] == directory


def test_encoders_that_are_none_are_refused(bert, tmp_path):
    with pytest.raises(ModelError, match="no encoder could be loaded from"):
        circuit.SentenceEncoder(str(tmp_path))(["text"])
    with pytest.raises(ModelError, match="pooling"):
        circuit.SentenceEncoder(bert[1], "max")
    with pytest.raises(ModelError, match="texts are empty"):
        circuit.SentenceEncoder(bert[1])([])
    tiny.save(hf.BertModel(bert[0].config, add_pooling_layer=False), tmp_path / "bare")
    tiny.save(tiny.build("gpt2"), tmp_path / "gpt2")
    with pytest.raises(ModelError, match="use pooling='mean'"):
        circuit.SentenceEncoder(str(tmp_path / "gpt2"))(["sort"])


# -- refusals -------------------------------------------------------------------------------------

NAN = torch.full((7, 2), torch.nan)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 7}, "k is 7, but there are 7 items"),
        ({"k": 3, "n_queries": 3}, "k is 3, but there are 3 items"),
        ({"n_queries": 1}, "k is 1, but there are 1 items"),
        ({"features": torch.rand(6, 2)}, r"features is a Tensor of shape \(6, 2\): expected .* 7"),
        ({"features": torch.rand(7)}, "features is a Tensor of shape"),
        ({"features": torch.ones(7, 2, dtype=torch.long)}, "floating-point"),
        ({"features": NAN}, "features hold NaN or infinity"),
        ({"features": torch.zeros(7, 2)}, "row 0 of features is zero throughout"),
        ({"features": "classes"}, "features is 'classes'"),
        ({"features": 4}, r"features is 4: expected .* a layer lies in 0..3"),
        ({"features": None}, "features is None: expected"),
        ({"features": lambda texts: torch.rand(2, 2)}, "features is a Tensor of shape"),
        ({"features": lambda texts: texts}, "features is .*: expected a tensor"),
        ({"at": "z"}, "at is 'z'"),
        ({"null": ["a"] * 7}, "mere texts have not"),
        ({"features": lambda texts: torch.rand(7, 2), "null": ["a"] * 6}, "null has 6 items"),
        ({"null": torch.rand(6, 2)}, "null has 6 items"),
        ({"null": task(), "features": torch.rand(7, 2)}, "null is .*: expected a tensor"),
        ({"null": 3}, "null is 3: expected a task of other data"),
        ({"features": lambda texts: torch.rand(7, 2), "null": [3] * 7}, r"null\[0\] is 3"),
    ],
)
def test_what_cannot_be_aligned_is_refused(options, says):
    with pytest.raises(TaskError, match=says):
        circuit.kernel_alignment(tiny.boot("llama"), task(), **{"n_shots": 2, **options})


def test_given_prompts_and_a_single_query_are_refused():
    model = tiny.boot("llama")
    batch = icl.build_prompts(model, task().test, examples=task().train, n_shots=2)
    own = icl.Task.from_prompts(batch)
    for study in (
        circuit.kernel_alignment, circuit.label_alignment, circuit.perplexity_alignment,
        circuit.forerunner_similarity,
    ):  # fmt: skip
        with pytest.raises(TaskError, match="prompts of its own"):
            study(model, own)
    with pytest.raises(TaskError, match="n_queries is 1"):
        circuit.forerunner_similarity(model, task(), n_queries=1)
    with pytest.raises(TaskError, match="layer is 4"):
        circuit.forerunner_similarity(model, task(), layer=4)
    with pytest.raises(TaskError, match="ks"):
        circuit.forerunner_similarity(model, task(), ks=[])
    with pytest.raises(TaskError, match="'sort' is a single token"):
        circuit.perplexity_alignment(model, task(), n_shots=2, prepend_bos=False)


@pytest.mark.parametrize(
    ("a", "b", "k", "says"),
    [
        (torch.rand(4, 2), torch.rand(4, 2), 4, "k is 4, but there are 4 items"),
        (torch.rand(4, 2), NAN[:4], 1, "b hold NaN"),
        (torch.rand(4, 0), torch.rand(4, 2), 1, "row 0 of a is zero"),
    ],
)
def test_features_without_neighbours_are_refused(a, b, k, says):
    with pytest.raises(TaskError, match=says):
        circuit.neighbour_overlap(a, b, k)


def test_an_eighth_of_the_items_are_neighbours():
    assert [choose_k(None, n) for n in (2, 8, 15, 512)] == [1, 1, 1, 64]


def test_the_last_of_hidden_states_is_told_apart():
    """The oracle's own two ways differ, and only at the end."""
    ids = [1, 5, 6]
    raw, normed = (hf_states(tiny.build("llama"), ids, normed=n) for n in (False, True))
    assert np.array_equal(raw[:-1], normed[:-1])
    assert not np.allclose(raw[-1], normed[-1])
