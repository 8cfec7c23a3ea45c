"""Which rows the shared engine computes: planned on segments alone."""

import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.shared.decoding import portions
from icl_locate.engine.shared.streams import CutMask, Rows, plan_streams

SEGMENTS = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 4], [1, 2, 2, 3, 3, 4, 4, 4]], dtype=torch.int8)
LAST = torch.arange(8).expand(2, 8) == 7
EXAMPLES, QUERY = {Segment.EXAMPLES}, {Segment.QUERY}


def plan(*masks, drop=True):
    return plan_streams(masks, SEGMENTS, LAST, 3, 2, drop=drop)


def positions(rows):
    return [found[real].tolist() for found, real in zip(rows.positions, rows.valid, strict=True)]


def test_masks_that_differ_in_their_start_alone_share_a_stream():
    masks = [icl.ContextMask(EXAMPLES, icl.from_layer(start)) for start in (2, 0, 3, 1)]
    (stream,), places = plan(*masks)
    assert stream.starts == (0, 1, 2) and places == [(0, 2), (0, 0), None, (0, 1)]
    assert [stream.n_running(layer) for layer in range(3)] == [1, 2, 3]
    query = icl.ContextMask(QUERY, icl.from_layer(1))
    streams, places = plan(masks[0], query, masks[3], query, icl.ContextMask(set()))
    assert [each.starts for each in streams] == [(1, 2), (1,)]
    assert places == [(0, 1), (1, 0), (0, 0), (1, 0), None]


def test_rows_before_what_is_hidden_are_the_clean_runs_and_hidden_ones_are_dropped():
    (stream,), _ = plan(icl.ContextMask(EXAMPLES, icl.from_layer(1)))
    assert positions(stream.static) == [[2, 3], [0, 1, 2]]
    assert positions(stream.active) == [[6, 7], [5, 6, 7]]
    assert positions(stream.keys()) == [[2, 3, 6, 7], [0, 1, 2, 5, 6, 7]]
    last = Rows.where(LAST)
    assert positions(last) == [[7], [7]]
    assert stream.place_of(last).positions.tolist() == [[1], [2]]
    (stream,), _ = plan(icl.ContextMask(QUERY))  # the row that is read out is computed all the same
    assert positions(stream.static) == [[2, 3, 4, 5], [0, 1, 2, 3, 4]]
    assert positions(stream.active) == [[7], [7]]
    (stream,), _ = plan(icl.ContextMask(EXAMPLES, rows="after"))
    assert positions(stream.static) == [[2, 3], [0, 1, 2]]
    assert positions(stream.active) == [[6, 7], [5, 6, 7]]


def test_other_masks_keep_all_rows_and_a_stream_of_their_own():
    until = icl.ContextMask(EXAMPLES, icl.until_layer(2))
    some = icl.ContextMask(EXAMPLES, icl.from_layer(1), heads={(2, 0)})
    after = icl.ContextMask(QUERY, rows="after")  # the row that is read out still sees its keys
    upwards = icl.ContextMask(EXAMPLES, icl.from_layer(1))
    streams, places = plan(until, some, upwards | some, after)
    assert [stream.starts for stream in streams] == [(0,), (2,), (1,), (0,)]
    assert places == [(0, 0), (1, 0), (2, 0), (3, 0)]
    (kept,), _ = plan(upwards, drop=False)
    for stream in (*streams, kept):
        assert not stream.static.valid.any() and positions(stream.active) == [[*range(8)]] * 2


def test_a_cut_mask_knows_its_empty_and_its_silent_rows_in_every_copy():
    """Prompt 0's second row sees nothing by one head of two, its last by neither."""
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(2, 2, 3, 4)
    mask[0, 0, 1], mask[0, :, 2] = lowest, lowest
    cut = CutMask.of(mask, torch.tensor([[True, True, True], [True, True, True]]))
    empty = torch.zeros(2, 2, 3, dtype=torch.bool)
    empty[0, 0, 1], empty[0, :, 2] = True, True
    silent = torch.tensor([[False, False, True], [False, False, False]])
    for n in (1, 2, 3):
        copy = cut.copies(n)
        assert copy.mask.equal(torch.cat([mask] * n)) and copy.empty.equal(torch.cat([empty] * n))
        assert copy.silent.equal(torch.cat([silent] * n))
    loud = CutMask.of(mask).copies(2)
    assert loud.empty.equal(torch.cat([empty] * 2)) and loud.silent is None
    seen = CutMask.of(mask[1:], silent[:1]).copies(2)
    assert seen.empty is None and seen.silent is None and len(seen.mask) == 2


def test_masks_are_decoded_in_portions_whose_keys_fit():
    """Four times d_model keys at once: the prompt's, and each run's own with its new ones."""
    model, n_new = tiny.boot("llama"), 20
    queries = [icl.Example("sort thin one", "zimo"), icl.Example("zero", "rovu")]
    bank = [icl.Example("reverse double", "dode"), icl.Example("count", "goza")]
    prompts = icl.build_prompts(model, queries, examples=bank, n_shots=2)
    after = int((prompts.segments == Segment.QUERY).sum(dim=1).max()) + n_new  # keys of a run
    room = (4 * tiny.D_MODEL - prompts.tokens.shape[1]) // after
    assert 1 < room < 6
    masks = [icl.ContextMask(EXAMPLES, icl.from_layer(i)) for i in range(tiny.N_LAYERS + 1)]
    masks += [icl.ContextMask({Segment.BOS, *EXAMPLES}, mask.layers) for mask in masks]
    starts = [mask for mask in masks if mask.layers != icl.from_layer(tiny.N_LAYERS)]
    sizes = {name: int(getattr(model.cfg, name)) for name in ("n_layers", "n_heads", "d_model")}
    found = portions(prompts, [*masks[:1], *masks], n_new, **sizes)
    assert [mask for some in found for mask in some] == [*masks[:1], *masks], "in their order"
    costs = [len({mask for mask in portion if mask in starts}) for portion in found]
    assert costs == [room] * (6 // room) + [6 % room] * (6 % room > 0)
    assert found[0][:2] == masks[:1] * 2, "equal masks are one run, and no mask is no key"


def test_rows_are_taken_in_order_from_any_dimension():
    chosen = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)
    rows = Rows.where(chosen)
    assert positions(rows) == [[1, 3, 4], [0, 4]] and rows.positions[1, 2] == 0
    values = torch.arange(2 * 3 * 5).view(2, 3, 5)
    taken = rows.take(values, dim=2)
    assert taken[0].equal(values[0][:, [1, 3, 4]]) and taken[1].equal(values[1][:, [0, 4, 0]])
    shared = rows.take(torch.arange(5)[None])
    assert shared.equal(rows.positions), "a batch of 1 stands for all"
    twice = rows.copies(2)
    assert positions(twice) == [[1, 3, 4], [0, 4]] * 2
