"""Which rows the shared engine computes: planned on segments, tokens and edits alone."""

import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment
from icl_locate.engine.budget import Cost
from icl_locate.engine.shared.acts import Acts
from icl_locate.engine.shared.beginning import behind, beside
from icl_locate.engine.shared.decoding import portions
from icl_locate.engine.shared.plan import plan_runs
from icl_locate.engine.shared.rows import CutMask, Rows
from icl_locate.engine.shared.scoring import plan_last
from icl_locate.interventions.edges import Positions
from icl_locate.interventions.edits import Edit
from icl_locate.interventions.masks import parts_of

SEGMENTS = torch.tensor([[0, 0, 1, 2, 3, 3, 4, 4], [1, 2, 2, 3, 3, 4, 4, 4]], dtype=torch.int8)
LAST = torch.arange(8).expand(2, 8) == 7
EXAMPLES, QUERY = {Segment.EXAMPLES}, {Segment.QUERY}
N_LAYERS = 4
ALL = [[2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]]


def acts(mask=None, *edits, key=None):
    parts = () if mask is None else parts_of(mask)
    return Acts.of(parts, edits, N_LAYERS, 2, key)


def plan(*runs, drop=True, continues=False, readout=LAST):
    runs = [run if isinstance(run, Acts) else acts(run) for run in runs]
    words = torch.zeros_like(SEGMENTS).long()
    positions = Positions(SEGMENTS, torch.arange(16).view(2, 8), words)
    return plan_runs(runs, positions, readout, N_LAYERS, 2, drop=drop, continues=continues)


def edit(layer, point, *touched, generated=False):
    """An edit of some positions of both prompts; of all if none are given."""
    rows = torch.zeros_like(LAST)
    rows[:, list(touched)] = True
    return Edit(layer, point, lambda value, where: value, rows if touched else None, generated)


def positions(rows):
    return [found[real].tolist() for found, real in zip(rows.positions, rows.valid, strict=True)]


def layers(found, run=0):
    """Each layer's static, feeding (where there are any) and active rows of a run, by prompt."""
    groups = [next((g for g in some if run in g.runs), None) for some in found.groups]
    return [None if group is None else rows_of(group) for group in groups]


def rows_of(group):
    static, feeding, active = map(positions, (group.static, group.feeding, group.active))
    return (static, feeding, active) if group.feeding.width else (static, active)


def test_runs_that_hide_the_same_go_on_together_wherever_they_started():
    masks = [icl.ContextMask(EXAMPLES, icl.from_layer(start)) for start in (2, 0, 4, 1)]
    found = plan(*masks, masks[0])
    assert found.places == (0, 1, None, 2, 0) and found.n_runs == 3
    assert [[group.runs for group in some] for some in found.groups] == [
        [(1,)], [(1, 2)], [(0, 1, 2)], [(0, 1, 2)],
    ]  # fmt: skip
    query = icl.ContextMask(QUERY, icl.from_layer(1))
    found = plan(masks[0], query, icl.ContextMask(set()))
    assert found.places == (0, 1, None)
    assert [[group.runs for group in some] for some in found.groups] == [
        [],
        [(1,)],
        [(0,), (1,)],
        [(0,), (1,)],
    ]


def test_rows_before_what_is_hidden_are_the_clean_runs_and_hidden_ones_are_dropped():
    found = layers(plan(icl.ContextMask(EXAMPLES, icl.from_layer(1))))
    kept = [[2, 3], [0, 1, 2]], [[6, 7], [5, 6, 7]]
    assert found[:3] == [None, kept, kept]
    last = [[7], [7]]  # of the last layer's rows only one is read out, all are keys
    assert found[3] == (kept[0], [[6], [5, 6]], last)
    last = Rows.where(LAST)
    active = plan(icl.ContextMask(EXAMPLES)).groups[0][0].active
    assert last.places_in(active)[0].tolist() == [[1], [2]]
    alone = [[2, 3, 4, 5], [0, 1, 2, 3, 4]], [[7], [7]]
    assert layers(plan(icl.ContextMask(QUERY))) == [alone] * 4  # read out, though it is hidden
    assert layers(plan(icl.ContextMask(EXAMPLES, rows="after")))[0] == kept


