"""Disconnections of the inference circuit: which cells are cut, what that does, and the control."""

import oracle
import planted_circuit
import pytest
import tiny
import torch
from saved_kinds import disconnections

import icl_locate as icl
from icl_locate.circuit import CircuitEdges, Disconnections, RandomEdges, disconnect
from icl_locate.circuit.edges import EDGES
from icl_locate.circuit.windows import choose_windows
from icl_locate.engine.grid import run_grid
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.interventions.edges import Positions
from icl_locate.metrics import METRICS

SHOWN = [
    icl.Example("sort invert", "vevo"),
    icl.Example("halve", "begu rare siba"),
    icl.Example("double sort triple", "vevo"),
]
QUERIES = [icl.Example("repeat sort double", "vevo"), icl.Example("largest", "begu rare siba")]
TEMPLATE = icl.PromptTemplate("reverse triple", "Q:", " : A:", "\n")
"""Labels of one token and of three in each prompt; the second one is shorter, and padded."""
START, STOP = 1, 2


def prompts(template=TEMPLATE, which=slice(None), name="llama"):
    shots = [SHOWN, SHOWN[::-1]][which]
    return icl.build_prompts(tiny.boot(name), QUERIES[which], template=template, shots=shots)


def words_of(batch, row):
    tokenizer = tiny.boot("llama").tokenizer
    return [tokenizer.decode([token]) for token in batch.tokens[row].tolist()]


def blocks(words):
    """Each block's first token, forerunner token and label, read off the words; the query last."""
    found = []
    for start in [i for i, word in enumerate(words) if word == "Q:"]:
        s = words.index("A:", start)
        end = words.index("\n", s) if "\n" in words[s:] else len(words)
        found.append((start, s, list(range(s + 1, end))))
    return found


def cells_by_loops(words, edge):
    """The cells (row, key) that are cut, one by one, by the definition."""
    *shown, (query, s_q, _) = blocks(words)
    cells = set()
    for k, (start, s, label) in enumerate(shown):
        if edge == "x->s":
            cells |= {(s, j) for j in range(start, s)}
        if edge == "s->y":
            cells |= {(i, s) for i in label}
        if edge == "y->s_q":
            cells |= {(s_q, j) for j in label}
        if edge == "s->s":
            cells |= {(later, s) for _, later, _ in [*shown[k + 1 :], (0, s_q, 0)]}
    if edge == "x_q->s_q":
        cells |= {(s_q, j) for j in range(query, s_q)}
    return cells


def cells_of_the_authors(words, edge):
    """The same as the masks of Cho et al. go: by the first tokens of labels, counted from BOS."""
    labels = [s + 1 for _, s, _ in blocks(words)]  # the query's would stand behind the prompt
    begin, last, cells = words.index("<s>"), len(words) - 1, set()
    for k, y in enumerate(labels):
        if edge == "x->s":
            start = begin if k == 0 else labels[k - 1] + 1
            cells |= {(y - 1, j) for j in range(start, y - 1)}
        if edge == "s->s":
            cells |= {(y - 1, other - 1) for other in labels if other <= y}
    for y in labels[:-1]:
        if edge == "s->y":
            cells.add((y, y - 1))
        if edge == "y->s_q":
            cells.add((last, y))
    if edge == "x_q->s_q":
        cells |= {(last, j) for j in range(labels[-2] + 1, last + 1)}
    return cells


def as_cells(pairs, n):
    found = torch.zeros(n, n, dtype=torch.bool)
    for row, key in pairs:
        found[row, key] = True
    return found


def cells_of(rule, batch):
    return icl.EdgeMask(rule).cells(Positions.of(batch), batch.tokens.shape[1])


