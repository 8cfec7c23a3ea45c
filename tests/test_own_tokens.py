"""Prompts of one's own, already tokenised: what they hold, what is refused, what runs on them."""

from dataclasses import fields, replace
from functools import cache

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import Part, Segment
from icl_locate.errors import PromptError, TaskError
from icl_locate.induction import task_tokens
from icl_locate.prompts.encoding import spell

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
BUILT = {
    "n_queries": 3, "n_shots": 2, "instruction": True, "seed": 0, "choice": "random",
    "prepend_bos": None,
}  # fmt: skip
TOKENS = [[1, 5, 6, 7, 5], [8, 9, 8]]
SEGMENTS = [["bos", "examples", "examples", "examples", "query"], [3, 3, 4]]
SPANS = [[(0, 1, "bos"), (1, 4, Segment.EXAMPLES), (4, 5, 4)], [(2, 3, 4), (0, 2, 3)]]
TARGETS = [[6], [9, 10]]


@cache
def wordless(architecture):
    """A tiny model that has no tokenizer."""
    model = tiny.boot_fresh(architecture)
    model.tokenizer = None
    return model


def own(**changed):
    given = {"tokens": TOKENS, "segments": SEGMENTS, "targets": TARGETS, **changed}
    return icl.Prompts.from_tokens(**given)


