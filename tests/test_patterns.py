"""Pattern tasks, class-balanced examples, and labels scored with all of their tokens."""

from collections import Counter
from dataclasses import replace

import planted_induction as planted
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import induction
from icl_locate.errors import PromptError, TaskError
from icl_locate.metrics import METRICS, LabelAccuracy
from icl_locate.prompts.template import choose_examples
from icl_locate.tasks import PATTERN_TASKS, pattern_task
from icl_locate.tasks.patterns import CATEGORIES, WORD_PATTERNS

SHAPES = {"repetition": "abab", "recursion": "abbb", "centre-embedding": "abcba"}


def shape_of(source):
    """A sequence's pattern in letters: "X Y X Y" is "abab"."""
    names = {}
    return "".join(names.setdefault(word, "abcdefgh"[len(names)]) for word in source.split())


@pytest.mark.parametrize("name", PATTERN_TASKS)
def test_tasks_are_balanced_seeded_and_without_duplicates(name):
    task = icl.load_task(name)
    n_labels = int(name[-1]) if name[-1].isdigit() else 2
    assert Counter(e.target for e in task.test) == dict.fromkeys(
        ("Foo", "Bar", "Mur", "Res")[:n_labels], 250
    )
    assert len({e.source for e in task.test}) == 250 * n_labels
    assert task == pattern_task(name)
    assert {e.source for e in task.test} != {e.source for e in pattern_task(name, seed=1).test}
    first = Counter(e.target for e in task.test[:64])
    assert all(first[label] >= 64 / n_labels / 2 for label in first), "queries come shuffled"
    assert task.metric == "label_accuracy" and task.choice == "disjoint"


@pytest.mark.parametrize("name", SHAPES)
def test_letters_follow_their_pattern(name):
    for example in icl.load_task(name).test:
        distinct = "abcde"[: len(SHAPES[name])]
        assert shape_of(example.source) == (SHAPES[name] if example.target == "Foo" else distinct)
        assert all(len(word) == 1 and word.isupper() for word in example.source.split())


@pytest.mark.parametrize("name", WORD_PATTERNS)
def test_words_follow_their_categories(name):
    kinds = {word: kind for kind, words in CATEGORIES.items() for word in words}
    assert len(kinds) == 8 * 16, "sixteen words a category, none in two"
    wanted = {
        "f_a_f_p": {
            "Foo": ("fruit", "animal"), "Bar": ("furniture", "profession"),
            "Mur": ("furniture", "animal"), "Res": ("fruit", "profession"),
        },
        "v_v_b_i": {
            "Foo": ("vegetable", "vehicle"), "Bar": ("body part", "instrument"),
            "Mur": ("vegetable", "instrument"), "Res": ("body part", "vehicle"),
        },
    }[name]  # fmt: skip
    for example in icl.load_task(f"{name}/4").test:
        assert tuple(kinds[word] for word in example.source.split()) == wanted[example.target]


def test_prompts_read_as_published():
    task = icl.load_task("repetition")
    spans = task.template.render([icl.Example("A B A B", "Foo")], "C D E F")
    assert "".join(span.text for span in spans) == (
        "Below is a list of various sequences. Your task is to classify each sequence. Use the "
        "examples provided to understand how to classify each sequence correctly.\n\n"
        "A B A B:Foo\n\nC D E F:"
    )


def test_bad_pattern_tasks():
    for options, message in (
        ({"name": "repetitions"}, "unknown pattern task 'repetitions'"),
        ({"name": "f_a_f_p/3"}, "unknown pattern task 'f_a_f_p/3'"),
        ({"name": "f_a_f_p/2", "n_per_class": 257}, "a label has 256 different sequences"),
        ({"name": "repetition", "n_per_class": 651}, "a label has 650 different sequences"),
        ({"name": "repetition", "n_per_class": 0}, "n_per_class is 0"),
        ({"name": "repetition", "letters": "ABA"}, "none of them twice"),
        ({"name": "centre-embedding", "letters": "ABCD"}, "expected 5 or more"),
        ({"name": "repetition", "labels": ("Foo", "Foo")}, "expected 2 different ones"),
    ):
        with pytest.raises(TaskError, match=message):
            pattern_task(**options)
    with pytest.raises(TaskError, match="repetition, recursion, centre-embedding"):
        icl.load_task("no task")
    assert len(pattern_task("f_a_f_p/2", n_per_class=256).test) == 512
    assert len(pattern_task("repetition", n_per_class=650).test) == 1300