RULES = {
    **{edge: (CircuitEdges(edge), cells_by_loops) for edge in EDGES},
    **{
        f"{edge} as the authors": (CircuitEdges(edge, "cho2025"), cells_of_the_authors)
        for edge in EDGES
    },
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("template", [TEMPLATE, icl.PromptTemplate(None, "Q:", "A:", "\n")])
def test_cells_are_those_of_the_loops(name, template):
    rule, loops = RULES[name]
    batch = prompts(template)
    for row, found in enumerate(cells_of(rule, batch)):
        words = words_of(batch, row)
        expected = as_cells(loops(words, rule.which), len(words))
        assert torch.equal(found, expected)
        assert expected.any()


RANDOM = {
    "random": RandomEdges("x->s", 5, START),
    "random as the authors": RandomEdges("s->s", 5, START, "cho2025"),
}


def plain_log_probs(name, batch, cut):
    """Each target's log-probability by a plain Hugging Face model, given its masks in 4-D."""
    width, n = batch.tokens.shape[1], max(map(len, batch.target_tokens))
    behind = [row + [0] * (n - len(row)) for row in batch.target_tokens]
    tokens = torch.cat([batch.tokens, torch.tensor(behind)], dim=1)
    there = torch.arange(n) < torch.tensor([[len(row)] for row in batch.target_tokens])
    real = torch.cat([batch.attention_mask, there], dim=1)
    visible = []
    for layer in range(tiny.N_LAYERS):
        rows = []
        for row, segments in enumerate(batch.segments.tolist()):
            ends = [5 if one else 0 for one in there[row].tolist()]
            seen = oracle.visible_cells(
                segments + ends, set(), window=oracle.window_of(name, layer), masked=False
            )
            if START <= layer < STOP:
                for i, j in cut[row]:
                    seen[i, j] = False
            rows.append(seen)
        visible.append(torch.stack(rows)[:, None].expand(-1, tiny.N_HEADS, -1, -1))
    found = oracle.logits(tiny.build(name), tokens, real, visible).log_softmax(-1)
    return [
        sum(float(found[row, width - 1 + k, token]) for k, token in enumerate(target))
        for row, target in enumerate(batch.target_tokens)
    ]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_scores_equal_plain_models_under_the_same_masks(architecture):
    """By both engines, with labels of one and of three tokens, and padding on both sides."""
    batch = prompts(name=architecture)
    assert not batch.attention_mask.all()
    words = [words_of(batch, row) for row in range(2)]
    chosen = [RULES[name] for name in (*EDGES, "x_q->s_q as the authors", "s->s as the authors")]
    cuts = [[set(), set()]]
    cuts += [[loops(row, rule.which) for row in words] for rule, loops in chosen]
    cuts += [
        [set(map(tuple, cells.nonzero().tolist())) for cells in cells_of(rule, batch)]
        for rule in RANDOM.values()
    ]
    rules = [rule for rule, _ in chosen] + [*RANDOM.values()]
    layers = icl.window(START, STOP - START)
    runs = [icl.ContextMask(frozenset()), *(icl.EdgeMask(rule, layers) for rule in rules)]
    expected = torch.tensor([plain_log_probs(architecture, batch, cut) for cut in cuts])
    for engine in ("hooks", "shared"):
        cells = run_grid(
            tiny.boot(architecture), batch, runs, METRICS["log_prob"], engine=engine,
            max_new_tokens=1, batch_size=8,
        )  # fmt: skip
        ours = torch.tensor([cell.statistics[:, 0].tolist() for cell in cells])
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    moved = (expected[1:] - expected[0]).abs().amax(dim=1)
    short = architecture in ("gemma2", "mistral", "gpt_neo")  # their windows hold few edges
    assert (moved > 3e-5).sum() >= (3 if short else len(moved)), "the cuts must matter"


@pytest.mark.parametrize("which", EDGES)
def test_the_control_takes_as_many_of_the_same_rows(which):
    batch = prompts()
    cut = cells_of(CircuitEdges(which), batch)
    draws = [
        cells_of(RandomEdges(which, seed, layer), batch) for seed, layer in [(0, 0), (0, 1), (1, 0)]
    ]
    bos, pad = batch.segments == icl.Segment.BOS, batch.segments == icl.Segment.PAD
    n = batch.tokens.shape[1]
    places = torch.arange(n)
    raw = RandomEdges(which, 0, 0)(Positions.of(batch), n)  # before an EdgeMask tidies it
    for drawn in [*draws, raw]:
        assert torch.equal(drawn.sum(dim=-1), cut.sum(dim=-1))
        assert not (drawn & (places[:, None] <= places)).any()  # its own, and what is yet to come
        assert not (drawn & (bos | pad)[:, None, :]).any()
    assert torch.equal(raw, draws[0])
    if which != "s->y":  # so few edges may come out twice
        assert not any(torch.equal(draws[0], other) for other in [cut, *draws[1:]])


def test_the_control_is_the_same_whatever_the_query():
    """So prompts and their content-free companions lose the same edges of the examples."""
    ours = {"template": TEMPLATE, "shots": [SHOWN]}
    model, others = tiny.boot("llama"), [icl.Example("largest sort double", "vevo")]
    batch, other = (icl.build_prompts(model, q, **ours) for q in (QUERIES[:1], others))
    assert not torch.equal(batch.tokens, other.tokens)
    draws = [cells_of(RandomEdges("x->s", 0, 0), which)[0] for which in (batch, other)]
    assert torch.equal(*draws) and draws[0].any()


def test_the_authors_control_takes_as_many_of_any_rows():
    batch = prompts()
    cut = cells_of(CircuitEdges("x->s", "cho2025"), batch)
    drawn = cells_of(RandomEdges("x->s", 0, 0, "cho2025"), batch)
    assert torch.equal(drawn.sum(dim=(1, 2)), cut.sum(dim=(1, 2)))
    assert not torch.equal(drawn.any(dim=-1), cut.any(dim=-1))
    many = [cells_of(RandomEdges("s->s", seed, 0, "cho2025"), batch) for seed in range(40)]
    ever = torch.stack(many).any(dim=0)[0]
    assert ever.diagonal().any() and ever[1:, 0].any()  # self-attention, and BOS


def test_every_edge_is_drawn_as_often():
    """The query's row draws a few of its keys: over many seeds each comes out about as often."""
    batch = prompts(which=slice(0, 1))
    n_draws, row = 150, batch.tokens.shape[1] - 1
    found = [cells_of(RandomEdges("x_q->s_q", seed, 3), batch)[0, row] for seed in range(n_draws)]
    counts = torch.stack(found).sum(dim=0)[1:row].double()
    expected = counts.sum() / len(counts)
    squares = ((counts - expected) ** 2 / expected).sum()  # of as many degrees of freedom, or fewer
    assert squares < len(counts) + 4 * (2 * len(counts)) ** 0.5
    assert counts.min() > 0


@pytest.mark.parametrize("rule", [CircuitEdges("s->s"), *RANDOM.values()])
def test_a_batch_is_its_prompts_with_any_padding(rule):
    batch = prompts()
    n = batch.tokens.shape[1]
    both = cells_of(rule, batch)
    positions = Positions.of(batch)
    for row in range(2):
        alone = batch.take([row])
        skipped = n - alone.tokens.shape[1]
        assert torch.equal(cells_of(rule, alone)[0], both[row, skipped:, skipped:])
    assert n - batch.take([1]).tokens.shape[1] > 0
    later = positions.behind(torch.nn.functional.pad(positions.tokens, (0, 4), value=7))
    behind = rule(later, n + 4)
    assert torch.equal(behind[:, :n, :n], rule(positions, n))
    assert not behind[:, n:].any() and not behind[:, :, n:].any()
    assert torch.equal(rule(later, 6), behind[:, -6:])
    assert not rule(later, 3).any()


def test_draws_are_of_each_prompt_and_kind_anew():
    """Another word changes what is drawn at once; so does another kind of the same rows."""
    batch = prompts()
    twice = Positions.of(batch.take([0, 0]))
    n = twice.segments.shape[1]
    for rule in RANDOM.values():
        first, second = rule(twice, n)
        assert torch.equal(first, second)
        twice.tokens[1, 2] += 1
        first, second = rule(twice, n)
        assert not torch.equal(first, second)
        twice.tokens[1, 2] -= 1
    row = [cells_of(RandomEdges(which, 0, 0), batch)[0, -1] for which in ("x_q->s_q", "s->s")]
    assert not (row[0] <= row[1]).all() and not (row[1] <= row[0]).all()


@pytest.mark.parametrize("which", EDGES)
def test_nothing_else_changes(which):
    """States below the window, and rows before the first cut one."""
    model, batch = tiny.boot("llama"), prompts(which=slice(0, 1))
    rule = CircuitEdges(which)
    first = int(cells_of(rule, batch)[0].any(dim=-1).nonzero()[0])
    mask = icl.EdgeMask(rule, icl.only_layer(1))
    clean = icl.states(model, batch, "all")[:, 0]
    cut = icl.states(model, batch, "all", intervention=mask)[:, 0]
    assert torch.equal(cut[0], clean[0])
    assert torch.equal(cut[:, :first], clean[:, :first])
    assert (cut[1, first] - clean[1, first]).abs().max() > 1e-4


@pytest.fixture(scope="module")
def planted():
    return disconnect(
        planted_circuit.boot(), planted_circuit.TASK, windows="layers", n_queries=16,
        engine="shared",
    )  # fmt: skip


NEEDED = {
    ("x->s", planted_circuit.SUMMARY_LAYER), ("x_q->s_q", planted_circuit.SUMMARY_LAYER),
    ("s->y", planted_circuit.COPY_LAYER), ("y->s_q", planted_circuit.RETRIEVE_LAYER),
}  # fmt: skip


def lost(result):
    """The edges and layers at which the cut costs what only chance gives back."""
    damage = result.damage().mean[:, 0]
    assert ((damage < 0.1) | (damage > 0.3)).all()
    return {(result.edges[i], int(j)) for i, j in (torch.from_numpy(damage) > 0.3).nonzero()}


def test_the_planted_edges_are_needed_where_they_are_and_nowhere_else(planted):
    assert planted.ceiling.tolist() == [1]
    assert lost(planted) == NEEDED
    assert planted.damage().mean[:, 1].max() < 0.2  # as many at random
    low, _ = planted.beyond_control().interval()
    places = (torch.from_numpy(low) > 0).nonzero().tolist()
    assert {(planted.edges[i], j) for i, j in places} == NEEDED
    for edge, layer in NEEDED:
        for curve in (planted.curve(edge), planted.curve(edge, beyond_control=True)):
            assert icl.vectors.locate_peak(curve).interval == (layer, layer)
    assert icl.vectors.locate_peak(planted.curve("s->s")).verdict == "no peak"


def test_the_bypass_is_found_where_it_is_planted():
    found = disconnect(
        planted_circuit.boot(bypass=True), planted_circuit.TASK, edges=["y->s_q", "s->s"],
        windows="layers", n_queries=6, controls=0,
    )  # fmt: skip
    assert lost(found) == {("s->s", planted_circuit.BYPASS_LAYER)}


def test_long_labels_by_both_engines():
    layers = [planted_circuit.COPY_LAYER, planted_circuit.RETRIEVE_LAYER]
    shared, hooks = (
        disconnect(
            planted_circuit.boot(), planted_circuit.LONG_LABELS, edges=["s->y", "y->s_q"],
            windows=[(layer, layer + 1) for layer in layers], n_queries=8, metric=metric,
            engine=engine,
        )
        for engine, metric in (("shared", None), ("hooks", "label_accuracy"))
    )  # fmt: skip
    assert torch.equal(shared.statistics, hooks.statistics)
    assert (shared.provenance["engine"], hooks.provenance["engine"]) == ("shared", "hooks")
    n = shared.damage().mean[:, 0]
    assert n[0, 0] > 0.3 and n[1, 1] > 0.3 and n[0, 1] < 0.1 and n[1, 0] < 0.1


@pytest.mark.parametrize("compat", [None, "cho2025"])
def test_numbers_are_those_of_single_runs(compat):
    """Batches of three, a small budget and the log-probability: prompt by prompt, by hand."""
    model, (below, above) = tiny.boot("llama"), (START, START + 1)
    words = ("sort", "halve", "double", "count", "largest", "repeat")
    others = [icl.Example(f"{word} zero", QUERIES[0].target) for word in words]
    task = icl.Task("t", (*SHOWN, *others), (*QUERIES, *others[:2]), TEMPLATE)
    found = disconnect(
        model, task, edges="x->s", windows=[(below, above + 1)], controls=2, n_shots=3,
        n_queries=4, metric="log_prob", batch_size=3, token_budget=400, compat=compat,
    )  # fmt: skip
    setting = icl.studies.Setting.of(
        task, metric="log_prob", n_queries=4, n_shots=3, choice="balanced", max_new_tokens=1
    )
    batch = setting.prompts(model, 0, instruction=False)
    rules = [lambda layer: CircuitEdges("x->s", compat)] + [
        lambda layer, seed=seed: RandomEdges("x->s", seed, layer, compat) for seed in range(2)
    ]
    each = list[list[float]]()
    for cell, rule in enumerate(rules):
        mask = icl.EdgeMask(rule(below), {below}) | icl.EdgeMask(rule(above), {above})
        each.append([float(icl.score_targets(model, batch.take([row]), mask)) for row in range(4)])
        assert found.statistics[cell, 0, :, 0].tolist() == pytest.approx(each[-1], abs=1e-5)
    assert max(abs(a - b) for a, b in zip(each[1], each[2], strict=True)) > 1e-4
    values = found.statistics[:, 0, :, 0]
    assert found.damage().mean[0, 0, 0] == pytest.approx(float((values[3] - values[0]).mean()))
    beyond = values[1:3].mean(dim=0) - values[0]
    low, high = found.beyond_control().interval()
    mean, half = float(beyond.mean()), 3.182446 * float(beyond.std()) / 2  # Student's, 3 df
    assert (low[0, 0], high[0, 0]) == pytest.approx((mean - half, mean + half), rel=1e-5)


def test_tables(planted):
    frame = planted.to_dataframe()
    assert len(frame) == 5 * 2 * 8
    row = frame[(frame.edge == "s->y") & (frame.arm == "cut") & (frame.window == "3")].iloc[0]
    assert row.score == pytest.approx(1 - row.damage)
    assert row.damage_low < row.damage < row.damage_high
    assert planted.to_xarray()["score"].sel(edge="s->y", arm="cut", window="3").shape == (1,)


def test_curves_are_the_differences():
    value = disconnections()
    for place, edge in enumerate(value.edges):
        for curve, spread in (
            (value.curve(edge), value.damage()[place, 0]),
            (value.curve(edge, beyond_control=True), value.beyond_control()[place]),
        ):
            assert torch.allclose(curve.scores, torch.from_numpy(spread.scores))
            assert torch.allclose(curve.score_interval(), torch.from_numpy(spread.interval()))


def test_windows():
    assert choose_windows("quarters", 32) == ((0, 8), (8, 16), (16, 24), (24, 32), (0, 32))
    assert choose_windows("quarters", 3) == ((0, 1), (1, 2), (2, 3), (0, 3))
    assert choose_windows("quarters", 1) == ((0, 1),)
    assert choose_windows("layers", 2) == ((0, 1), (1, 2))
    assert choose_windows([[0, 2]], 2) == ((0, 2),)


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        ([(3, 9)], r"windows\[0\] is \(3, 9\): expected \(start, stop\) with .* stop <= 8"),
        ([(2, 2)], "0 <= start < stop"),
        ([(1, 2, 3)], r"windows\[0\]"),
        ([], "at least one window"),
        ([(0, 1), (0, 1)], "each once"),
        (9, "whole number"),
        ("halves", "'quarters', 'layers'"),
    ],
)
def test_windows_that_are_none(windows, says):
    with pytest.raises(MaskError, match=says):
        choose_windows(windows, 8)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"edges": "s->x"}, TaskError, "edges is 's->x'"),
        ({"edges": []}, TaskError, "edges"),
        ({"metric": "bleu"}, TaskError, "'bleu' reads generated answers"),
        ({"compat": "cho2024"}, TaskError, "compat is 'cho2024': expected one of 'cho2025'"),
        ({"windows": [(0, 4)]}, MaskError, "windows"),
        ({"controls": -1}, TaskError, "controls"),
        ({"n_shots": 0}, TaskError, "n_shots is 0"),
        ({"task": "prompts"}, TaskError, "prompts of its own"),
    ],
)
def test_what_cannot_be_cut_is_refused(options, error, says):
    task = icl.Task("t", (*SHOWN, *SHOWN), tuple(QUERIES), TEMPLATE)
    if "task" in options:
        options = {"task": icl.Task.from_prompts(prompts())}
    with pytest.raises(error, match=says):
        disconnect(tiny.boot("llama"), **{"task": task, **options})


