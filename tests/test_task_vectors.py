"""Task vectors: made, put in, chosen, reported; against a plain loop and a planted model."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.metrics import score_totals
from icl_locate.studies import Spread
from icl_locate.vectors import TaskVectors, locate_peak, task_vectors

TASK = icl.load_task("pseudo-translation")
SMALL = {"n_shots": 2, "n_queries": 4, "dev": 6, "seeds": [0, 3], "metric": "first_token_prob"}


@pytest.fixture(scope="module")
def found():
    other = icl.load_task("pseudo-translation/Novel")
    return task_vectors(tiny.boot("llama"), TASK, pairs=True, other=other, **SMALL)


# The oracle: a model of transformers, its own hooks, and prompts written by hand.


def text_of(shots, source):
    return "".join(f"Q:{shot}\n" for shot in shots) + f"Q:{source}A:"


def logits_of(model, tokenizer, text, layer=None, vector=None):
    """The next token's logits, and the last token's state after each block."""
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    states, handles = [], []

    def read(module, inputs, output):
        states.append((output[0] if isinstance(output, tuple) else output)[0, -1].clone())

    def write(module, inputs, output):
        (output[0] if isinstance(output, tuple) else output)[0, -1] = vector

    if layer is not None:
        handles.append(blocks[layer].register_forward_hook(write))
    handles += [block.register_forward_hook(read) for block in blocks]
    with torch.no_grad():
        logits = model(tokens).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits.double(), torch.stack(states)


def vector_by_hand(model, tokenizer, context):
    shots = [shot.replace(" -> ", "A:") for shot in context["shots"]]
    states = [logits_of(model, tokenizer, text_of(shots, d))[1] for d in context["dummies"]]
    return torch.stack(states).mean(dim=0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_scores_are_those_of_a_plain_loop(architecture):
    bridge, model = tiny.boot(architecture), tiny.build(architecture)
    tokenizer = bridge.tokenizer
    tokenizer_ids = {example.source: example.target for example in TASK.test}
    found = task_vectors(bridge, TASK, pairs=True, controls=(), **SMALL)
    queries = found.provenance["dev_queries"]
    first = {q: tokenizer(text_of([], q) + tokenizer_ids[q])["input_ids"] for q in queries}
    wanted = [first[q][len(tokenizer(text_of([], q))["input_ids"])] for q in queries]
    for s in range(2):
        vectors = vector_by_hand(model, tokenizer, found.provenance["contexts"][s])
        torch.testing.assert_close(found.vectors[s], vectors, atol=1e-4, rtol=1e-4)
        for i in range(tiny.N_LAYERS):
            for j in range(tiny.N_LAYERS):
                for item, query in enumerate(queries):
                    text = text_of([], query)
                    logits, _ = logits_of(model, tokenizer, text, j, vectors[i])
                    prob = float(logits.softmax(dim=-1)[wanted[item]])
                    measured = float(found.pair_statistics[i, j, s, item, 0])
                    assert measured == pytest.approx(prob, abs=1e-5)
    for item, query in enumerate(queries):
        logits, _ = logits_of(model, tokenizer, text_of([], query))
        prob = float(logits.softmax(dim=-1)[wanted[item]])
        assert float(found.statistics[-2, 0, item, 0]) == pytest.approx(prob, abs=1e-5)
    diagonal = found.pair_statistics[range(3), range(3)]
    assert diagonal.equal(found.statistics[:3]) and found.controls == ()


# A planted model: the last token reads the context in one layer, and in no other.


@pytest.mark.parametrize("layer", [1, 3])
def test_a_planted_task_transfers_from_its_layer_on(layer):
    """Below it nothing of the context stands at the last token; from it on everything does."""
    model = tiny.bridge(planted.attention_only_in({layer}))
    found = task_vectors(model, TASK, n_dummies=1, controls=(), **SMALL)
    vectors, zero_shot = found.statistics[: model.cfg.n_layers], found.statistics[-2]
    below = zero_shot.expand_as(vectors[:layer])
    torch.testing.assert_close(vectors[:layer], below, atol=1e-6, rtol=0)
    bare = TASK.template.without_instruction()
    by_source = {example.source: example for example in TASK.test}
    asked = [by_source[source] for source in found.provenance["dev_queries"]]
    queries = icl.build_prompts(model, asked, n_shots=0, template=bare)
    first = [tokens[0] for tokens in queries.target_tokens]
    for s, context in enumerate(found.provenance["contexts"]):
        shots = tuple(icl.Example(*shot.split(" -> ")) for shot in context["shots"])
        dummy = icl.Example(context["dummies"][0], "x")
        prompts = icl.build_prompts(model, [dummy], shots=[shots], n_shots=2, template=bare)
        with torch.no_grad():
            wanted = model(prompts.tokens)[0, -1].double().softmax(dim=-1)[first]
        for later in range(layer, model.cfg.n_layers):
            torch.testing.assert_close(vectors[later, s, :, 0], wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(vectors[layer], zero_shot, atol=1e-4)


# What is reported.


def test_what_is_measured_on_what(found):
    assert found.scores.shape == (3, 2) and found.vectors.shape == (2, 3, tiny.D_MODEL)
    assert found.n_items == 6 and found.test_statistics.shape[-2] == 4
    assert found.controls == ("random", "shuffled", "other task")
    assert found.arms == ("task vector", *found.controls, "zero-shot", "few-shot")
    best = int(found.scores.mean(dim=-1).argmax())
    assert found.best_layer == found.layers[best]
    dev = set(found.provenance["dev_queries"])
    asked = {example.source for example in TASK.test[:4]}
    shown = {
        said.split(" -> ")[0]
        for context in found.provenance["contexts"]
        for said in (*context["shots"], *context["dummies"])
    }
    assert not dev & asked and not shown & (dev | asked)
    assert dev == {example.source for example in TASK.test[4:10]}
    contexts = found.provenance["contexts"]
    for name in ("shots", "dummies"):
        assert contexts[0][name] != contexts[1][name], "a seed draws its own"
    for context in contexts:
        assert not set(context["dummies"]) & {s.split(" -> ")[0] for s in context["shots"]}
    for name in ("fingerprint", "prompts_sha256", "signature", "task", "n_shots"):
        assert found.provenance[name]
    assert found.provenance["other"] == "pseudo-translation/Novel"


def test_scores_are_those_of_runs_of_ones_own(found):
    """The test scores are those of the edit that the result gives, on prompts of one's own."""
    model = tiny.boot("llama")
    template = TASK.template.without_instruction()
    bare = icl.build_prompts(model, TASK.test[:4], n_shots=0, template=template)
    first = replace(bare, target_tokens=[tokens[:1] for tokens in bare.target_tokens])
    for s, seed in enumerate(found.seeds):
        probs = icl.score_targets(model, first, found.edit(seed=seed)).exp()
        assert torch.allclose(found.test_statistics[0, s, :, 0], probs.double(), atol=1e-6)
        shown = icl.build_prompts(
            model, TASK.test[:4], examples=TASK.train, n_shots=2, seed=seed, template=template
        )
        shown = replace(shown, target_tokens=first.target_tokens)
        probs = icl.score_targets(model, shown).exp()
        assert torch.allclose(found.test_statistics[-1, s, :, 0], probs.double(), atol=1e-6)
    clean = icl.score_targets(model, first).exp().double()
    assert torch.allclose(found.test_statistics[-2, 0, :, 0], clean, atol=1e-6)
    assert found.test_scores.equal(found.test[0])