@given(
    name=st.sampled_from(PATTERN_TASKS),
    n_shots=st.integers(0, 12),
    seed=st.integers(0, 99),
    place=st.integers(0, 499),
)
def test_examples_are_balanced_and_share_no_word_with_the_query(name, n_shots, seed, place):
    task = icl.load_task(name)
    query = task.test[place]
    chosen = choose_examples(query, task.train, n_shots, seed=seed, choice="disjoint")
    assert len(chosen) == len({e.source for e in chosen}) == n_shots
    counts = Counter(e.target for e in chosen)
    labels = {e.target for e in task.train}
    assert all(counts[label] >= n_shots // len(labels) for label in labels)
    words = set(query.source.split())
    assert all(words.isdisjoint(e.source.split()) for e in chosen)
    assert chosen == choose_examples(query, task.train, n_shots, seed=seed, choice="disjoint")


def test_too_few_examples_that_share_no_word():
    bank = [icl.Example("a b", "x"), icl.Example("b c", "y"), icl.Example("d", "x")]
    assert choose_examples(icl.Example("a", "x"), bank, 2, choice="disjoint")
    with pytest.raises(PromptError, match="only 1 of the 3 examples differ.*share no word"):
        choose_examples(icl.Example("b", "x"), bank, 2, choice="disjoint")


@pytest.fixture(scope="module")
def letters():
    """A task whose labels have one token, two and three in the tiny models' tokenizer."""
    task = icl.load_task("repetition")
    names = {"Foo": "zero", "Bar": "x"}
    return replace(
        task,
        train=tuple(icl.Example(e.source, names[e.target]) for e in task.train),
        test=tuple(icl.Example(e.source, names[e.target]) for e in task.test),
    )


LABELS = ("zero", "x", "one two", "Foo")


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo", "bloom", "mistral"])
def test_label_scores_equal_a_loop_over_tokens(architecture, letters):
    model = tiny.boot(architecture)
    prompts = icl.build_prompts(
        model, letters.test[:3], examples=letters.train, n_shots=2, template=letters.template
    )
    tokenizer = model.tokenizer
    lengths = {len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in LABELS}
    assert len(lengths) >= 3, "labels of several lengths"
    mask = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(1))
    for given_mask in (None, mask):
        ours = icl.score_labels(model, prompts, LABELS, given_mask)
        for i in range(len(prompts)):
            single = prompts[i : i + 1]
            for j, label in enumerate(LABELS):
                ids = tokenizer(prompts.texts[i] + label)["input_ids"][single.tokens.shape[1] :]
                target = replace(single, target_tokens=[ids])
                naive = icl.score_targets(model, target, given_mask)
                assert float(ours[i, j]) == pytest.approx(float(naive[0]), abs=1e-4)
        assert torch.allclose(
            ours, icl.score_labels(model, prompts, LABELS, given_mask, batch_size=1), atol=1e-4
        )


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo", "gemma2"])
def test_both_engines_choose_the_same_labels(architecture, letters):
    from icl_locate.engine.labels import score_labels_many
    from icl_locate.engine.shared.scoring import can_drop

    model = tiny.boot(architecture)
    prompts = icl.build_prompts(
        model, letters.test[:3], examples=letters.train, n_shots=2, template=letters.template
    )
    masks = [
        icl.ContextMask(hide, icl.from_layer(start))
        for hide in ({icl.Segment.EXAMPLES}, {icl.Segment.QUERY})
        for start in range(4)
    ]
    many = score_labels_many(model, prompts, masks, LABELS, drop=can_drop(model))
    for mask, found in zip(masks, many, strict=True):
        assert torch.allclose(found, icl.score_labels(model, prompts, LABELS, mask), atol=1e-4)
    options = {"n_shots": 2, "n_queries": 3, "seeds": [0, 1], "conditions": ["query", "examples"]}
    hooks = icl.sweep(model, letters, engine="hooks", **options)
    shared = icl.sweep(model, letters, engine="shared", **options)
    assert torch.equal(hooks.scores, shared.scores)
    assert hooks.texts == shared.texts
    assert {t for by in shared.texts[0] for s in by for t in s} <= {"zero", "x"}
    assert shared.provenance["choice"] == "disjoint"
    assert "labels:" in shared.provenance["signature"]