def test_rules_refuse_what_they_cannot_read():
    with pytest.raises(MaskError, match="which is 'y->x'"):
        CircuitEdges("y->x")
    with pytest.raises(MaskError, match="layer is -1"):
        RandomEdges("s->s", 0, -1)
    positions = Positions(prompts().segments)
    with pytest.raises(MaskError, match="parts and shots"):
        CircuitEdges("s->s")(positions, 3)


def test_results_refuse_what_they_do_not_hold(planted):
    with pytest.raises(ResultError, match="edge is 'y'"):
        planted.curve("y")
    alone = disconnect(
        planted_circuit.boot(), planted_circuit.TASK, edges="s->y", windows=[(0, 8)], controls=0,
        n_queries=2,
    )  # fmt: skip
    for ask in (alone.beyond_control, lambda: alone.curve("s->y", beyond_control=True)):
        with pytest.raises(ResultError, match="control|single ones"):
            ask()
    with pytest.raises(ResultError, match="windows='layers'"):
        alone.curve("s->y")
    fields = {**vars(disconnections())}
    for name, value in (
        ("arms", ("random 0", "cut")), ("windows", ((0, 1), (2, 2))), ("edges", ("x", "s->s")),
        ("edges", ("s->s", "s->s")), ("windows", ((0, 1),)),
    ):  # fmt: skip
        with pytest.raises(ResultError, match=f"{name}|scores"):
            Disconnections(**{**fields, name: value})


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neo"])
def test_the_authors_readout_takes_bare_last_tokens(architecture):
    """The likeliest of the labels' last tokens, behind the prompt, in a plain model's logits."""
    model, batch = tiny.boot(architecture), prompts(name=architecture)
    metric = METRICS["bare_label_accuracy"].bound_to(SHOWN)
    tokens = [model.tokenizer(label).input_ids[-1] for label in metric.labels]
    assert len(tokens) == 2
    mask = icl.EdgeMask(CircuitEdges("x->s", "cho2025"))
    visible = [
        torch.stack(
            [
                oracle.visible_cells(row, set(), window=oracle.window_of(architecture, layer))
                & ~as_cells(cells_of_the_authors(words_of(batch, i), "x->s"), len(row))
                for i, row in enumerate(batch.segments.tolist())
            ]
        )[:, None].expand(-1, tiny.N_HEADS, -1, -1)
        for layer in range(tiny.N_LAYERS)
    ]
    logits = oracle.logits(tiny.build(architecture), batch.tokens, batch.attention_mask, visible)
    chosen = [metric.labels[k] for k in logits[:, -1][:, tokens].argmax(dim=-1).tolist()]
    expected = [float(a == query.target) for a, query in zip(chosen, QUERIES, strict=True)]
    for engine in ("hooks", "shared"):
        (cell,) = run_grid(
            model, batch, [mask], metric, engine=engine, max_new_tokens=1, batch_size=8
        )
        assert cell.statistics[:, 0].tolist() == expected


def test_labels_that_end_alike_cannot_be_read_bare():
    task = icl.Task(
        "t", (icl.Example("sort", "vevo siba"), icl.Example("halve", "begu siba")) * 4,
        (icl.Example("largest", "begu siba"),), TEMPLATE,
    )  # fmt: skip
    with pytest.raises(TaskError, match="end in the same token"):
        disconnect(tiny.boot("llama"), task, compat="cho2025")


def test_the_authors_way_is_taken_where_it_is_asked_for():
    found = disconnect(
        planted_circuit.boot(), planted_circuit.TASK, n_queries=4, compat="cho2025",
        windows=[(0, 8)],
    )  # fmt: skip
    assert found.metric == "bare_label_accuracy"
    assert found.provenance["compat"] == "cho2025"
    assert found.damage().mean[:4, 0].min() > 0.3
