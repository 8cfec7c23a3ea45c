"""What is given to a mask or a condition is taken or refused in words, in Python and TOML alike."""

import json
import re
from contextlib import suppress

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.cli import main
from icl_locate.errors import MaskError
from icl_locate.hooks import ablate_heads
from icl_locate.interventions.ablation import HeadAblation
from icl_locate.interventions.edges import InductionEdges
from icl_locate.interventions.heads import HeadSet
from icl_locate.interventions.layers import LayerRange, masked_layers
from icl_locate.interventions.masks import MaskUnion, resolve

BOTH = {Segment.EXAMPLES, Segment.QUERY}
SEGMENTS = [
    ("examples", {Segment.EXAMPLES}),
    ("EXAMPLES", {Segment.EXAMPLES}),
    (Segment.EXAMPLES, {Segment.EXAMPLES}),
    ({"EXAMPLES"}, {Segment.EXAMPLES}),
    (["Examples", "query"], BOTH),
    ((Segment.QUERY, "examples"), BOTH),
    ({3, 4}, BOTH),
    (np.array([3, 4]), BOTH),
    ([], set()),
]
NO_SEGMENTS = [
    {7}, {-1}, {True}, {0.5}, {None}, {"everything"}, "everything", "", 3, None, True, 0.5,
    [["QUERY"]],    {0}, "pad", Segment.PAD, object(), b"QUERY", torch.tensor(3), lambda: 0,
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), SEGMENTS)
def test_segments_are_taken_by_name_alone_or_in_any_collection(given, wanted):
    for found in (icl.ContextMask(given), icl.Condition("mine", given)):
        assert found.hide == frozenset(wanted) and type(found.hide) is frozenset
        assert all(type(segment) is Segment for segment in found.hide)
    assert icl.ContextMask(given) == icl.ContextMask(wanted)


@pytest.mark.parametrize("given", NO_SEGMENTS)
def test_other_segments_are_refused(given):
    for make in (icl.ContextMask, lambda hide: icl.Condition("mine", hide)):
        with pytest.raises(MaskError, match=r"^(an item of )?hide (is|holds) .*"):
            make(given)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (1, {1}),
        (np.int64(1), {1}),
        ([1, 2], {1, 2}),
        (range(2), {0, 1}),
        (torch.tensor([0, 2]), {0, 2}),
        ({np.int32(2)}, {2}),
        (icl.from_layer(np.int64(1)), {1, 2}),
        (icl.only_layer(torch.tensor(1)), {1}),
        (icl.window(np.int64(0), np.int64(2)), {0, 1}),
        (icl.until_layer(np.int64(1)), {0}),
    ],
)
def test_layers_are_taken_alone_or_in_any_collection(given, wanted):
    for mask in (icl.ContextMask(BOTH, given), icl.EdgeMask(InductionEdges(), given)):
        acting = resolve(mask, 3, 2)
        assert set(acting) == wanted and all(type(layer) is int for layer in acting)
        hash(mask)


@pytest.mark.parametrize(
    "given", [{True}, True, "1", {"1"}, 1.0, {0.5}, None, {None}, object(), [[1]], "from", b"1"]
)
def test_other_layers_are_refused(given):
    for make in (icl.ContextMask, icl.EdgeMask):
        what = BOTH if make is icl.ContextMask else InductionEdges()
        with pytest.raises(MaskError, match=r"^layers? (is|are) .*: expected"):
            make(what, given)


@pytest.mark.parametrize("number", ["1", True, 0.5, None, [1], object()])
@pytest.mark.parametrize(
    "make",
    [
        icl.from_layer, icl.until_layer, icl.only_layer, LayerRange, lambda n: icl.window(n, 1),
        lambda n: icl.window(0, n),
    ],
)  # fmt: skip
def test_ranges_of_other_things_are_refused(make, number):
    if make is icl.until_layer and number is None:
        return  # until the last
    with pytest.raises(MaskError, match=r"^(layer|width) is .*: expected a whole number"):
        make(number)


def test_a_window_has_a_layer():
    for width in (0, -1):
        with pytest.raises(MaskError, match="^width is"):
            icl.window(1, width)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({(1, 0)}, {(1, 0)}),
        ([[1, 0], (2, 1)], {(1, 0), (2, 1)}),
        (np.array([[1, 0]]), {(1, 0)}),
        (torch.tensor([[1, 0]]), {(1, 0)}),
        ({(np.int64(1), np.int32(0))}, {(1, 0)}),
        (HeadSet(((1, 0),), 3, 2), {(1, 0)}),
        ([], set()),
    ],
)
def test_heads_are_taken_as_pairs_of_any_kind(given, wanted):
    for found in (
        icl.ContextMask(BOTH, heads=given),
        icl.EdgeMask(InductionEdges(), heads=given),
        HeadAblation(given),
    ):
        assert found.heads == frozenset(wanted)
        assert all(type(number) is int for pair in found.heads for number in pair)