def test_controls_differ_from_the_vector(found):
    for i, name in enumerate(found.controls):
        assert not found.control_statistics[i].equal(found.statistics[:3]), name
        above = found.beyond(name)
        assert np.allclose(above.scores, (found.scores - found.control_scores[i]).numpy())
        assert isinstance(above, Spread) and above.interval().shape == (2, 3)
    assert not found.control_statistics[0].equal(found.control_statistics[1])
    with pytest.raises(ResultError, match="^control is 'zero': expected one of 'random'"):
        found.beyond("zero")


def test_a_file_holds_all_of_it(found, tmp_path):
    again = TaskVectors.load(found.save(tmp_path / "vectors"))
    for name in (*TaskVectors._tensors, *TaskVectors._later):
        assert getattr(again, name).equal(getattr(found, name)), name
    assert again.controls == found.controls
    assert again.provenance["contexts"] == found.provenance["contexts"]
    assert again.provenance["fingerprint"] == found.provenance["fingerprint"]
    assert locate_peak(again).value == locate_peak(found).value
    assert again.edit(1, 3).values.equal(found.vectors[1, 1])
    without = replace(found, pair_statistics=None, pair_scores=None)
    assert TaskVectors.load(without.save(tmp_path / "fewer")).pair_scores is None


def test_tables(found):
    frame = found.to_dataframe()
    assert list(frame.columns) == ["arm", "layer", "seed", "score"] and len(frame) == 4 * 3 * 2
    one = frame[(frame.arm == "shuffled") & (frame.layer == 2) & (frame.seed == 3)]
    assert one.score.item() == float(found.control_scores[1, 2, 1])
    data = found.to_xarray()
    assert data.score.sel(layer=1, seed=3).item() == float(found.scores[1, 1])
    assert data.pair_score.dims == ("from_layer", "to_layer", "seed")
    assert data.test_score.sel(arm="few-shot", seed=0).item() == float(found.test[-1, 0])
    table = found.test_table()
    assert table.arm.tolist() == list(found.arms)
    zero = table[table.arm == "zero-shot"].iloc[0]
    assert (zero.gain, zero.gain_low, zero.gain_high) == (0, 0, 0)
    assert (table.gain_low <= table.gain).all() and (table.gain <= table.gain_high).all()
    assert np.allclose(table.score, found.test.mean(dim=-1))


