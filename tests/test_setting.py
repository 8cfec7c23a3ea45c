"""What an experiment is asked for: the defaults, prompts, metric and recipe of a Setting."""

import hashlib
import json
from dataclasses import FrozenInstanceError, asdict, replace
from importlib.metadata import version

import pytest
import tiny

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import PromptError, TaskError
from icl_locate.metrics import LabelAccuracy, PassRate
from icl_locate.studies.setting import DEFAULT_QUERIES, Setting

TASK = icl.load_task("pseudo-translation")
BARE = replace(TASK, template=TASK.template.without_instruction())
COLOURS = tuple(icl.Example(f"thing {i}", ("red", "blue", "green")[i % 3]) for i in range(9))


@pytest.fixture(scope="module")
def model():
    return tiny.boot("llama")


def same(one, other):
    """Whether prompts are the same, token by token."""
    assert one.tokens.equal(other.tokens)
    assert one.segments.equal(other.segments)
    assert one.attention_mask.equal(other.attention_mask)
    assert (one.texts, one.targets) == (other.texts, other.targets)
    assert one.target_tokens == other.target_tokens
    return True


# What was asked for.


def test_queries_are_by_default_64_or_all_that_there_are():
    few = replace(TASK, test=TASK.test[:5])
    assert len(TASK.test) > DEFAULT_QUERIES == 64
    assert Setting.of(TASK).n_queries == 64
    assert Setting.of(TASK, most_queries=32).n_queries == 32
    assert Setting.of(few).n_queries == Setting.of(few, most_queries=32).n_queries == 5
    assert Setting.of(TASK, n_queries=70, most_queries=32).n_queries == 70
    assert Setting.of(TASK, n_queries=3).queries == TASK.test[:3]


def test_examples_that_are_asked_are_none_to_learn_from():
    """A file without splits has every record in both."""
    task = replace(TASK, train=COLOURS, test=COLOURS[4:] + COLOURS[:4])
    setting = Setting.of(task, n_queries=3)
    assert setting.unasked == (*COLOURS[:4], *COLOURS[7:])
    assert Setting.of(replace(TASK, train=COLOURS), n_queries=3).unasked == COLOURS


def test_the_other_defaults():
    setting = Setting.of(TASK)
    assert (setting.seeds, setting.n_shots, setting.max_new_tokens) == ((0,), 5, 50)
    assert (setting.choice, setting.prepend_bos) == ("random", None)
    assert setting.metric.name == TASK.metric and setting.custom_metric is None
    assert Setting.of(replace(TASK, choice="balanced")).choice == "balanced"
    assert Setting.of(replace(TASK, choice="balanced"), choice="random").choice == "random"
    with pytest.raises(FrozenInstanceError):
        setting.n_shots = 3


def test_a_task_may_be_a_name_or_a_file(tmp_path):
    assert Setting.of("pseudo-translation").task.name == "pseudo-translation"
    path = tmp_path / "mine.jsonl"
    lines = [{"source": word, "target": "zimo"} for word in ("thin", "one", "zero")]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for given in (path, str(path)):
        setting = Setting.of(given)
        assert setting.task.name == "mine" and setting.metric.name == "exact_match"
        assert [query.source for query in setting.queries] == ["thin", "one", "zero"]
    assert Setting.of(TASK).task is TASK


