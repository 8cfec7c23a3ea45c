"""Centroid probes against naive loops on Hugging Face's states, and on a planted circuit."""

from functools import cache

import numpy as np
import planted_circuit as planted
import pytest
import tiny
import torch
from circuit_oracle import alone, type_states

import icl_locate as icl
from icl_locate import circuit
from icl_locate.circuit.calibration import draw_calibration
from icl_locate.circuit.inputs import CircuitSetting, Measure
from icl_locate.circuit.probe import PRESETS
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, choose_examples

TEMPLATE = icl.PromptTemplate(None, "Q:", "A:", "\n")
WORDS = ["sort", "invert", "halve", "repeat", "double", "largest", "count", "zero"]
SHORT, LONG = ("vevo", "begu", "siba"), ("vevo siba rare", "begu siba rare", "siba vevo rare")


def task(labels=SHORT, n_test=5):
    """Three classes; the first training texts are test queries, too."""
    test = [Example(f"{word} {WORDS[-i]}", labels[i % 3]) for i, word in enumerate(WORDS[:n_test])]
    train = [Example(f"one {word}", labels[i % 3]) for i, word in enumerate(WORDS)]
    return icl.Task("classes", (*test[:2], *train), tuple(test), TEMPLATE)


def setting(labels=SHORT, **options):
    return CircuitSetting.of(task(labels), Measure("probe"), n_shots=3, seeds=2, **options)


@cache
def oracle(architecture, labels, normed=False):
    """``{arm: [layer, item]}``: 1 where the query's class, or the label's own, is the nearest."""
    model, tokenizer, asked = tiny.build(architecture), build_tokenizer(), task(labels)
    classes = list(dict.fromkeys(example.target for example in asked.train))

    def states(query, shown):
        right = classes.index(query.target)
        one, other = (
            type_states(model, tokenizer, TEMPLATE, shown, query, classes[label % 3], normed=normed)
            for label in (right, right + 1)
        )
        label = alone(model, tokenizer, query.target, normed=normed)
        return right, {**one, "y wrong": other["y"], "label alone": label}

    learned = [states(*drawn) for drawn in draw_calibration(setting(labels), 2, 8)]
    tested = [
        states(query, choose_examples(query, asked.train, 3, seed=2, choice="balanced"))
        for query in asked.test
    ]
    found = {}
    for name, (trained, read) in PRESETS.items():
        aside = trained == "y wrong"
        rows = []
        for layer in range(tiny.N_LAYERS + 1):
            means = [
                np.mean(
                    [of[trained][layer] for right, of in learned if (right + aside) % 3 == label],
                    axis=0,
                )
                for label in range(3)
            ]
            near = [
                int(np.argmin([np.linalg.norm(of[read][layer] - mean) for mean in means]))
                for _, of in tested
            ]
            rows.append(near)
        right = np.array([label for label, _ in tested])
        found[name] = (np.array(rows) == right).astype(float)
        if read == "y wrong":
            found[f"{name}, as shown"] = (np.array(rows) == (right + 1) % 3).astype(float)
    return found


@pytest.mark.parametrize(
    ("architecture", "labels", "compat"),
    [("gpt2", LONG, None), ("llama", SHORT, None), ("gpt2", SHORT, "cho2025")],
)
def test_the_probe_is_that_of_a_naive_loop(architecture, labels, compat):
    found = circuit.centroid_probe(
        tiny.boot(architecture), task(labels), presets=None, n_calibration=8, n_shots=3, seeds=2,
        batch_size=3, compat=compat,
    )  # fmt: skip
    wanted = oracle(architecture, labels, normed=compat is not None)
    assert found.arms == tuple(wanted)
    for arm, name in enumerate(found.arms):
        first = 0 if name == "x->x" else 1  # before the first block these tokens are the same
        got = found.statistics[arm, first:, 0, :, 0].numpy()
        assert np.array_equal(got, wanted[name][first:]), name
    assert torch.equal(found.chance, torch.full((9, 4), 1 / 3, dtype=torch.float64))
    if architecture == "llama":  # nor does any place tell them apart: each class counts for a third
        s = found.arms.index("s->s")
        torch.testing.assert_close(
            found.statistics[s, 0, 0, :, 0], torch.full((5,), 1 / 3, dtype=torch.float64)
        )
        y = found.arms.index("y->y")
        assert found.scores[y, 0].item() == 1  # of a label of one token it is the label itself


def test_arms_are_what_single_presets_give():
    options = {"n_calibration": 8, "n_shots": 3, "seeds": 2}
    model = tiny.boot("llama")
    every = circuit.centroid_probe(model, task(), presets=None, **options)
    for presets in ("x->x", ["y->y wrong"], ["s->label alone", "s->s"]):
        some = circuit.centroid_probe(model, task(), presets=presets, **options)
        for place, arm in enumerate(some.arms):
            other = every.statistics[every.arms.index(arm)]
            torch.testing.assert_close(some.statistics[place], other)
    assert circuit.centroid_probe(model, task(), **options).arms == ("s->s",)