def test_sweep_and_locate_where_a_planted_model_recalls(tmp_path):
    """The examples are read by layer 1's induction head: hidden from there on, all is lost."""
    result = icl.sweep(
        planted.boot(), planted.TASK, conditions="examples", n_shots=4, n_queries=40, seeds=[0, 1]
    )
    curve = result.scores[0].mean(-1)
    assert curve[2] == 1.0 and curve[1] < 0.6, "hidden from layer 1 on"
    found = icl.locate(result)[0]
    assert found.layer == 2
    again = icl.SweepResult.load(result.save(tmp_path / "recall"))
    assert icl.locate(again)[0].interval == found.interval


def test_label_accuracy():
    metric = METRICS["label_accuracy"].bound_to(planted.TASK.train)
    assert isinstance(metric, LabelAccuracy) and metric.labels == planted.VALUES
    assert metric.choose([[0.0, 1.0, 0.5, -1.0]], ["prompt"]) == ["w21"]
    ties = metric.choose([[2.0, 2.0, 0.0, 2.0]] * 300, map(str, range(300)))
    assert ties == metric.choose([[2.0, 2.0, 0.0, 2.0]] * 300, map(str, range(300)))
    counts = Counter(ties)
    assert set(counts) == {"w20", "w21", "w23"} and min(counts.values()) > 70, "none gains by ties"
    assert metric.score(metric.statistics(["w21", "w20"], ["w21", "w22"]).sum(axis=0)) == 0.5
    with pytest.raises(
        TaskError, match=r"the labels of the examples are \['a'\]: label_accuracy chooses"
    ):
        METRICS["label_accuracy"].bound_to([icl.Example("x", "a")])


def test_failures_of_chosen_labels(letters):
    result = icl.sweep(
        tiny.boot("llama"), letters, conditions="query", n_shots=1, n_queries=2, seeds=0
    )
    rates = icl.failure_rates(result, labels=["zero", "x"])
    assert not rates["no label"].any() and not rates["empty"].any()


def test_knockout_asks_for_words_on_word_tasks():
    model = tiny.boot("llama")
    task = icl.load_task("f_a_f_p/2")
    options = {"fractions": [0.2], "shots": [2], "seeds": 0, "n_queries": 2, "controls": 1}
    heads = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    prompts = icl.build_prompts(
        model, task.test[:2], examples=task.train, n_shots=2, template=task.template, seed=0,
        choice="disjoint",
    )  # fmt: skip
    scores = {}
    for match in ("word", "token"):
        asked = {} if match == "word" else {"match": "token"}
        result = induction.ablation_study(
            model, task, heads, interventions=["knockout"], metric="log_prob", **asked, **options
        )
        assert result.provenance["match"] == match
        for i, arm in enumerate(result.arms[1:], start=1):
            act = induction.knockout(arm.heads, match=match)
            by_hand = icl.score_targets(model, prompts, act).double().mean()
            assert float(result.scores[i, 0, 0]) == pytest.approx(float(by_hand), abs=1e-5)
        scores[match] = result.scores
    assert not torch.equal(scores["word"], scores["token"])


def test_a_label_that_does_not_fit(letters):
    model = tiny.boot("gpt2")
    prompts = icl.build_prompts(
        model, letters.test[:1], examples=letters.train, n_shots=2, template=letters.template
    )
    long = "x" * 300
    with pytest.raises(PromptError, match="within the model's context of 256"):
        icl.score_labels(model, prompts, ["zero", long])
    with pytest.raises(PromptError, match="the label '' takes 0 tokens"):
        icl.score_labels(model, prompts, ["zero", ""])