def same(one, other, *names):
    for name in names or [field.name for field in fields(one)]:
        ours, theirs = getattr(one, name), getattr(other, name)
        equal = ours.equal(theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        assert equal, (name, ours, theirs)


# what they hold


def test_ragged_lists_are_padded_on_the_left():
    prompts = own(pad_token=3)
    assert prompts.tokens.tolist() == [[1, 5, 6, 7, 5], [3, 3, 8, 9, 8]]
    assert prompts.attention_mask.tolist() == [[True] * 5, [False, False, True, True, True]]
    assert prompts.segments.tolist() == [[1, 3, 3, 3, 4], [0, 0, 3, 3, 4]]
    assert prompts.segments.dtype == torch.int8 and prompts.tokens.dtype == torch.long
    assert prompts.words.unique().tolist() == [-1] and not prompts.shots.any()
    assert prompts.target_tokens == TARGETS


def test_without_a_tokenizer_texts_are_token_ids():
    prompts = own()
    assert not prompts.as_text
    assert prompts.texts == ["1 5 6 7 5", "8 9 8"] and prompts.targets == ["6", "9 10"]
    assert prompts.sources == ["5", "8"]
    assert own(texts=["a", "b"], sources=["c", "d"]).sources == ["c", "d"]


def test_spans_and_values_for_each_token_say_the_same():
    same(own(), own(segments=SPANS))


def test_padding_of_either_side_and_of_either_kind_says_the_same():
    right = torch.tensor([TOKENS[0], [*TOKENS[1], 0, 0]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    labels = torch.tensor([[1, 3, 3, 3, 4], [3, 3, 4, 0, 0]])
    expected = own()
    same(expected, own(tokens=right, attention_mask=mask))
    same(expected, own(tokens=right, attention_mask=mask, segments=SPANS))
    same(expected, own(tokens=right, attention_mask=mask.bool().tolist(), segments=labels))
    same(expected, own(tokens=right, segments=labels))
    same(expected, own(tokens=expected.tokens, segments=expected.segments))


def test_parts_shots_and_words():
    shots = [[0, 1, 1, 2, 0], [1, 1, 0]]
    parts = [["none", "source", "TARGET", 1, "source"], [Part.SOURCE, Part.TARGET, Part.SOURCE]]
    words = [[-1, 0, 1, 2, 0], [0, 1, 0]]
    prompts = own(shots=shots, parts=parts, words=words)
    assert prompts.shots.tolist() == [shots[0], [0, 0, *shots[1]]]
    assert prompts.parts.tolist() == [[0, 2, 3, 1, 2], [0, 0, 2, 3, 2]]
    assert prompts.words.tolist() == [words[0], [-1, -1, *words[1]]]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.integers(1, 4)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_what_went_in_comes_out(given):
    tokens = [[token for token, _ in row] for row in given]
    segments = [[segment for _, segment in row] for row in given]
    prompts = own(tokens=tokens, segments=segments, targets=tokens)
    for i, row in enumerate(given):
        real = prompts.attention_mask[i]
        assert int(real.sum()) == len(row) and bool(real[-len(row) :].all())
        assert prompts.tokens[i][real].tolist() == tokens[i]
        assert prompts.segments[i][real].tolist() == segments[i]
    again = own(tokens=prompts.tokens, segments=prompts.segments, targets=prompts.target_tokens)
    same(prompts, again)
    assert prompts[:1].texts == [" ".join(map(str, tokens[0]))] and not prompts[:1].as_text


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_with_a_tokenizer_they_are_what_build_prompts_makes(architecture):
    model = tiny.boot(architecture)
    built = TASK.build(model, **BUILT)
    kept = {name: getattr(built, name) for name in ("template", "parts", "shots", "words")}
    arguments = {"tokens": built.tokens, "segments": built.segments, **kept}
    options = {"tokenizer": model.tokenizer, "texts": built.texts}
    same(built, own(**arguments, **options, targets=built.target_tokens))
    same(built, own(**arguments, **options, targets=built.targets))
    mixed = [built.targets[0], *built.target_tokens[1:]]
    same(built, own(**arguments, **options, targets=mixed))
    decoded = own(**arguments, targets=built.targets, tokenizer=model.tokenizer)
    assert [text.split() for text in decoded.texts] == [
        model.tokenizer.decode(body).split() for body in built.bodies
    ]


# what is refused


def test_a_target_without_tokens_is_refused():
    tokenizer = tiny.boot("llama").tokenizer
    with pytest.raises(PromptError, match=r"targets\[1\] is '', of no tokens"):
        own(targets=[[6], ""], tokenizer=tokenizer)


def test_what_the_model_does_not_have_is_refused_before_it_runs():
    beyond = own(tokens=[TOKENS[0], [8, tiny.VOCABULARY, 8]])
    with pytest.raises(PromptError, match=f"token {tiny.VOCABULARY} .*beyond the model's vocab"):
        icl.score_targets(wordless("llama"), beyond)
    with pytest.raises(PromptError, match="beyond the model's vocabulary"):
        icl.generate(tiny.boot("llama"), beyond, max_new_tokens=1)
    with pytest.raises(PromptError, match="beyond the model's vocabulary"):
        icl.score_targets(wordless("llama"), own(targets=[[6], [tiny.VOCABULARY]]))
    long = own(tokens=[[5] * tiny.N_CTX], segments=[[(0, tiny.N_CTX, "query")]], targets=[[6]])
    with pytest.raises(PromptError, match=f"prompt 0 takes {tiny.N_CTX} tokens"):
        icl.score_targets(wordless("llama"), long)
    asked = BUILT | {"n_queries": 1, "instruction": False}
    with pytest.raises(PromptError, match="prompt 0 takes"):
        icl.Task.from_prompts(long).build(wordless("llama"), **asked)


def test_labels_ask_for_text():
    with pytest.raises(PromptError, match="labels are texts.*give Prompts.from_tokens the token"):
        icl.score_labels(tiny.boot("llama"), own(), ["a", "b"])


def test_text_asks_for_a_tokenizer():
    built = TASK.build(tiny.boot("llama"), **BUILT)
    with pytest.raises(PromptError, match="the model has no tokenizer"):
        icl.generate(wordless("llama"), built, max_new_tokens=1)


# answers that are token ids


@cache
def answered(architecture):
    """The same prompts as text and as token ids, and their answers of eight tokens."""
    model = tiny.boot(architecture)
    built = TASK.build(model, **BUILT)
    built = replace(built, template=replace(built.template, stop=()))
    plain = own(tokens=built.tokens, segments=built.segments, targets=built.target_tokens)
    return built, plain, icl.generate(wordless(architecture), plain, max_new_tokens=8)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_answers_are_the_same_tokens(architecture):
    built, plain, answers = answered(architecture)
    model = tiny.boot(architecture)
    ids = [list(map(int, answer.split())) for answer in answers]
    assert any(ids)
    assert [spell(model.tokenizer, row).strip() for row in ids] == icl.generate(
        model, built, max_new_tokens=8
    )
    assert icl.generate(model, plain, max_new_tokens=8) == answers  # the prompts decide, not it


def test_stop_strings_are_whole_tokens():
    _, plain, answers = answered("llama")
    model = wordless("llama")
    words = answers[2].split()
    stop = next(word for word in words if word != words[0])
    cut = " ".join(words[: words.index(stop)])
    assert icl.generate(model, plain[2:], max_new_tokens=8, stop=stop) == [cut]
    digit = next(word for word in words if len(word) > 1)[:1]
    assert digit not in words
    assert icl.generate(model, plain[2:], max_new_tokens=8, stop=digit) == [" ".join(words)]
    with pytest.raises(PromptError, match="stop is 'Q:': expected token ids joined by spaces"):
        icl.generate(model, plain, max_new_tokens=8, stop="Q:")


# tasks


def test_a_task_of_given_prompts():
    task = icl.Task.from_prompts(own(), name="mine")
    assert task.name == "mine" and task.metric == "token_accuracy" and not task.train
    assert task.test == (icl.Example("5", "6"), icl.Example("8", "9 10"))
    assert task.template.instruction is None and task.shots_of(7) == 1
    given = task.build(wordless("llama"), **BUILT | {"n_queries": 1, "instruction": False})
    same(given, own()[:1])
    for seed, n_shots in ((1, 0), (2, 9)):
        changed = {"n_queries": 2, "instruction": False, "seed": seed, "n_shots": n_shots}
        same(own(), task.build(wordless("llama"), **BUILT | changed))


def test_what_a_task_says_comes_from_the_segments():
    instructed = own(
        segments=[["instructions", 3, 3, 3, 4], [2, 3, 4]], shots=[[0, 1, 2, 3, 0], [0, 1, 0]]
    )
    task = icl.Task.from_prompts(instructed)
    assert task.template.instruction is not None and task.shots_of(0) == 3
    bare = own(segments=[["query"] * 5, ["query"] * 3])
    assert icl.Task.from_prompts(bare).shots_of(5) == 0
    tokenizer = tiny.boot("llama").tokenizer
    assert icl.Task.from_prompts(own(tokenizer=tokenizer)).metric == "exact_match"
    assert icl.Task.from_prompts(own(), metric="log_prob").metric == "log_prob"


def test_what_a_task_of_given_prompts_cannot_do():
    task = icl.Task.from_prompts(own())
    model, options = wordless("llama"), BUILT | {"n_queries": 2}
    with pytest.raises(TaskError, match="instruction is True.*hold no instruction"):
        task.build(model, **options)
    with pytest.raises(TaskError, match="queries are given, but"):
        task.build(model, **options | {"instruction": False}, queries=TASK.train[:1])
    with pytest.raises(TaskError, match="n_queries is 3"):
        task.build(model, **options | {"instruction": False, "n_queries": 3})
    with pytest.raises(TaskError, match="make it with Task.from_prompts"):
        replace(task, train=TASK.train)
    with pytest.raises(TaskError, match="prompts are empty"):
        icl.Task.from_prompts(own()[:0])


def test_a_task_of_examples_builds_as_build_prompts_does():
    model = tiny.boot("llama")
    for instruction in (True, False):
        built = TASK.build(model, **BUILT | {"instruction": instruction, "seed": 5})
        template = TASK.template_for(instruction=instruction)
        options = {"examples": TASK.train, "n_shots": 2, "seed": 5, "template": template}
        same(built, icl.build_prompts(model, TASK.test[:3], **options))
    others = TASK.build(model, **BUILT, queries=TASK.train[:2])
    assert others.sources == [example.source for example in TASK.train[:2]]


def test_a_tasks_own_tokens_are_those_of_its_prompts():
    segments = [["bos", "instructions", 3, 3, 4], [3, 3, 4]]
    task = icl.Task.from_prompts(own(segments=segments))
    assert task_tokens(wordless("llama"), task).tolist() == [5, 6, 7, 8, 9, 10]
    with pytest.raises(PromptError, match="has no tokenizer.*choose tokens yourself"):
        icl.induction.head_scores(wordless("llama"), lengths=3)
    scores = icl.induction.head_scores(
        wordless("llama"), lengths=2, n_sequences=1, tokens=task_tokens(wordless("llama"), task)
    )
    assert scores.prefix_matching.shape[-2:] == (tiny.N_LAYERS, tiny.N_HEADS)