def test_an_edit_touches_its_rows_and_then_those_that_see_them():
    found = layers(plan(acts(None, edit(1, "z", 5))))
    before, first = [[2, 3, 4], [0, 1, 2, 3, 4]], [[5], [5]]
    assert found[0] is None
    assert found[1] == (before, first)  # no other row of its own layer
    assert found[2] == (before, [[5, 6, 7]] * 2)
    assert found[3] == (before, [[5, 6]] * 2, [[7]] * 2)  # keys, and the row that is read out
    found = layers(plan(acts(None, edit(1, "resid_post", 7))))
    assert found[:2] == [None, None]  # it enters layer 2
    assert found[2:] == [([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]], [[7], [7]])] * 2
    assert layers(plan(acts(None, edit(2, "mlp_out", 3)))) == [
        None, None,
        ([[2], [0, 1, 2]], [[3], [3]]),
        ([[2, 4, 5, 6], [0, 1, 2, 4, 5, 6]], [[3]] * 2, [[7]] * 2),
    ]  # fmt: skip
    last = plan(acts(None, edit(3, "resid_post", 7)))
    assert last.places == (0,) and layers(last) == [None] * 4  # what is read out is edited


def test_the_last_layers_edits_need_only_rows_that_are_read():
    found = layers(plan(acts(None, edit(3, "attn_out"))))
    assert found == [None, None, None, ([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]], [[7], [7]])]
    below = layers(plan(acts(None, edit(2, "attn_out"))))
    assert below[2] == ([[], []], ALL)  # all are keys of the row that is read
    assert below[3] == ([[], []], [row[:-1] for row in ALL], [[7], [7]])


def test_an_edit_of_what_is_hidden_above_reaches_nothing():
    mask = icl.ContextMask(EXAMPLES, icl.from_layer(2))
    with_edit = layers(plan(acts(mask, edit(2, "resid_pre", 4))))
    assert with_edit == layers(plan(mask))
    seen = layers(plan(acts(mask, edit(1, "resid_pre", 4))))
    # hidden above: of the edited row keys alone are computed, of a clean one not even these
    assert seen[1] == ([[2, 3, 5], [0, 1, 2, 3]], [[4], [4]], [[6, 7], [5, 6, 7]])
    assert seen[2] == layers(plan(mask))[2]


def test_rows_join_where_they_first_differ():
    mask = icl.ContextMask({Segment.INSTRUCTIONS}, icl.from_layer(2))
    found = layers(plan(acts(mask, edit(1, "z", 7))))
    assert found[1] == ([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]], [[7], [7]])
    assert found[2] == ([[2], [0]], [[4, 5, 6, 7], [3, 4, 5, 6, 7]])


def test_tokens_to_come_need_keys_that_the_last_row_does_not_see():
    mask = icl.ContextMask(QUERY, rows="after") | icl.ContextMask(EXAMPLES)
    for continues in (False, True):
        static = layers(plan(mask, continues=continues))[0][0]
        assert static == [[2, 3], [0, 1, 2]]
    edges = icl.EdgeMask(lambda at, n: torch.ones(2, n, 8, dtype=torch.bool))
    assert layers(plan(edges))[1] == ([[], []], [[7], [7]])  # which sees nothing
    assert layers(plan(edges, continues=True))[1] == ([[], []], ALL)
    later = acts(None, edit(1, "z", 7, generated=True))
    found = layers(
        plan(
            acts(None, Edit(1, "z", later.inside[1][0].change, ~LAST & LAST, True)), continues=True
        )
    )
    assert found == [None] + [(ALL, [[], []])] * 3  # nothing of the prompt, but its newest rows