def test_few_runs_give_all_states(monkeypatch):
    """Calibration and test: labels right, labels wrong; and the labels alone."""
    from icl_locate.circuit import probe, streams

    runs = []
    real = probe.stream_states

    def counted(model, prompts, *args, **options):
        runs.append(len(prompts))
        return real(model, prompts, *args, **options)

    for module in (probe, streams):
        monkeypatch.setattr(module, "stream_states", counted)
    options = {"n_calibration": 8, "n_shots": 3}
    circuit.centroid_probe(tiny.boot("llama"), task(), presets=None, **options)
    assert runs == [8, 8, 5, 5, 5]
    runs.clear()
    circuit.centroid_probe(tiny.boot("llama"), task(), presets=["x->x", "s->s"], **options)
    assert runs == [8, 5]


@pytest.mark.parametrize(
    ("asked", "n_shots"), [(planted.THREE_CLASSES, 6), (planted.LONG_LABELS, 4)]
)
def test_layers_of_the_planted_circuit_are_told(asked, n_shots):
    found = circuit.centroid_probe(
        planted.boot(), asked, presets=["s->s", "s->y", "s->y wrong"], n_calibration=36,
        n_shots=n_shots,
    )  # fmt: skip
    curves = dict(zip(found.arms, found.scores[..., 0], strict=True))
    summed, copied = planted.SUMMARY_LAYER + 1, planted.COPY_LAYER + 1
    assert curves["s->s"][summed:].min() == 1
    assert curves["s->s"][:summed].max() < 0.8
    for name in ("s->y", "s->y wrong"):  # what is copied is of the text, whatever the label says
        assert curves[name][copied:].min() == 1
        assert curves[name][:copied].max() < 0.8
    assert curves["s->y wrong, as shown"][copied:].max() == 0


def test_calibration_never_sees_test_queries():
    drawn = draw_calibration(setting(), 0, 20)
    assert len(drawn) == 20
    tested = {query.source for query in task().test}
    sources = [query.source for query, _ in drawn]
    assert not tested & {*sources}
    assert {*sources} == {f"one {word}" for word in WORDS}
    assert max(map(sources.count, sources)) == 3  # in rounds
    for query, shown in drawn:
        assert len(shown) == 3
        assert query.source not in {example.source for example in shown}
        assert not tested & {example.source for example in shown}
        assert {example.target for example in shown} == {*SHORT}
    again, other = draw_calibration(setting(), 0, 20), draw_calibration(setting(), 1, 20)
    assert again == drawn
    assert other != drawn
    by_query = {}
    for query, shown in drawn:
        by_query.setdefault(query.source, set()).add(tuple(one.source for one in shown))
    assert max(map(len, by_query.values())) > 1  # a query comes again with other examples


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"presets": "s->x"}, "presets is 's->x'"),
        ({"presets": ["s->s", "y"]}, r"presets\[1\] is 'y'"),
        ({"presets": []}, "presets are empty"),
        ({"n_calibration": 0}, "n_calibration is 0"),
        ({"n_calibration": 2}, "no calibration query has the label"),
        ({"n_shots": 2}, "n_shots is 2, but the task 'classes' has 3 classes"),
        ({"n_queries": 9}, "n_queries is 9"),
    ],
)
def test_what_cannot_be_probed_is_refused(options, says):
    with pytest.raises(TaskError, match=says):
        circuit.centroid_probe(tiny.boot("llama"), task(), **{"n_shots": 3, **options})


def test_banks_without_other_texts_or_classes_are_refused():
    model, asked = tiny.boot("llama"), task()
    only = icl.Task("only", asked.test, asked.test, TEMPLATE)
    with pytest.raises(TaskError, match="drawn from 0 examples .*ask for fewer queries"):
        circuit.centroid_probe(model, only, n_shots=3, n_queries=len(asked.test))
    every = tuple(
        Example(f"{one} {two}", SHORT[(i + k) % 3])
        for i, one in enumerate(WORDS) for k, two in enumerate(WORDS[:3])
    )  # fmt: skip
    whole = icl.Task("whole", every, every, TEMPLATE)
    spared = circuit.centroid_probe(model, whole, n_shots=3, n_calibration=12)
    assert spared.n_items == len(every) // 2  # half is left to calibrate with
    batch = icl.build_prompts(model, asked.test, examples=asked.train, n_shots=3)
    with pytest.raises(TaskError, match="prompts of its own"):
        circuit.centroid_probe(model, icl.Task.from_prompts(batch))