def test_seeds_are_one_or_several():
    assert Setting.of(TASK, seeds=3).seeds == (3,)
    assert Setting.of(TASK, seeds=iter([5, 0])).seeds == (5, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_queries": 9999}, "n_queries is 9999, .* expected 1 to 512"),
        ({"n_queries": 0}, "n_queries is 0"),
        ({"seeds": []}, r"seeds is \[\]"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": -1}, "seeds is -1"),
        ({"metric": "blue"}, "unknown metric 'blue'"),
        ({"n_shots": -1}, "n_shots is -1"),
        ({"task": "nonsense"}, "unknown task 'nonsense'"),
        ({"task": replace(TASK, metric="pass@1")}, "say metric='pass@1' if you want that"),
        ({"metric": "pass@1"}, "asks for tests, but the query .* has none"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, message):
    with pytest.raises(TaskError, match=message):
        Setting.of(**{"task": TASK, **options})


# The metric.


def test_programs_are_bound_to_the_queries_that_are_asked_and_once():
    task = icl.load_task("pseudo-python")
    setting = Setting.of(task, metric="pass@1", n_queries=3)
    assert set(setting.metric.checks) == {query.target for query in task.test[:3]}
    assert replace(setting, n_shots=1).metric is setting.metric, "verdicts are kept with it"
    bound = PassRate(timeout=2.0).bound_to(task.test[:4])
    assert Setting.of(task, metric=bound, n_queries=3).metric is bound
    assert setting.outcome() == {"judged": 0, "judged_shared": 0, "unjudged": 0}
    assert Setting.of(TASK).outcome() == {}


def test_labels_are_those_of_the_examples():
    task = icl.Task("colours", COLOURS, COLOURS[:2], TASK.template, "label_accuracy")
    assert Setting.of(task).metric.labels == ("red", "blue", "green")
    two = LabelAccuracy(labels=("red", "blue"))
    assert Setting.of(task, metric=two).metric is two


def test_a_metric_of_ones_own_is_known_to_be_so():
    def first_letter(answer, target):
        return float(answer[:1] == target[:1])

    setting = Setting.of(TASK, metric=first_letter)
    assert setting.custom_metric is setting.metric and setting.metric.name == "first_letter"
    assert setting.asked()["metric_is_mean"] is True
    assert setting.asked()["signature"] == "first_letter|custom|mean:items"
    assert Setting.of(TASK, metric="bleu").asked()["metric_is_mean"] is False


# Prompts.


@pytest.mark.parametrize(
    "options", [{}, {"n_shots": 2, "choice": "balanced"}, {"prepend_bos": False}]
)
def test_prompts_are_those_of_build_prompts(model, options):
    setting = Setting.of(TASK, n_queries=3, seeds=(0, 5), **options)
    for seed in setting.seeds:
        expected = icl.build_prompts(
            model,
            TASK.test[:3],
            examples=TASK.train,
            template=TASK.template,
            seed=seed,
            **{"n_shots": 5} | options,
        )
        assert same(setting.prompts(model, seed), expected)


def test_the_instruction_is_there_if_there_is_one_or_as_one_says(model):
    setting, bare = Setting.of(TASK, n_queries=2), Setting.of(BARE, n_queries=2)
    assert same(setting.prompts(model, 0), setting.prompts(model, 0, instruction=True))
    assert same(bare.prompts(model, 0), bare.prompts(model, 0, instruction=False))
    assert same(setting.prompts(model, 0, instruction=False), bare.prompts(model, 0))
    with_it, without = setting.prompts(model, 0), bare.prompts(model, 0)
    assert (with_it.segments == Segment.INSTRUCTIONS).any()
    assert not (without.segments == Segment.INSTRUCTIONS).any()
    own = replace(TASK, bare_template=icl.PromptTemplate(None, "From:", "To:", "\n"))
    (text, _) = Setting.of(own, n_queries=2, n_shots=1).prompts(model, 0, instruction=False).texts
    assert "From:" in text and "Q:" not in text


def test_a_seed_draws_other_examples_for_the_same_queries(model):
    setting = Setting.of(TASK, n_queries=3, seeds=(0, 1), n_shots=3)
    one, other = (setting.prompts(model, seed) for seed in setting.seeds)
    assert one.sources == other.sources and one.targets == other.targets
    assert all(a != b for a, b in zip(one.texts, other.texts, strict=True))
    assert same(one, setting.prompts(model, 0))


def test_other_queries_than_its_own(model):
    setting = Setting.of(TASK, n_queries=2)
    found = setting.prompts(model, 0, queries=TASK.train[:4])
    assert found.targets == [example.target for example in TASK.train[:4]]


def test_answers_must_find_room_and_be_able_to_be_right(model):
    long = Setting.of(TASK, n_queries=2, metric="exact_match", max_new_tokens=tiny.N_CTX)
    with pytest.raises(PromptError, match="context"):
        long.prompts(model, 0)
    assert len(long.prompts(model, 0, queries=TASK.train[:2])) == 2, "nothing is generated of them"
    stop = replace(TASK.template, stop=("o",))
    never = Setting.of(replace(TASK, template=stop), n_queries=2, metric="exact_match")
    with pytest.raises(PromptError, match="stop"):
        never.prompts(model, 0)
    assert Setting.of(replace(TASK, template=stop), n_queries=2, metric="log_prob").prompts(
        model, 0
    )


def test_prompts_of_ones_own_have_one_seed_and_their_own_shots(model):
    given = icl.build_prompts(
        model, TASK.test[:3], examples=TASK.train, n_shots=2, template=TASK.template
    )
    setting = Setting.of(icl.Task.from_prompts(given), seeds=(4, 5), n_shots=5)
    assert (setting.seeds, setting.n_shots, setting.n_queries) == ((4,), 2, 3)
    assert same(setting.prompts(model, 4), given)
    with pytest.raises(TaskError, match="instruction is False"):
        setting.prompts(model, 4, instruction=False)


# The recipe.


def test_the_recipe_says_all_of_it(model):
    setting = Setting.of(
        TASK, n_queries=2, seeds=(0, 5), n_shots=3, metric="bleu", choice="balanced"
    )
    shown = [setting.prompts(model, seed) for seed in setting.seeds]
    recipe = setting.recipe(model, iter(shown))
    first = setting.first_shots()
    layout = TASK.template.without_instruction()
    spans = layout.render([icl.Example(*pair) for pair in first], TASK.test[0].source)
    assert shown[0].texts[0].endswith("".join(span.text for span in spans)) and len(first) == 3
    assert (
        {key: recipe[key] for key in setting.asked()}
        == setting.asked()
        == {
            "task": "pseudo-translation",
            "template": asdict(TASK.template),
            "bare_template": {**asdict(TASK.template), "instruction": None},
            "n_shots": 3,
            "n_queries": 2,
            "seeds": [0, 5],
            "choice": "balanced",
            "max_new_tokens": 50,
            "signature": setting.metric.signature,
            "metric_is_mean": False,
            "gives_text": True,
        }
    )
    assert set(recipe) - set(setting.asked()) == {
        "model", "revision", "dtype", "vocabulary_sha256", "architecture", "fingerprint",
        "versions", "commit", "hardware", "bos", "prompts_sha256",
    }  # fmt: skip
    assert recipe["architecture"] == "LlamaForCausalLM" and recipe["dtype"] == "float32"
    assert recipe["versions"]["transformer_lens"] == version("transformer_lens")
    words = json.dumps(model.tokenizer.get_vocab(), sort_keys=True)
    assert recipe["vocabulary_sha256"] == sha256(words)
    held = [str((p.tokens.tolist(), p.segments.tolist(), p.target_tokens)) for p in shown]
    assert recipe["prompts_sha256"] == sha256("\0".join(held))
    assert json.loads(json.dumps(recipe))["seeds"] == [0, 5]


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"n_shots": 1}, "n_shots"),
        ({"n_queries": 3}, "n_queries"),
        ({"seeds": (0, 6)}, "seeds"),
        ({"choice": "balanced"}, "choice"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"metric": "chrf"}, "signature"),
        ({"prepend_bos": False}, "bos"),
        ({"task": BARE}, "template"),
    ],
)
def test_every_option_shows_in_the_recipe(model, change, key):
    def recipe(**options):
        asked = {"task": TASK, "n_queries": 2, "seeds": (0, 5), "metric": "bleu"} | options
        setting = Setting.of(**asked)
        return setting.recipe(model, [setting.prompts(model, seed) for seed in setting.seeds])

    one, other = recipe(), recipe(**change)
    assert one[key] != other[key]
    shown = {"max_new_tokens", "signature"}  # which do not show in prompts
    assert (one["prompts_sha256"] == other["prompts_sha256"]) == (key in shown)
    assert one["fingerprint"] == other["fingerprint"]


# Runs.


def test_it_answers_under_interventions(model):
    setting = Setting.of(TASK, n_queries=2, metric="token_accuracy", max_new_tokens=3, n_shots=1)
    prompts = setting.prompts(model, 0)
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    whole, hidden = setting.run(model, prompts, [icl.ContextMask(set()), mask])
    assert whole.texts == icl.generate(model, prompts, max_new_tokens=3)
    assert hidden.texts == icl.generate(model, prompts, mask, max_new_tokens=3)
    scores = setting.metric.statistics(hidden.texts, prompts.targets)
    assert hidden.statistics.tolist() == scores.tolist()
