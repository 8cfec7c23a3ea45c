"""Mask semantics as pure tensors, against loops."""

import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import MaskError
from icl_locate.interventions.conditions import get_condition
from icl_locate.interventions.hidden import hidden_cells
from icl_locate.interventions.masks import LayerMask, check_segments, resolve

rows_of_segments = st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=9).flatmap(
    lambda row: st.integers(0, 3).map(lambda n_pad: [0] * n_pad + row)
)
hidden_sets = st.sets(st.sampled_from([1, 2, 3, 4, 5]))


@given(rows_of_segments, hidden_sets, st.sampled_from(["all", "after"]), st.booleans(), st.data())
def test_hidden_cells_equal_loops(segments, hide, rows, keep_self, data):
    mask = icl.ContextMask({Segment(s) for s in hide}, rows=rows, keep_self=keep_self)
    n_rows = data.draw(st.integers(1, len(segments)))
    cells = hidden_cells(mask, torch.tensor([segments], dtype=torch.int8), n_rows)[0]
    free = oracle.visible_cells(segments, set())
    masked = oracle.visible_cells(segments, hide, rows=rows, keep_self=keep_self)
    assert cells.equal((free & ~masked)[-n_rows:])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (icl.from_layer(2), {2, 3}),
        (icl.from_layer(0), {0, 1, 2, 3}),
        (icl.from_layer(4), set()),
        (icl.until_layer(2), {0, 1}),
        (icl.until_layer(0), set()),
        (icl.only_layer(3), {3}),
        (icl.window(1, 2), {1, 2}),
        ({0, 3}, {0, 3}),
    ],
)
def test_layer_sets(layers, expected):
    resolved = resolve(icl.ContextMask({Segment.QUERY}, layers), n_layers=4, n_heads=2)
    assert set(resolved) == expected


pairs = st.tuples(st.integers(0, 3), st.integers(0, 1))


@given(st.sets(pairs).filter(lambda heads: not heads or max(heads) >= (1, 0)))
def test_heads_act_only_where_they_are_named(heads):
    mask = icl.ContextMask({Segment.QUERY}, icl.from_layer(1), heads=heads)
    resolved = resolve(mask, n_layers=4, n_heads=2)
    found = {(layer, head) for layer, parts in resolved.items() for head in parts[0].heads}
    assert found == {(layer, head) for layer, head in heads if layer >= 1}


def test_a_mask_hides_from_all_rows_heads_and_layers_unless_it_says_so():
    named = {"layers": icl.from_layer(0), "heads": None, "rows": "all", "keep_self": False}
    rest = {"hide_generated": 0, "without_bias": False}
    assert icl.ContextMask({Segment.QUERY}) == icl.ContextMask({Segment.QUERY}, **named, **rest)


def test_layers_where_nothing_is_hidden_are_left_out():
    nothing = icl.ContextMask(set(), keep_self=True)
    query = icl.ContextMask({Segment.QUERY}, icl.only_layer(2))
    assert resolve(nothing, n_layers=4, n_heads=2) == {}
    assert resolve(nothing | query, 4, 2) == {2: (LayerMask(query, None),)}
    with pytest.raises(MaskError, match="layer 9 is out of range"):
        resolve(icl.ContextMask(set(), {9}), n_layers=4, n_heads=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: icl.from_layer(5), "layers 5 to 4 are out of range: the model has layers 0 to 3"),
        (lambda: icl.from_layer(-1), "out of range"),
        (lambda: icl.only_layer(4), "out of range"),
        (lambda: icl.window(3, 2), "out of range"),
        (lambda: {1, 9}, "layer 9 is out of range"),
        (lambda: {3, 4}, "layer 4 is out of range"),
        (lambda: {0, -1}, "layer -1 is out of range"),
    ],
)
def test_layers_out_of_range(make, message):
    with pytest.raises(MaskError, match=message):
        resolve(icl.ContextMask({Segment.QUERY}, make()), n_layers=4, n_heads=2)