def test_its_baseline_is_the_score_without_a_vector(found):
    peak = locate_peak(found)
    for i, arm in enumerate(("task vector", *found.controls)):
        curve = found.curve(arm)
        wanted = found.scores if arm == "task vector" else found.control_scores[i - 1]
        assert curve.scores.equal(wanted) and np.allclose(curve.spread().scores, wanted)
        assert np.allclose(curve.baseline.scores, found.zero_shot)
    assert locate_peak(found.curve()).interval == peak.interval
    with pytest.raises(ResultError, match="^arm is 'zero-shot': expected one of 'task vector'"):
        found.curve("zero-shot")
    assert peak.baseline == pytest.approx(float(found.zero_shot.mean()))
    assert peak.layers == (0, 1, 2) and peak.n_items == 6 and peak.n_seeds == 2


def test_generation_under_the_vector(found):
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, TASK.test[:3], n_shots=0, template=TASK.template)
    edit = found.edit()
    assert edit.layer == found.best_layer and not edit.generated
    mean = found.vectors[:, edit.layer].mean(dim=0)
    assert edit.values.equal(mean)
    last = found.edit(2)
    texts = icl.generate(model, prompts, last, max_new_tokens=1)
    assert len(set(texts)) == 1, "the last state alone decides"
    assert found.edit(0, 3, generated=True).generated
    with pytest.raises(MaskError, match="^the vector of a StateEdit was measured on another model"):
        icl.generate(tiny.boot("gpt2"), prompts, edit, max_new_tokens=1)
    with pytest.raises(ResultError, match="^layer is 3: expected a whole number from 0 to 2"):
        found.edit(3)
    with pytest.raises(ResultError, match="^seed is 1: expected one of 0, 3"):
        found.edit(seed=1)


@pytest.mark.parametrize("metric", ["exact_match", "log_prob", "bleu"])
def test_other_metrics(metric):
    model = icl.load_model()
    found = task_vectors(
        model, TASK, layers=[2, 6], n_shots=4, n_queries=2, dev=3, seeds=0, metric=metric,
        controls=["random"], max_new_tokens=12,
    )  # fmt: skip
    assert found.layers == (2, 6) and found.metric == metric and found.scores.shape == (2, 1)
    assert float(found.few_shot) > float(found.zero_shot)
    again = score_totals(found.scorer(), found.test_statistics.numpy().sum(axis=-2))
    assert np.allclose(again, found.test.numpy())


# What is refused.


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"dev": 0}, TaskError, "^dev is 0: expected 1 to .* queries to choose the layer on"),
        ({"dev": []}, TaskError, "^dev is .*: expected a number of queries, or a list of Examples"),
        ({"dev": 10_000}, TaskError, "^dev is 10000: expected 1 to"),
        (
            {"dev": TASK.test[3:6]},
            TaskError,
            "^dev holds the query .*, which the score is",
        ),
        ({"layers": [0, 3]}, MaskError, "^layers holds 3: expected layers from 0 to 2"),
        ({"layers": []}, MaskError, "^layers is"),
        ({"n_shots": 0}, TaskError, "^n_shots is 0: expected a whole number of at least 1"),
        ({"n_dummies": 0}, TaskError, "^n_dummies is 0"),
        ({"n_dummies": 600}, TaskError, "examples that are not asked: expected 2 demonstrations"),
        ({"controls": ["zero"]}, TaskError, "^controls is 'zero': expected one of 'random'"),
        ({"controls": "random"}, TaskError, "^controls is"),
        ({"metric": "nope"}, TaskError, "^unknown metric 'nope'"),
    ],
)
def test_what_is_out_of_range_is_refused(changed, error, message):
    with pytest.raises(error, match=message):
        task_vectors(tiny.boot("llama"), TASK, **SMALL | changed)


def test_a_task_that_is_never_right_is_refused():
    message = "^the model answers none of 6 queries of 'pseudo-translation' with 2 demonstrations"
    with pytest.raises(TaskError, match=message):
        task_vectors(
            tiny.boot("llama"), TASK, **SMALL | {"metric": "exact_match"}, max_new_tokens=4
        )


