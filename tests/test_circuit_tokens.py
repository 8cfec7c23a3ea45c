"""Token types of the inference circuit: exact for any template, and labels of several tokens."""

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Positions
from icl_locate.circuit import token_types
from icl_locate.circuit.inputs import CircuitSetting
from icl_locate.circuit.tokens import answer_prompts
from icl_locate.errors import MaskError, PromptError, TaskError
from icl_locate.prompts.template import Example, choose_examples

LAYOUTS = {
    "plain": icl.PromptTemplate(None, "Q:", "A:", "\n"),
    "no prefix": icl.PromptTemplate(None, "", "A:", "\n"),
    "instruction": icl.PromptTemplate("reverse triple", "Q:", "A:", "\n"),
}
SHOWN = [Example("sort invert", "vevo"), Example("halve", "begu rare siba")]
QUERY = Example("repeat sort double", "vevo")


def prompts(template, shown=SHOWN, n=2):
    queries = [QUERY, Example("largest", "begu rare siba")][:n]
    model = tiny.boot("llama")
    return icl.build_prompts(model, queries, template=template, shots=[shown] * len(queries))


def by_characters(batch, row, shown, query):
    """Where the types stand, by the characters that each token covers: no part, no shot is read."""
    tokenizer, text, template = tiny.boot("llama").tokenizer, batch.texts[row], batch.template
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
        "offset_mapping"
    ]
    first = batch.tokens.shape[1] - len(offsets)

    def covers(character):
        return first + next(i for i, (start, end) in enumerate(offsets) if start <= character < end)

    at = 0 if template.instruction is None else len(template.instruction + template.separator)
    found = []
    for example in shown:
        source = at + len(template.source_prefix)
        label = source + len(example.source) + len(template.target_prefix)
        end = label + len(example.target)
        found.append([covers(at), covers(label - len(template.target_prefix) - 1),
                      covers(label) - 1, covers(label), covers(end - 1)])  # fmt: skip
        at = end + len(template.separator)
    end = at + len(template.source_prefix) + len(query.source)
    return found, [covers(at), covers(end - 1), first + len(offsets) - 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_types_stand_where_the_characters_say(layout):
    batch = prompts(LAYOUTS[layout])
    types = token_types(batch)
    for row, query in enumerate([QUERY, Example("largest", "")]):
        shown, asked = by_characters(batch, row, SHOWN, query)
        got = torch.stack([types.start, types.x, types.s, types.y, types.y_last], dim=-1)[row]
        assert got.tolist() == shown
        assert [int(t[row]) for t in (types.query_start, types.query_x, types.query_s)] == asked
    assert types.query_y is None
    assert types.n_shots == 2
    assert (types.y_last - types.y).tolist() == [[0, 2], [0, 2]]


def test_an_appended_label_is_the_query_own():
    batch = prompts(LAYOUTS["plain"])
    longer = answer_prompts(batch, [[7], [8, 9, 10]])
    types = token_types(longer)
    assert longer.attention_mask.sum(dim=1).tolist() == [
        n + k for n, k in zip(batch.attention_mask.sum(dim=1).tolist(), (1, 3), strict=True)
    ]
    width = longer.tokens.shape[1]
    assert types.query_y.tolist() == [width - 1, width - 3]
    assert types.query_y_last.tolist() == [width - 1] * 2
    assert types.query_s.tolist() == [width - 2, width - 4]
    assert longer.words[0, -1] == -1 and longer.words[1, -3:].tolist() == [-1] * 3, "no word of it"
    assert longer.target_tokens == [[], []]  # a label that just fits the context fits
    for row in range(2):  # what was there is as it was
        n = int(batch.attention_mask[row].sum())
        own = longer.attention_mask[row].nonzero()[:n, 0]
        for name in ("tokens", "segments", "parts", "shots", "words"):
            before = getattr(batch, name)[row, -n:]
            assert torch.equal(getattr(longer, name)[row, own], before), name
    assert (longer.tokens[0, -1], longer.tokens[1, -3:].tolist()) == (7, [8, 9, 10])
    assert torch.equal(token_types(batch).y - token_types(batch).s, types.y - types.s)


def test_positions_know_what_stands_where_and_nothing_of_generated_tokens():
    batch = prompts(LAYOUTS["plain"])
    positions = Positions.of(batch)
    for name in ("segments", "tokens", "words", "parts", "shots"):
        assert torch.equal(getattr(positions, name), getattr(batch, name))
    behind = positions.behind(torch.cat([batch.tokens, torch.tensor([[7, 8]] * 2)], dim=1))
    new = {name: getattr(behind, name)[:, -2:].tolist() for name in vars(behind)}
    assert new == {
        "segments": [[icl.Segment.GENERATED] * 2] * 2, "tokens": [[7, 8]] * 2,
        "words": [[-1] * 2] * 2, "parts": [[icl.Part.NONE] * 2] * 2, "shots": [[0] * 2] * 2,
    }  # fmt: skip
    for name in ("segments", "words", "parts", "shots"):
        assert torch.equal(getattr(behind, name)[:, :-2], getattr(batch, name))
    one = positions.take(torch.tensor([1]))
    assert (
        torch.equal(one.parts, batch.parts[1:])
        and Positions(one.segments).take(torch.tensor([0])).parts is None
    )


def test_states_at_masked_positions_are_those_at_the_same_places_of_all():
    model, batch = tiny.boot("llama"), prompts(LAYOUTS["plain"])
    types = token_types(batch)
    width = batch.tokens.shape[1]
    found = icl.states(model, batch, types.mask(types.s, types.query_s, width=width), batch_size=1)
    for row in range(2):
        every = icl.states(model, batch.take([row]), "all")[:, 0]
        skipped = width - int(batch.attention_mask[row].sum())
        for k, place in enumerate([*types.s[row].tolist(), int(types.query_s[row])]):
            torch.testing.assert_close(found[:, row, k], every[:, place - skipped])


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (torch.zeros(2, 3, dtype=torch.bool), "booleans .batch, pos"),
        (torch.ones(2, 3), "booleans"),
        ("nowhere", "names no positions"),
        ("padding", "padding"),
    ],
)
def test_masks_that_are_none_are_refused(at, says):
    model, batch = tiny.boot("llama"), prompts(LAYOUTS["plain"])
    if isinstance(at, str):
        at = torch.full(tuple(batch.tokens.shape), at == "padding")
    with pytest.raises(MaskError, match=says):
        icl.states(model, batch, at)