def test_texts_begin_with_the_keys_of_their_own_run_and_none_that_fills_up():
    found = plan(icl.ContextMask(EXAMPLES, icl.from_layer(1)), continues=True)
    assert rows_of(found.groups[1][0])[1] == [[6, 7], [5, 6, 7]]
    zeros = torch.zeros(2, 1, 8, 1)
    clean = DynamicCache()
    for layer in range(N_LAYERS):
        clean.update(zeros, zeros, layer)
    computed = {0: (torch.ones(2, 1, 3, 1), torch.ones(2, 1, 3, 1))}
    keys, _, columns, own, kinds = beside(1, clean, computed, found)
    assert kinds.tolist() == [1, 0] and keys[:, 0, :, 0].tolist() == [[0.0] * 8 + [1.0] * 3] * 2
    assert columns[:, 8:].tolist() == [[6, 7, 0], [5, 6, 7]]
    static = [[2, 3], [0, 1, 2]]
    for prompt, valid in enumerate(([True, True, False], [True] * 3)):
        masked, whole = own[prompt].tolist()
        assert [i for i in range(8) if masked[i]] == static[prompt] and masked[8:] == valid
        assert whole == [True] * 8 + [False] * 3
    keys, _, _, own, _ = behind(1, clean, computed, found)
    assert own[:, 0].sum(dim=1).tolist() == [8, 8, 4, 6]  # the clean run's, then the masked one's
    assert keys[2:, 0, :, 0].nonzero().tolist() == [[0, 6], [0, 7], [1, 5], [1, 6], [1, 7]]


def test_without_dropping_all_rows_are_kept_from_the_first_layer_on():
    until = icl.ContextMask(EXAMPLES, icl.until_layer(2))
    every = [[*range(8)]] * 2
    for run in (until, acts(until, edit(3, "z", 7)), acts(None, edit(0, "z", 7))):
        assert layers(plan(run, drop=False)) == [([[], []], every)] * 4


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from(["resid_pre", "z", "resid_post"]), st.integers(2, 7)
        ),
        max_size=3,
    ),
    st.sampled_from([None, *icl.PAPER_CONDITIONS[1:4]]),
    st.integers(0, 3),
)
def test_no_row_is_computed_before_the_first_that_is_touched(edits, condition, start):
    mask = None if condition is None else condition.mask(icl.from_layer(start))
    found = plan(acts(mask, *(edit(*one) for one in edits)))
    touched = [place for _, _, place in edits]
    touched += [] if mask is None else [(SEGMENTS[0] == min(mask.hide)).int().argmax().item()]
    for some in found.groups:
        for group in some:
            static, active = positions(group.static)[0], positions(group.active)[0]
            assert not set(static) & set(active)
            assert min(active, default=7) >= min(touched)
            assert set(static) | set(active) <= set(ALL[0])


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


