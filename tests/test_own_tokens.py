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
from icl_locate.errors import MaskError, PromptError, TaskError
from icl_locate.induction import ablation_study, task_tokens
from icl_locate.models import ModelCosts
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
CONTEXT = {Segment.INSTRUCTIONS, Segment.EXAMPLES}


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


# experiments

CONDITIONS = ["instructions+examples", "query"]
SWEEP = {"conditions": CONDITIONS, "n_queries": 3, "max_new_tokens": 4}


@cache
def tokenised(architecture):
    """A task of texts with its prompts as they are built, and the same as tokens with text."""
    model = tiny.boot(architecture)
    built = TASK.build(model, **BUILT)
    given = own(
        tokens=built.tokens,
        segments=built.segments,
        targets=built.target_tokens,
        shots=built.shots,
        tokenizer=model.tokenizer,
        template=built.template,
    )
    return built, icl.Task.from_prompts(given, metric="token_accuracy")


@pytest.mark.parametrize("metric", ["log_prob", "token_accuracy"])
@pytest.mark.parametrize("engine", ["hooks", "shared"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_sweep_gives_the_numbers_of_the_prompts_as_text(architecture, engine, metric):
    model, options = tiny.boot(architecture), {**SWEEP, "engine": engine, "metric": metric}
    built, task = tokenised(architecture)
    expected = icl.sweep(model, TASK, n_shots=2, seeds=0, **options)
    found = icl.sweep(model, task, **options)
    assert found.scores.equal(expected.scores) and found.texts == expected.texts
    assert found.item_scores.equal(expected.item_scores)
    assert [str(place) for place in icl.locate(found)] == [str(p) for p in icl.locate(expected)]
    assert found.targets == expected.targets and found.seeds == (0,)
    assert found.provenance["prompts_sha256"] == expected.provenance["prompts_sha256"]
    assert found.provenance["n_shots"] == 2
    if metric == "log_prob":
        plain = own(tokens=built.tokens, segments=built.segments, targets=built.target_tokens)
        bare = icl.sweep(wordless(architecture), icl.Task.from_prompts(plain), **options)
        assert bare.scores.equal(expected.scores)
        assert bare.provenance["vocabulary_sha256"] is None


@pytest.mark.parametrize("engine", ["hooks", "shared"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_without_a_tokenizer_answers_are_scored_by_token(architecture, engine, tmp_path):
    """Against answers of one's own: what the model says first is the target of the second query."""
    model = wordless(architecture)
    built, plain, answers = answered(architecture)
    targets = [[int(word) for word in answer.split()[:4]] for answer in answers]
    targets[1] = [*targets[1][:2], targets[1][2] + 1]
    mine = own(tokens=built.tokens, segments=built.segments, targets=targets)
    result = icl.sweep(model, icl.Task.from_prompts(mine), engine=engine, **SWEEP)
    assert result.metric == "token_accuracy"
    assert result.item_scores[0, -1, 0].tolist() == [1.0, 0.5, 1.0]
    hidden = icl.ContextMask(CONTEXT, icl.from_layer(1))
    assert result.texts[0][1][0] == icl.generate(model, plain, hidden, max_new_tokens=4)
    exact = icl.sweep(
        model, icl.Task.from_prompts(mine), metric="exact_match", engine=engine, **SWEEP
    )
    assert exact.item_scores[0, -1, 0].tolist() == [1.0, 0.0, 1.0]
    loaded = icl.SweepResult.load(result.save(tmp_path / "run"))
    assert loaded.texts == result.texts and loaded.targets == result.targets


def test_conditions_are_those_that_the_segments_allow():
    model = wordless("llama")
    options = {"metric": "log_prob", "n_queries": 2}
    assert icl.sweep(model, icl.Task.from_prompts(own()), **options).conditions == ("examples",)
    segments = [["instructions", 3, 3, 3, 4], [2, 3, 4]]
    instructed = icl.Task.from_prompts(own(segments=segments))
    found = icl.sweep(model, instructed, **options).conditions
    assert found == tuple(c.name for c in icl.PAPER_CONDITIONS if c.instruction)
    with pytest.raises(TaskError, match="instruction is False.*hold an instruction"):
        icl.sweep(model, instructed, conditions="examples", **options)
    bare = icl.Task.from_prompts(own(segments=[["query"] * 5, ["query"] * 3]))
    with pytest.raises(MaskError, match="neither an instruction nor examples"):
        icl.sweep(model, bare, **options)


def test_what_needs_a_layout_is_refused():
    task = icl.Task.from_prompts(own())
    with pytest.raises(TaskError, match="compat='sia2024' counts the tokens of a template's texts"):
        icl.sweep(tiny.boot("llama"), task, conditions="examples", compat="sia2024", n_queries=2)
    metric = icl.metrics.LabelAccuracy(("a", "b"))
    with pytest.raises(PromptError, match="labels are texts"):
        icl.sweep(tiny.boot("llama"), task, conditions="examples", metric=metric, n_queries=2)


def test_a_target_at_which_answers_end_is_refused():
    ends = own(targets=[[6], [9, 2]])  # 2 is the end of a text
    with pytest.raises(PromptError, match="target of prompt 1.*holds token 2, at which"):
        icl.sweep(wordless("llama"), icl.Task.from_prompts(ends), n_queries=2)
    stopped = own(targets=[[6], [9, 10]], stop="10")
    with pytest.raises(PromptError, match="query 1.*holds the stop string"):
        icl.sweep(wordless("llama"), icl.Task.from_prompts(stopped), n_queries=2)
    kept = own(targets=[[6], [9, 10]], stop="1")
    assert (
        icl.sweep(wordless("llama"), icl.Task.from_prompts(kept), n_queries=2, max_new_tokens=2)
        .scores.isfinite()
        .all()
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_heads_are_the_same(architecture):
    model = tiny.boot(architecture)
    built, task = tokenised(architecture)
    condition, options = "instructions+examples", {"n_queries": 3}
    expected = icl.HeadStudy(model, TASK, condition, n_shots=2, seeds=0, **options).sweep()
    found = icl.HeadStudy(model, task, condition, **options).sweep()
    assert found.scores.equal(expected.scores) and found.ceiling.equal(expected.ceiling)
    plain = own(tokens=built.tokens, segments=built.segments, targets=built.target_tokens)
    bare = icl.HeadStudy(
        wordless(architecture), icl.Task.from_prompts(plain), condition, **options
    ).sweep()
    assert bare.scores.equal(expected.scores)


def test_ablations_are_the_same():
    model = tiny.boot("llama")
    built, task = tokenised("llama")
    options = {"interventions": ["zero", "knockout"], "n_queries": 3, "max_new_tokens": 4,
               "metric": "log_prob", "match": "token"}  # fmt: skip
    heads = {(0, 1), (2, 0)}
    expected = ablation_study(model, TASK, heads, 1, shots=2, seeds=0, **options)
    found = ablation_study(model, task, heads, 1, **options)
    assert found.shots == (2,) and found.scores.equal(expected.scores)
    plain = icl.Task.from_prompts(
        own(tokens=built.tokens, segments=built.segments, targets=built.target_tokens)
    )
    bare = ablation_study(wordless("llama"), plain, heads, 1, **options)
    assert bare.scores.equal(expected.scores)
    with pytest.raises(TaskError, match="no other queries to measure a reference on: give"):
        ablation_study(model, task, heads, 1, interventions=["mean_z"], n_queries=3)
    reference = icl.induction.head_reference(model, built)
    ablation_study(
        model, task, heads, 1, interventions=["mean_z"], reference=reference, n_queries=3,
        metric="log_prob",
    )  # fmt: skip


def test_shots_are_those_of_the_prompts():
    model, (_, task) = tiny.boot("llama"), tokenised("llama")
    results = icl.sweep_shots(model, task, (1, 5), metric="log_prob", conditions="query")
    assert list(results) == [2] and results[2].provenance["n_shots"] == 2


def test_a_figure_shows_token_ids():
    figure = icl.plots.prompt_segments(wordless("llama"), own(), 1)
    assert [note.text for note in figure.layout.annotations] == ["8", "9", "8"]


def test_the_estimate_of_given_prompts_counts_one_seed():
    """They draw nothing, so that a sweep runs them with one seed, whatever was asked for."""
    model = tiny.boot("llama")
    text = icl.load_task("pseudo-translation")
    prompts = icl.build_prompts(model, text.test[:2], examples=text.train, n_shots=1)
    task, costs = icl.Task.from_prompts(prompts), ModelCosts.of(model)
    conditions = [icl.Condition("examples", {icl.Segment.EXAMPLES}, instruction=False)]
    found = icl.estimate_sweep(
        model.tokenizer, costs, task, conditions, n_queries=2, n_seeds=3, generates=False
    )
    ran = icl.sweep(model, task, conditions=conditions, seeds=[0, 1, 2], metric="log_prob")
    assert found.n_cells == ran.scores.numel() == tiny.N_LAYERS + 1 and found.n_prompts == 2