def test_prompts_without_forerunner_tokens_are_refused():
    model = tiny.boot("llama")
    behind = icl.PromptTemplate(None, "Q:", " ", "\n")
    batch = icl.build_prompts(model, [QUERY], template=behind, shots=[SHOWN])
    with pytest.raises(PromptError, match="example 1 of prompt 0 has its label directly behind"):
        token_types(batch)
    own = icl.Prompts.from_tokens([[5, 6, 7]], [["examples", "examples", "query"]], targets=[[3]])
    with pytest.raises(PromptError, match="no text whose part is SOURCE"):
        token_types(own)
    batch = icl.build_prompts(
        model, [QUERY, Example("largest", "vevo")], template=LAYOUTS["plain"],
        shots=[SHOWN, SHOWN[:1]],
    )  # fmt: skip
    with pytest.raises(PromptError, match="example 2 of prompt 1 has no tokens"):
        token_types(batch)


def classes(labels=("vevo", "begu"), queries=("vevo", "begu")):
    words = ["sort", "invert", "halve", "repeat", "double", "largest", "count", "zero"]
    train = [Example(word, labels[i % len(labels)]) for i, word in enumerate(words)]
    test = [Example(f"{word} one", label) for word, label in zip(words, queries, strict=False)]
    return icl.Task("classes", tuple(train), tuple(test), LAYOUTS["plain"])


def test_inputs_know_each_label():
    chosen = CircuitSetting.of(classes(), "log_prob", n_shots=2, seeds=[3])
    inputs = chosen.inputs(tiny.boot("llama"), 3)
    tokenizer = tiny.boot("llama").tokenizer
    for row in range(2):
        for shot in range(2):
            token = int(inputs.prompts.tokens[row, inputs.types.y[row, shot]])
            assert tokenizer.decode([token]) == chosen.labels[inputs.shown[row, shot]]
        assert inputs.prompts.targets[row] == chosen.labels[inputs.asked[row]]
        assert sorted(inputs.shown[row].tolist()) == [0, 1]  # balanced
    prompts, types = chosen.answered(tiny.boot("llama"), inputs, 1 - inputs.asked)
    appended = prompts.tokens.gather(1, types.query_y[:, None])[:, 0]
    wrong = [chosen.labels[1 - k] for k in inputs.asked]
    assert [tokenizer.decode([t]) for t in appended.tolist()] == wrong


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        (classes(labels=("vevo",)), {}, "expected two classes"),
        (classes(queries=("vevo", "siba")), {}, "no example of the task 'classes' has"),
        (classes(), {"n_shots": 1}, "2 classes, each of which"),
        (classes(), {"n_shots": 0}, "n_shots is 0"),
        (icl.Task.from_prompts(prompts(LAYOUTS["plain"])), {}, "prompts of its own"),
    ],
)
def test_tasks_without_a_circuit_are_refused(task, options, says):
    with pytest.raises(TaskError, match=says):
        CircuitSetting.of(task, "log_prob", **{"n_shots": 2, **options})


def drawn(chosen, seed):
    """The labels that the first query is shown."""
    query, task = chosen.setting.queries[0], chosen.setting.task
    return [shot.target for shot in choose_examples(query, task.train, 2, seed=seed)]


def test_examples_without_the_query_class_are_refused():
    chosen = CircuitSetting.of(classes(), "log_prob", n_shots=2, choice="random", n_queries=2)
    seed = next(seed for seed in range(20) if len({*drawn(chosen, seed)}) < 2)
    with pytest.raises(TaskError, match="so that there is nothing to retrieve.*balanced"):
        chosen.inputs(tiny.boot("llama"), seed)
    asked = CircuitSetting.of(classes(), "log_prob", n_shots=2, choice="random", classes=False)
    assert len(asked.inputs(tiny.boot("llama"), seed).prompts) == 2


def test_labels_that_begin_alike_are_refused():
    chosen = CircuitSetting.of(
        classes(labels=("vevo begu", "vevo siba"), queries=("vevo begu", "vevo siba")),
        "log_prob", n_shots=2,
    )  # fmt: skip
    inputs = chosen.inputs(tiny.boot("llama"), 0)
    with pytest.raises(TaskError, match="'vevo begu' and 'vevo siba' begin with the same token"):
        chosen.answers(tiny.boot("llama"), inputs.prompts)
