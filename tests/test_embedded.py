"""The embedded model: size, accuracy, and what its curves show."""

import json
import re
from dataclasses import asdict, replace

import pytest
from safetensors.torch import load_file

import icl_locate as icl
from icl_locate.embedded.languages import LANGUAGES, PYTHON
from icl_locate.embedded.tokenizer import build_tokenizer, vocabulary
from icl_locate.models.loading import embedded_directory
from icl_locate.training.card import measure, measure_pattern
from icl_locate.training.train import TrainConfig

SOME = [LANGUAGES[i].name for i in (0, 3, 6, 9, 15)] + [PYTHON.name]


def test_size_and_files():
    directory = embedded_directory()
    weights = directory / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    assert sum(tensor.numel() for tensor in load_file(weights).values()) <= 3_000_000
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert 8 <= config["num_hidden_layers"] <= 12
    assert config["vocab_size"] == len(vocabulary())
    recipe = json.loads((directory / "recipe.json").read_text())
    assert recipe == json.loads(json.dumps(asdict(TrainConfig())))


def test_its_tokenizer_is_the_one_that_the_package_builds(embedded):
    built = build_tokenizer()
    for text, words in (
        ("Q:sort reverseA:x=x[::-1]; \nQ:", "Q: sort reverse A: x=x[::-1]; Q:"),
        ("Translate English to Python:\n", "Translate English to Python :"),
        ("A B C B A:Foo\n\napple lion:Bar", "A B C B A : Foo apple lion : Bar"),
        ("Ünder 日", "Ünder 日"),
    ):
        ids = built(text)["input_ids"]
        assert embedded.tokenizer(text)["input_ids"] == ids
        assert embedded.tokenizer.decode(ids[1:]).split() == words.split()
        assert built(embedded.tokenizer.decode(ids[1:]))["input_ids"] == ids


@pytest.mark.parametrize(
    ("n_shots", "instruction", "low", "high"),
    [(5, False, 0.95, 1.0), (0, True, 0.95, 1.0), (0, False, 0.0, 0.35)],
)
def test_it_learns_in_context(embedded, n_shots, instruction, low, high):
    scores = [
        measure(embedded, n_shots, instruction=instruction, language=name, n_queries=24)
        for name in SOME
    ]
    assert low <= sum(scores) / len(scores) <= high


def test_its_card_states_what_was_measured():
    card = (embedded_directory() / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([01]\.\d{3}) \|", card, flags=re.MULTILINE))
    assert float(rows["5 examples, no instruction"]) >= 0.95
    assert float(rows["instruction alone"]) >= 0.95
    assert float(rows["neither"]) <= 0.35


def test_its_python_runs(embedded):
    """Answers to the Python task do to a list what the wanted programs do."""
    task = icl.load_task("pseudo-python")
    prompts = icl.build_prompts(
        embedded, task.test[:16], examples=task.train, n_shots=5, template=task.template
    )
    same = 0
    for answer, target in zip(
        icl.generate(embedded, prompts, max_new_tokens=12), prompts.targets, strict=True
    ):
        if not set(answer.split()) <= set(PYTHON.lexicon.values()):
            continue  # nothing but the project's own statements is run here
        outcomes = []
        for program in (answer, target):
            names = {"x": [3, -1, 4, 1, -5]}
            exec(program, names)  # noqa: S102
            outcomes.append(names["x"])
        same += outcomes[0] == outcomes[1]
    assert same >= 14


@pytest.mark.parametrize(
    ("task", "metric", "low"),
    [("pseudo-translation", "token_accuracy", 1), ("pseudo-python", "exact_match", 6)],
)
def test_floor_transition_plateau(embedded, task, metric, low):
    """The paper's picture: low while the examples are hidden low, then up, then flat."""
    result = icl.sweep(
        embedded,
        icl.load_task(task),
        conditions=["examples"],
        n_queries=16,
        seeds=[0],
        metric=metric,
        max_new_tokens=14,
    )
    found = icl.locate(result)[0]
    assert found.floor <= 0.35
    assert found.ceiling >= 0.95
    assert result.n_layers / 3 <= found.layer <= 2 * result.n_layers / 3
    assert (found.scores[found.layer :] >= 0.9 * found.ceiling).all()
    assert (found.scores[:low] <= 0.4).all()


@pytest.mark.parametrize("pattern", ["repetition", "recursion", "v_v_b_i/4"])
def test_it_labels_patterns_as_the_examples_do(embedded, pattern):
    for labels in (("Foo", "Bar", "Mur", "Res"), ("Bar", "Foo", "Res", "Mur")):
        assert measure_pattern(embedded, pattern, 10, 24, labels) >= 0.9


@pytest.mark.parametrize("pattern", ["f_a_f_p/4", "v_v_b_i/4"])
def test_its_induction_heads_carry_patterns_of_words(embedded, pattern):
    """By the default score; without them it confuses four labels, without other heads none."""
    scores = icl.induction.head_scores(embedded).induction
    assert (scores >= 0.4).sum() == (scores >= 0.1).sum() == 6
    result = icl.induction.ablation_study(
        embedded, pattern, scores, fractions=(0.15,), shots=(8,), seeds=(0,), controls=2,
        n_queries=24,
    )  # fmt: skip
    for found in result.compare():
        assert found.full[0] >= 0.95 and found.random[0] >= 0.95
        assert found.induction[0] <= 0.65


def test_it_translates_without_its_induction_heads(embedded):
    scores = icl.induction.head_scores(embedded).induction
    task = icl.load_task("pseudo-translation")
    bare = replace(task, template=task.template.without_instruction())
    result = icl.induction.ablation_study(
        embedded, bare, scores, fractions=(0.15,), shots=(5,), seeds=(0,), controls=1,
        n_queries=12, max_new_tokens=12,
    )  # fmt: skip
    for found in result.compare():
        assert found.full[0] >= 99 and found.induction[0] >= 99