def test_labels_that_begin_alike_are_refused():
    words = [TASK.train[0].target.split()[0], *TASK.train[1].target.split()[:2]]
    labels = f"{words[0]} {words[1]}", f"{words[0]} {words[2]}"
    bank = [icl.Example(e.source, labels[i % 2]) for i, e in enumerate(TASK.train[:40])]
    task = icl.Task("labels", tuple(bank), tuple(bank[:4]), TASK.template)
    with pytest.raises(TaskError, match="^the answers 'gede .*' begin with the same token"):
        task_vectors(tiny.boot("llama"), task, **SMALL)


def test_labels_that_are_all_one_cannot_be_shuffled():
    bank = [icl.Example(e.source, "rafa") for e in TASK.train[:40]]
    task = icl.Task("one", tuple(bank), tuple(bank[:4]), TASK.template)
    with pytest.raises(TaskError, match="there is nothing to shuffle"):
        task_vectors(tiny.boot("llama"), task, **SMALL)
    one = task_vectors(tiny.boot("llama"), TASK, **SMALL | {"n_shots": 1})
    assert one.controls == ("random",), "one label cannot be shuffled"


def test_given_prompts_have_no_bare_ones():
    model = tiny.boot("llama")
    own = icl.Task.from_prompts(icl.build_prompts(model, TASK.test[:2], n_shots=0))
    for changed in ({"task": own}, {"task": TASK, "other": own}):
        with pytest.raises(TaskError, match="has prompts of its own, and none without context"):
            task_vectors(model, **SMALL | changed)


def test_dev_queries_may_be_ones_own():
    mine = TASK.train[-3:]
    found = task_vectors(tiny.boot("llama"), TASK, **SMALL | {"dev": mine, "controls": ()})
    assert found.provenance["dev_queries"] == [example.source for example in mine]
    few = replace(TASK, test=TASK.test[:4])
    by_default = task_vectors(tiny.boot("llama"), few, **SMALL | {"dev": None, "controls": ()})
    last = [example.source for example in reversed(TASK.train)][:4]
    assert by_default.provenance["dev_queries"] == last


# The embedded model: a language is recognised, and its vector carries it.


@pytest.fixture(scope="module")
def embedded():
    return task_vectors(
        icl.load_model(), TASK, n_queries=24, seeds=[0, 1], metric="token_accuracy",
        other=icl.load_task("pseudo-translation/Zipura"), max_new_tokens=10, n_dummies=4,
    )  # fmt: skip


def test_the_language_of_a_prompt_goes_where_its_vector_goes(embedded):
    """Not the first word, which the dummies' own state decides; the words that follow it."""
    table = embedded.test_table().set_index("arm")
    assert table.score["task vector"] > 0.35 and table.score["few-shot"] > 0.95
    assert table.score[["random", "other task"]].max() < 0.12 and table.score["zero-shot"] < 0.16
    assert table.gain_low["task vector"] > 0.05
    best = embedded.layers.index(embedded.best_layer)
    for control in ("random", "other task"):
        assert embedded.beyond(control).interval()[0, best] > 0.1, control
    assert embedded.scores[:2].mean() < 0.1, "the language is not known yet"


def test_its_peak_lies_where_the_task_is_recognised(embedded):
    peak = locate_peak(embedded)
    swept = icl.sweep(
        icl.load_model(), TASK, conditions="examples", n_queries=24, seeds=[0, 1], metric="log_prob"
    )
    (found,) = icl.locate(swept)
    assert abs(peak.layer - found.layer) <= 1 <= found.layer
    assert peak.interval[0] <= found.interval[1] and found.interval[0] <= peak.interval[1]
    assert peak.verdict in ("peak", "not resolved") and peak.value > 0.35


def test_it_generates_with_the_vector(embedded):
    model = icl.load_model()
    asked = TASK.test[:12]
    prompts = icl.build_prompts(
        model, asked, n_shots=0, template=TASK.template.without_instruction()
    )
    texts = icl.generate(model, prompts, embedded.edit(seed=0), max_new_tokens=10)
    plain = icl.generate(model, prompts, max_new_tokens=10)

    def share(answers):
        """Of the words behind the first, how many stand where the target has them."""
        words = [zip(text.split()[1:], example.target.split()[1:], strict=False)
                 for text, example in zip(answers, asked, strict=True)]  # fmt: skip
        n = sum(len(example.target.split()) - 1 for example in asked)
        return sum(said == wanted for pairs in words for said, wanted in pairs) / n

    assert share(texts) > 0.35 > share(plain) + 0.1


def test_a_task_of_few_queries_says_what_to_ask_for():
    few = replace(TASK, train=TASK.test[:12], test=TASK.test[:12])
    with pytest.raises(TaskError, match=r"^all 12 queries .* ask for fewer \(n_queries\)"):
        task_vectors(tiny.boot("llama"), few, n_shots=2)