@pytest.mark.parametrize("head", [(0, 2), (4, 0), (-1, 0), (0, -1)])
def test_heads_out_of_range(head):
    mask = icl.ContextMask({Segment.QUERY}, heads={(0, 0), (3, 1), head})
    message = f"layer {head[0]}, head {head[1]}.*layers 0 to 3 and heads 0 to 1"
    with pytest.raises(MaskError, match=message):
        resolve(mask, n_layers=4, n_heads=2)


def test_a_mask_is_checked_when_it_is_made():
    with pytest.raises(MaskError, match="padding is always hidden"):
        icl.ContextMask({Segment.PAD})
    with pytest.raises(MaskError, match="expected one of 'all', 'after'"):
        icl.ContextMask({Segment.QUERY}, rows="before")


def test_hiding_what_is_not_there():
    segments = torch.tensor([[1, 2, 3, 4], [0, 1, 2, 4]], dtype=torch.int8)
    with pytest.raises(MaskError, match="hides EXAMPLES, but prompt 1 has no"):
        check_segments(icl.ContextMask({Segment.EXAMPLES}), segments)
    check_segments(icl.ContextMask({Segment.QUERY, Segment.GENERATED}), segments)
    without_bos = torch.tensor([[2, 3, 4]], dtype=torch.int8)
    everything = {Segment.BOS, Segment.QUERY}
    with pytest.raises(MaskError, match="hides BOS"):
        check_segments(icl.ContextMask(everything), without_bos)
    check_segments(icl.ContextMask(everything, keep_self=True), without_bos)


@pytest.mark.parametrize("missing", list(Segment)[1:])
@pytest.mark.parametrize("options", [{}, {"keep_self": True}, {"without_bias": True}])
def test_which_missing_segments_a_mask_may_name(missing, options):
    """GENERATED comes later, BOS may be missing from "all but self"; any, from "nothing at all"."""
    there = [s for s in list(Segment)[1:5] if s is not missing]
    segments = torch.tensor([[0, 1, 2, 3, 4], [0, 0, *there][-5:]], dtype=torch.int8)
    mask = icl.ContextMask(set(Segment) - {Segment.PAD}, **options)
    may = missing is Segment.GENERATED or "without_bias" in options
    may |= missing is Segment.BOS and "keep_self" in options
    shown = icl.ContextMask({Segment.GENERATED}) | icl.ContextMask(set(), keep_self=True)
    for each in (mask, mask | shown):  # what one part may name gives no leave to the others
        if may:
            check_segments(each, segments)
        else:
            with pytest.raises(MaskError, match=f"hides {missing.name}, but prompt 1 has no such"):
                check_segments(each, segments)


def test_an_edge_mask_gives_the_others_of_a_union_no_leave():
    """A union is in no order: each of these has its own."""
    segments = torch.tensor([[1, 2, 4]], dtype=torch.int8)
    missing = icl.ContextMask({Segment.EXAMPLES})
    edges = [icl.EdgeMask(lambda positions, n_rows: None) for _ in range(20)]
    for each in edges:
        check_segments(each | icl.ContextMask({Segment.QUERY}), segments)
        with pytest.raises(MaskError, match="hides EXAMPLES, but prompt 0"):
            check_segments(each | missing, segments)


def test_conditions():
    names = [condition.name for condition in icl.PAPER_CONDITIONS]
    assert names == [
        "examples",
        "instructions+examples",
        "examples, instructions kept",
        "query",
        "everything",
        "all but self",
    ]
    assert [c.instruction for c in icl.PAPER_CONDITIONS] == [False] + [True] * 5
    assert not any(Segment.BOS in c.hide for c in icl.PAPER_CONDITIONS[:5])
    with pytest.raises(MaskError, match="unknown condition 'exmples'"):
        get_condition("exmples")
    with pytest.raises(MaskError, match="hides instructions that its prompt does not hold"):
        icl.Condition("x", {Segment.INSTRUCTIONS}, instruction=False)