NO_HEADS = [
    {0, 1}, (3, 1), "ab", {"ab"}, 3, {(1,)}, {(1, 2, 3)}, {(1, "0")}, {(True, 0)}, {(1, 0.5)},
    {None}, object(), {(1, None)}, True,
]  # fmt: skip


@pytest.mark.parametrize("given", NO_HEADS)
def test_other_heads_are_refused(given):
    makers = [
        lambda heads: icl.ContextMask(BOTH, heads=heads),
        lambda heads: icl.EdgeMask(InductionEdges(), heads=heads),
        HeadAblation,
        lambda heads: HeadSet(heads, 3, 2),
        lambda heads: ablate_heads(tiny.boot("llama"), heads).__enter__(),
    ]
    for make in makers:
        with pytest.raises(
            MaskError, match=r"(which is no head|^heads? is .*): expected \(layer, head\)"
        ):
            make(given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("rows", "some"), ("rows", None), ("rows", 1), ("rows", ["all"]), ("keep_self", "yes"),
        ("keep_self", 1), ("without_bias", None), ("hide_generated", -1), ("hide_generated", True),
        ("hide_generated", "2"), ("hide_generated", 0.5), ("hide_generated", None),
    ],
)  # fmt: skip
def test_other_options_of_a_mask_are_refused(name, given):
    with pytest.raises(MaskError, match=f"^{name} is .*: expected"):
        icl.ContextMask(BOTH, **{name: given})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("name", 3), ("name", ""), ("name", " "), ("name", None), ("name", "\ud800"),
        ("instruction", "yes"), ("instruction", None), ("keep_self", 1), ("without_bias", "no"),
    ],
)  # fmt: skip
def test_other_options_of_a_condition_are_refused(name, given):
    with pytest.raises(MaskError, match=f"^{name} is .*: expected"):
        icl.Condition(**{"name": "mine", "hide": BOTH} | {name: given})


def test_heads_outside_the_layers_do_nothing_and_are_refused():
    for mask in (
        icl.ContextMask(BOTH, icl.from_layer(2), heads={(0, 1), (1, 1)}),
        icl.EdgeMask(InductionEdges(), {2}, heads={(1, 1)}),
        icl.ContextMask(BOTH) | icl.ContextMask(BOTH, 0, heads={(1, 1)}),
    ):
        with pytest.raises(
            MaskError, match=r"no head of the mask, such as \(.*\), lies in its lay"
        ):
            resolve(mask, 3, 2)
    some = icl.ContextMask(BOTH, icl.from_layer(1), heads={(0, 1), (1, 1)})
    assert set(resolve(some, 3, 2)) == {1}
    assert not resolve(icl.ContextMask(BOTH, icl.from_layer(3), heads={(1, 1)}), 3, 2)


@pytest.mark.parametrize("given", [None, "mask", 3, {Segment.QUERY}])
def test_what_is_no_intervention_is_refused(given):
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    for one in (icl.ContextMask(BOTH), HeadAblation({(0, 0)}), icl.HeadScale({})):
        with pytest.raises(MaskError, match=r"^mask is .*: expected a ContextMask, an EdgeMask"):
            one | given
    with pytest.raises(MaskError, match=r"^intervention is .*: expected a ContextMask"):
        icl.intervene(model, prompts, given).__enter__()
    with pytest.raises(MaskError, match=r"^kind is .*: expected a class made from"):
        icl.register_intervention(given)
    with pytest.raises(MaskError, match=r"^application is .*: expected a function"):
        icl.register_intervention(type("Mine", (icl.Intervention,), {}))(given)


@pytest.mark.parametrize(
    "given",
    [
        None, 3, "ab", {(0, 0)}, {(0, 0): "1"}, {(0, 0): None}, {0: 1.0}, {(0, 0): float("nan")},
        {(0, 0): True}, torch.ones(3), torch.ones(3, 4, dtype=torch.long), np.ones((3, 4)),
    ],
)  # fmt: skip
def test_other_factors_are_refused(given):
    with pytest.raises(MaskError, match=r"^factors.* (is|hold) .*: expected"):
        icl.HeadScale(given)
    taken = icl.HeadScale({(np.int64(1), torch.tensor(0)): np.float32(0.5)}).factors
    assert taken == {(1, 0): 0.5} and type(taken[1, 0]) is float