def test_a_cut_mask_beside_itself_shows_each_copy_its_own_keys_alone():
    lowest = torch.finfo(torch.float32).min
    mask = torch.tensor([[0.0, 1.0, 2.0, lowest], [3.0, 4.0, 5.0, 6.0]])[None, None]
    cut = CutMask.of(mask).beside(2, n_static=2)
    first, second = [0.0, 1.0, 2.0, lowest], [3.0, 4.0, 5.0, 6.0]
    nothing = [lowest] * 2
    assert cut.mask[0, 0].tolist() == [
        [*first, *nothing], [*second, *nothing],
        [*first[:2], *nothing, *first[2:]], [*second[:2], *nothing, *second[2:]],
    ]  # fmt: skip
    assert cut.empty is None
    blind = CutMask.of(
        torch.where(torch.arange(2)[:, None] == 1, lowest, mask), torch.ones(1, 2).bool()
    )
    assert blind.beside(3, 2).empty[0, 0].tolist() == [False, True] * 3
    assert blind.beside(3, 2).silent[0].tolist() == [False, True] * 3


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
    whole, _ = plan_last(model, prompts, [*masks[:1], *masks], drop=True, continues=True)
    assert whole.places[:2] == (0, 0) and whole.n_runs == len(starts) == 6
    found = portions(whole, n_new, tiny.D_MODEL, drop=True)
    assert [run for some in found for run in some.runs] == [*range(6)], "in their order"
    assert [len(some.runs) for some in found] == [room] * (6 // room) + [6 % room] * (6 % room > 0)
    assert all(some.by_prompt and some.plan.n_runs == len(some.runs) for some in found)
    for some in found:
        assert [a.key for a in some.plan.acts] == [whole.acts[run].key for run in some.runs]
    (alone,) = portions(whole, n_new, tiny.D_MODEL, drop=False)
    assert not alone.by_prompt and alone.runs == tuple(range(6))


def test_runs_that_compute_most_of_a_prompt_decode_in_rows_of_their_own():
    model = tiny.boot("llama")
    bank = [icl.Example("reverse double", "dode")]
    prompts = icl.build_prompts(model, bank, examples=[icl.Example("sort", "zimo")], n_shots=1)
    runs = [icl.HeadAblation({(1, 0)}), icl.ContextMask(QUERY, icl.from_layer(1))]
    whole, _ = plan_last(model, prompts, [*runs, runs[0] | runs[1]], drop=True, continues=True)
    found = portions(whole, 4, tiny.D_MODEL, drop=True)
    assert [(some.runs, some.by_prompt) for some in found] == [((1,), True), ((0, 2), False)]


def test_rows_are_taken_in_order_from_any_dimension():
    chosen = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)
    rows = Rows.where(chosen)
    assert positions(rows) == [[1, 3, 4], [0, 4]] and rows.positions[1, 2] == 0
    values = torch.arange(2 * 3 * 5).view(2, 3, 5)
    taken = rows.take(values, dim=2)
    assert taken[0].equal(values[0][:, [1, 3, 4]]) and taken[1].equal(values[1][:, [0, 4, 0]])
    shared = rows.take(torch.arange(5)[None])
    assert shared.equal(rows.positions), "a batch of 1 stands for all"


def test_runs_hold_as_much_as_the_layer_where_they_hold_most():
    """Without 8 tokens of their own: what is shared counts for all runs, unless it is little."""
    late, query = icl.ContextMask(EXAMPLES, icl.only_layer(3)), icl.ContextMask(QUERY)
    found = plan(query, icl.ContextMask(EXAMPLES), late, acts(None, edit(0, "z")))
    assert found.most_rows() == [1, 3, 1, 8] and found.most_held() == [1, 6, 1, 8]


def test_what_some_heads_hide_is_seen_by_the_others():
    """One head of two, then each by a mask of its own, which need not be alike."""
    for masks, seen in (
        ([icl.ContextMask(QUERY, heads={(3, 0)})], [2, 3, 4, 5, 6]),
        ([icl.ContextMask(QUERY, heads={(3, head)}) for head in (0, 1)], [2, 3, 4, 5]),
        (
            [
                icl.ContextMask(QUERY, heads={(3, 0)}),
                icl.ContextMask(EXAMPLES | QUERY, heads={(3, 1)}),
            ],
            [2, 3, 4, 5],
        ),
        ([icl.ContextMask(QUERY, heads={(3, 0)}), icl.ContextMask(EXAMPLES)], [2, 3, 6]),
    ):
        run = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        sets = layers(plan(run))[3]
        assert sorted({place for some in sets for place in some[0]} - {7}) == seen


def test_runs_fill_a_budget_to_its_last_token():
    cost = Cost(10, (3, 4, 0, 5))
    assert cost.portions(17) == [[0, 1, 2], [3]] and cost.portions(16) == [[0], [1, 2], [3]]