@pytest.mark.parametrize("given", [None, "mask", 3, {Segment.QUERY}, HeadAblation({(0, 0)})])
def test_what_is_no_mask_is_refused(given):
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    for use in (
        lambda: MaskUnion({given}) if given.__hash__ else MaskUnion([given]),
        lambda: icl.mask_attention(model, prompts, given).__enter__(),
        lambda: icl.attention_hooks(model, prompts, given),
    ):
        with pytest.raises(MaskError, match=r"^mask is .*: expected a ContextMask"):
            use()


def test_rules_give_booleans():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    with pytest.raises(MaskError, match="^rule is 3: expected a function"):
        icl.EdgeMask(3)
    for given, words in ((None, "NoneType"), (torch.zeros(1, 1, 1), "torch.float32")):
        mask = icl.EdgeMask(lambda positions, n, given=given: given)
        with (
            pytest.raises(MaskError, match=f"gave {words}: expected a tensor of booleans"),
            icl.mask_attention(model, prompts, mask),
        ):
            model(prompts.tokens)


@pytest.mark.parametrize("scope", [None, 3, "windows:2", "window:x", ["only"]])
def test_other_scopes_are_refused(scope):
    with pytest.raises(MaskError, match="^scope is"):
        masked_layers(scope, 1, 3)


def test_dropping_takes_segments_alike():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, [icl.Example("sort", "dode")], n_shots=0)
    with icl.drop_context(model, prompts, np.int64(1), drop=["examples", "BOS"]):
        pass
    for options in ({"drop": {7}}, {"drop": "query"}, {"from_layer": "1"}, {"from_layer": True}):
        with pytest.raises(MaskError, match=r"(drop|from_layer) is .*: expected"):
            icl.drop_context(model, prompts, **{"from_layer": 1} | options).__enter__()


@pytest.mark.parametrize(
    "options",
    [{"method": 3}, {"method": ["zero"]}, {"seed": "1"}, {"seed": True}, {"reference": "corpus"}],
)
def test_other_ablations_are_refused(options):
    name = next(iter(options))
    with pytest.raises(MaskError, match=f"^{name} is .*: expected"):
        HeadAblation({(0, 0)}, **options)


def dry_run(tmp_path, capsys, text):
    """What a sweep over a conditions file says before it would run."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    code = main(["sweep", "--conditions-file", str(file), "--dry-run"])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out + told.err


@pytest.mark.parametrize(
    "hide", ['"examples"', '["EXAMPLES"]', '["Examples"]', '["examples", "query"]', "[3]"]
)
def test_a_conditions_file_takes_what_python_takes(hide, tmp_path, capsys):
    text = f'[[condition]]\nname = "mine"\nhide = {hide}\ninstruction = false\n'
    code, told = dry_run(tmp_path, capsys, text)
    assert not code and "mine" in told


TABLE = '[[condition]]\nname = "mine"\nhide = ["EXAMPLES"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no list of conditions"),
        ("condition = 3", "is no list of conditions"),
        ("condition = [1, 2]", "is no list of conditions"),
        ("condition = []", "is no list of conditions"),
        ('[[condition]]\nname = "mine"', "is no list of conditions"),
        (TABLE + "colour = 1", "is no list of conditions"),
        (TABLE + "[other]\nx = 1", "is no list of conditions"),
        ("[[condition]]\nname = 3\nhide = []", "name is 3: expected text"),
        (TABLE.replace('["EXAMPLES"]', "[7]"), "an item of hide is 7: expected some of BOS"),
        (TABLE.replace('["EXAMPLES"]', "true"), "hide is True: expected some of BOS"),
        (TABLE.replace('["EXAMPLES"]', '"PAD"'), "padding is always hidden"),
        (TABLE.replace('["EXAMPLES"]', '"nothing"'), "hide is 'nothing': expected some of BOS"),
        (TABLE + 'instruction = "yes"', "instruction is 'yes': expected True or False"),
        (TABLE + "keep_self = 1", "keep_self is 1: expected True or False"),
        ("x = " + "[" * 3000 + "]" * 3000, "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_other_conditions_files_are_refused(text, words, tmp_path, capsys):
    code, told = dry_run(tmp_path, capsys, text)
    assert code and re.search(re.escape(words), told) and "mine.toml" in told


def test_conditions_of_any_json_are_made_or_refused():
    """No value out of a file comes through as it is, or as an error of Python's own."""
    values = ["null", "true", "-1", "1e400", '"examples"', "[[]]", "{}", '{"hide": 1}', '"\\ud800"']
    for text in values:
        value = json.loads(text)
        for name in ("name", "hide", "instruction", "keep_self", "without_bias"):
            with suppress(MaskError):
                made = icl.Condition(**{"name": "mine", "hide": ["QUERY"]} | {name: value})
                assert type(made.hide) is frozenset and type(made.keep_self) is bool
