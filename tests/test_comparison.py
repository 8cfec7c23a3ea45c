"""Comparison: simulated pairs of known difference, intervals by loops, and what is refused."""

import itertools
from dataclasses import replace

import anova
import numpy as np
import pytest
import torch
from scipy.stats import norm
from test_locate import result_of, result_with

import icl_locate as icl
from icl_locate import plots
from icl_locate.cli import main
from icl_locate.errors import ResultError
from icl_locate.report.differences import difference_rows

DRAWS = 300


def rising(n, layer, floor=0.1, ceiling=0.85, over=3):
    """A curve that rises for some layers and is at its ceiling from one on: recognised there."""
    return floor + (ceiling - floor) * np.clip((np.arange(n + 1) - layer + over) / over, 0, 1)


class Simulated:
    """What decides whether items are answered rightly, drawn once: items, seeds, item by seed.

    An answer is right if a sum of normal numbers, of variance 1, lies above 0; the last two, of
    seeds and of single answers, are each sweep's own. So a layer's expected score, over all items
    and seeds that might have been drawn, is known.
    """

    def __init__(self, n_items, n_seeds, generator, like=None, shares=(0.4, 0.05, 0.2, 0.05, 0.3)):
        self.items = generator.normal(size=n_items) if like is None else like.items
        self.seeds = generator.normal(size=(n_seeds, 1))
        self.rest = generator.normal(size=(n_seeds, n_items))
        self.generator, self.shares = generator, np.sqrt(shares)

    def sweep(self, curve, *, seeds=None, items="item", **changes):
        """A sweep with this expected curve; with other labels it seems to share nothing."""
        own = self.generator.normal(size=self.seeds.shape)
        single = self.generator.normal(size=(len(curve), *self.rest.shape))
        parts = self.items, self.seeds, self.rest, own, single
        drawn = sum(share * part for share, part in zip(self.shares, parts, strict=True))
        right = norm.ppf(curve)[:, None, None] + drawn > 0
        return replace(
            result_with(right[None].astype(float), task="simulated"),
            seeds=tuple(range(len(self.seeds))) if seeds is None else seeds,
            sources=tuple(f"{items} {i}" for i in range(len(self.items))),
            **changes,
        )


def simulated_pair(curves, paired, seed, n_items=48, n_seeds=3, **options):
    """Two sweeps that share as much."""
    generator = np.random.default_rng(seed)
    one = Simulated(n_items, n_seeds, generator, **options)
    if paired == "items and seeds":
        return one.sweep(curves[0]), one.sweep(curves[1])
    like = one if paired == "items" else None
    other = Simulated(n_items, n_seeds, generator, like, **options)
    items = "item" if paired == "items" else "another"
    return one.sweep(curves[0]), other.sweep(curves[1], seeds=(7, 8, 9)[:n_seeds], items=items)


@pytest.mark.parametrize("paired", ["items and seeds", "items", "nothing"])
def test_intervals_cover_what_is_true(paired):
    covered, said, curves, effects = {0: [], 2: [], 5: []}, {0: [], 2: [], 5: []}, [], []
    for apart, seed in itertools.product(covered, range(40)):
        true = rising(10, 4 + apart, ceiling=0.8), rising(10, 4)
        found = icl.compare(
            *simulated_pair(true, paired, (seed, apart)), n_resamples=DRAWS, seed=seed
        )[0]
        assert found.paired == paired
        covered[apart].append(found.interval[0] <= apart <= found.interval[1])
        said[apart].append(found.verdict)
        low, high = found.score_interval.numpy()
        curves += [*(low <= true[0] - true[1]) & (true[0] - true[1] <= high)]
        effects.append(found.effect[1] <= -0.05 <= found.effect[2])
    assert all(np.mean(each) >= 0.93 for each in covered.values()), covered
    assert 0.92 <= np.mean(curves) <= 0.98 and np.mean(effects) >= 0.92
    wrongly = sum(word != "no difference shown" for word in said[0])
    assert wrongly <= 0.05 * len(said[0])
    assert "earlier" not in said[2] + said[5] and said[5].count("later") >= 30


SHARED = (0.7, 0.02, 0.27, 0.0, 0.01)
"""Of simulated answers: nearly all that decides them is the same for both sweeps."""


def test_what_is_shared_makes_intervals_narrower():
    """The same numbers once more, with names that say that nothing is."""
    layers, scores, effects = [], [], []
    for seed in range(25):
        curves = rising(12, 6, over=6), rising(12, 6, over=6)
        a, b = simulated_pair(curves, "items and seeds", seed, n_items=32, shares=SHARED)
        apart = replace(b, sources=tuple(f"another {i}" for i in range(32)))
        pair = [icl.compare(a, other, n_resamples=DRAWS)[0] for other in (b, apart)]
        assert [found.paired for found in pair] == ["items and seeds", "nothing"]
        assert pair[0].layer == pair[1].layer and torch.equal(pair[0].scores, pair[1].scores)
        layers.append([found.interval[1] - found.interval[0] for found in pair])
        scores.append([float(found.score_interval.diff(dim=0).mean()) for found in pair])
        effects.append([found.effect[2] - found.effect[1] for found in pair])
    for widths, share in (layers, 0.85), (scores, 0.6), (effects, 0.6):
        narrow, wide = np.mean(widths, axis=0)
        assert narrow < share * wide, (narrow, wide)


def test_a_sweep_is_no_later_than_itself():
    curves = [[0, 0.1, 0.5, 0.92, 1, 1], [0, 0.7, 0.8, 0.92, 1, 1]]
    result = result_of(curves, noise=0.4, n_items=40, n_seeds=4)
    for found in icl.compare(result, result):
        assert (found.layer, found.interval) == (0, (0, 0)) and found.paired == "items and seeds"
        assert (found.depth, found.depth_interval) == (0, (0, 0))
        assert not found.scores.any() and not found.score_interval.any()
        assert found.effect == (0, 0, 0) and found.verdict == "no difference shown"
        alone = found.locations[0].interval
        assert alone[0] < alone[1], "it is not that nothing is uncertain"


def test_each_side_is_located_as_it_is_alone():
    a, b = simulated_pair((rising(10, 6), rising(10, 4)), "items", 0)
    found = icl.compare(a, b, threshold=0.8, confidence=0.9, n_resamples=50, seed=3)[0]
    alone = [
        icl.locate(each, threshold=0.8, confidence=0.9, n_resamples=50, seed=3)[0]
        for each in (a, b)
    ]
    assert [str(each) for each in found.locations] == [str(each) for each in alone]
    assert found.layer == alone[0].layer - alone[1].layer and found.confidence == 0.9
    assert torch.allclose(found.scores, alone[0].scores - alone[1].scores)
    assert found.effect[0] == pytest.approx(alone[0].effect[0] - alone[1].effect[0])
    assert str(found) != str(icl.compare(a, b)[0]), "the options are heard"


@pytest.mark.parametrize("paired", ["items and seeds", "items", "nothing"])
def test_swapped_sides_turn_the_sign(paired):
    a, b = simulated_pair((rising(10, 7), rising(10, 4)), paired, 1)
    there, back = icl.compare(a, b)[0], icl.compare(b, a)[0]
    assert (there.layer, there.depth) == (-back.layer, -back.depth) and there.layer == 3
    assert (there.verdict, back.verdict) == ("later", "earlier")
    assert torch.equal(there.scores, -back.scores)
    assert torch.allclose(there.score_interval, -back.score_interval.flip(0))
    assert there.effect == pytest.approx([-back.effect[i] for i in (0, 2, 1)])
    assert there.locations[0].layer == back.locations[1].layer == there.locations[1].layer + 3
    if paired == "items and seeds":
        assert there.interval == (-back.interval[1], -back.interval[0])
        assert there.depth_interval == (-back.depth_interval[1], -back.depth_interval[0])


def by_loops(a, b, paired, confidence=0.95):
    """Student's interval of a difference of mean scores, [seed][item] of a mean each."""
    one, other = anova.of_mean(a), anova.of_mean(b)
    apart = np.mean(one[0]) - np.mean(other[0])
    if paired == "items and seeds":
        return anova.interval(anova.contrast([one, other], [1, -1]), confidence)
    if paired == "nothing":
        parts = anova.variance(one), anova.variance(other)
        return anova.around(apart, *map(sum, zip(*parts, strict=True)), confidence)
    n_items = len(a[0])
    items = [
        np.mean([row[i] for row in a]) - np.mean([row[i] for row in b]) for i in range(n_items)
    ]
    value = sum((each - apart) ** 2 for each in items) / (n_items - 1) / n_items
    doubt = value**2 / (n_items - 1)
    for cell in (one, other):
        n_seeds = len(cell[0])
        _, seeds, rest = (part / (n_items * n_seeds) for part in anova.products(cell, cell))
        if n_seeds > 1:
            value += max(0.0, seeds - rest)
            doubt += seeds**2 / (n_seeds - 1) + rest**2 / ((n_items - 1) * (n_seeds - 1))
    return anova.around(apart, value, doubt, confidence)


@pytest.mark.parametrize("paired", ["items and seeds", "items", "nothing"])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_intervals_of_scores_and_effects_equal_loops(paired, n_seeds):
    curves = rising(5, 4), rising(5, 3)
    a, b = simulated_pair(curves, paired, 5, n_items=7, n_seeds=n_seeds)
    found = icl.compare(a, b, confidence=0.8)[0]
    one, other = a.item_scores[0].tolist(), b.item_scores[0].tolist()
    wanted = [by_loops(*cells, paired, 0.8) for cells in zip(one, other, strict=True)]
    assert found.score_interval.T.tolist() == [pytest.approx(each) for each in wanted]
    worth = [(a.item_scores[0, -1] - a.item_scores[0, 0]).tolist()]
    worth += [(b.item_scores[0, -1] - b.item_scores[0, 0]).tolist()]
    assert found.effect[1:] == pytest.approx(by_loops(*worth, paired, 0.8))


def shuffled(result, items, seeds):
    """The same sweep, had it asked its items, and drawn its examples, in another order."""
    return replace(
        result,
        seeds=tuple(result.seeds[j] for j in seeds),
        sources=tuple(result.sources[i] for i in items),
        targets=tuple(result.targets[i] for i in items),
        statistics=result.statistics[:, :, seeds][:, :, :, items],
        item_scores=result.item_scores[:, :, seeds][..., items],
        scores=result.scores[..., seeds],
    )


def test_items_and_seeds_in_another_order_are_the_same():
    a, b = simulated_pair((rising(8, 5), rising(8, 4)), "items and seeds", 2, n_items=12)
    order = np.random.default_rng(0).permutation(12)
    assert str(icl.compare(a, shuffled(b, order, [2, 0, 1]))[0]) == str(icl.compare(a, b)[0])
    found = icl.compare(a, shuffled(a, order, [1, 2, 0]))[0]
    assert found.paired == "items and seeds" and found.interval == (0, 0)
    assert found.score_interval.abs().max() < 1e-12


def test_what_counts_as_shared():
    a, b = simulated_pair((rising(8, 5), rising(8, 4)), "items and seeds", 2, n_items=12)
    task = {"task": "another"}
    fewer = shuffled(b, list(range(11)), [0, 1, 2])
    renamed = replace(b, targets=("else", *b.targets[1:]))
    cases = {
        "items and seeds": [b, replace(b, provenance={**b.provenance, "n_shots": 1})],
        "items": [replace(b, provenance=task), replace(b, seeds=(0, 1, 5)),
                  shuffled(b, list(range(12)), [0, 2])],
        "nothing": [fewer, renamed],
    }  # fmt: skip
    for shared, others in cases.items():
        assert {icl.compare(a, other, n_resamples=20)[0].paired for other in others} == {shared}
    alone = replace(result_of([[0, 1.0, 1], [0, 0, 1]], noise=0.2), conditions=("x", "y"))
    assert icl.compare(alone)[0].paired == "items and seeds"


def test_conditions_of_one_sweep_or_of_two():
    curves = [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1], [0.5] * 4]
    a = replace(result_of(curves, noise=0.01), conditions=tuple("wxyz"))
    pairs = {found.names: found.layer for found in icl.compare(a)}
    assert list(pairs) == list(itertools.combinations("wxyz", 2))
    assert [pairs["w", "x"], pairs["w", "y"], pairs["x", "y"], pairs["x", "z"]] == [1, 2, 1, None]
    assert [each.names for each in icl.compare(a, conditions=["y", "x"])] == [("y", "x")]
    b = replace(result_of(curves[1:], noise=0.01), conditions=("x", "y", "v"))
    found = {each.names: each.layer for each in icl.compare(a, b)}
    assert found == {("x (first)", "x (second)"): 0, ("y (first)", "y (second)"): 0}
    assert len(icl.compare(a, b, conditions="y")) == len(icl.compare(a, b, conditions=["y"])) == 1


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"model": "m"}, {"model": "n"}, ("c0 (m)", "c0 (n)")),
        ({"n_shots": 5}, {"n_shots": 1}, ("c0 (5 shots)", "c0 (1 shot)")),
        ({"model": "m", "revision": "a"}, {"model": "m", "revision": "b"}, ("c0 (a)", "c0 (b)")),
        (
            {"task": "s", "n_shots": 2, "model": "m"},
            {"task": "t", "n_shots": 3, "model": "m"},
            ("c0 (s, 2 shots)", "c0 (t, 3 shots)"),
        ),
        ({}, {}, ("c0 (first)", "c0 (second)")),
    ],
)
def test_names_say_what_tells_two_sweeps_apart(first, second, names):
    result = result_of([[0, 0, 1.0]], noise=0.01)
    pair = [replace(result, provenance=recipe) for recipe in (first, second)]
    found = icl.compare(*pair)[0]
    assert found.names == names and found.recipes == (first, second)


def at_layers(result, layers):
    """A sweep of some start layers alone."""
    return replace(
        result,
        layers=tuple(layers),
        statistics=result.statistics[:, layers],
        item_scores=result.item_scores[:, layers],
        scores=result.scores[:, layers],
    )


def test_some_start_layers_leave_open_what_lies_between_them():
    a = result_of([[0, 0, 0, 0, 0, 0, 0, 1, 1]], noise=0.01)
    b = result_of([[0, 0, 1, 1, 1, 1, 1, 1, 1]], noise=0.01)
    exact = icl.compare(a, b)[0]
    assert (exact.layer, exact.interval) == (5, (5, 5)) and exact.scores is not None
    found = icl.compare(at_layers(a, [0, 4, 8]), b)[0]
    assert (found.layer, found.interval) == (6, (3, 6)), "one of 5 to 8, and 2"
    assert (found.depth, found.depth_interval) == (6 / 8, (3 / 8, 6 / 8))
    assert found.scores is None and found.score_interval is None
    assert found.effect[1] < 0.01 < 1 - found.effect[2], "they need no start layers between"
    found = icl.compare(at_layers(a, [0, 4, 8]), at_layers(b, [0, 4, 8]))[0]
    assert (found.layer, found.interval) == (4, (1, 7)), "one of 5 to 8, and one of 1 to 4"
    assert found.verdict == "later" and found.scores.shape == (3,)
    found = icl.compare(at_layers(a, [0, 6, 8]), at_layers(a, [0, 6, 8]))[0]
    assert (found.layer, found.interval) == (0, (-1, 1))


def test_models_of_different_depth_are_compared_in_both_units():
    """Layer 5 of 6 and layer 9 of 12: earlier in layers, later in shares of the depth."""
    a = result_of([[0, 0, 0, 0, 0, 1, 1]], noise=0.01)
    b = result_of([[0.0] * 9 + [1, 1, 1, 1]], noise=0.01)
    found = icl.compare(a, b)[0]
    assert (found.layer, found.interval) == (-4, (-4, -4)) and found.verdict == "earlier"
    assert found.depth == pytest.approx(5 / 6 - 9 / 12)
    assert found.depth_interval == pytest.approx((1 / 12, 1 / 12))
    assert found.n_layers == (6, 12) and found.scores is None
    said = "4 layers earlier [4, 4] (5 against 9), 0.0833 of the depth later [0.0833, 0.0833]"
    assert said in str(found)


def test_a_sentence_says_it():
    result = result_of([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0.5] * 5, [1.0, 1, 1, 1, 0.5]])
    result = replace(result, conditions=tuple("abcd"))
    said = [str(found) for found in icl.compare(result, conditions=["a", "b", "c", "d"])]
    assert said == [
        "a against b: 2 layers later [2, 2] (3 against 1), same items and seeds",
        "a against c: not comparable (the second: no effect)",
        "a against d: not comparable (the second: context harms)",
        "b against c: not comparable (the second: no effect)",
        "b against d: not comparable (the second: context harms)",
        "c against d: not comparable (the first: no effect; the second: context harms)",
    ]
    back = icl.compare(result, conditions=["b", "a"])[0]
    assert str(back) == "b against a: 2 layers earlier [2, 2] (1 against 3), same items and seeds"
    same = icl.compare(result, replace(result, seeds=(3, 4)), conditions="a")[0]
    wanted = "a (first) against a (second): no difference shown: 0 layers [0, 0] (3 against 3)"
    assert str(same) == f"{wanted}, same items"
    other = icl.compare(result, replace(result, sources=("x",) * 20), conditions="a")[0]
    assert str(other) == f"{wanted}, other items"


def test_what_has_no_layer_still_has_curves():
    found = icl.compare(replace(result_of([[0, 0, 1.0], [0.5] * 3]), conditions=("x", "y")))[0]
    assert found.verdict == "not comparable"
    assert (found.layer, found.interval, found.depth, found.depth_interval) == (None,) * 4
    assert found.scores.tolist() == [-0.5, -0.5, 0.5] and found.effect[0] == 1


RESULT = result_of([[0, 0.1, 1, 1]], noise=0.1)


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        ({}, {"threshold": 0.0}, "threshold is 0.0"),
        ({}, {"confidence": 1.0}, "confidence is 1.0"),
        ({}, {"n_resamples": 0}, "n_resamples is 0"),
        ({}, {"conditions": "c1"}, r"conditions is \['c1'\]: expected one or more of both sweeps"),
        ({}, {"conditions": []}, r"conditions is \[\]"),
        ({}, {"conditions": ["c0", "c0"]}, "each once; result_a has 'c0'; result_b has 'c0'"),
        (None, {}, "result_a has 'c0' alone: expected two conditions or more, or a result_b"),
        (None, {"conditions": "c0"}, "expected two or more of one sweep, each once; result_a has"),
        ({"conditions": ("x",)}, {}, "no condition is in both.*has 'c0'; result_b has 'x'"),
        ({"metric": "bleu"}, {}, "statistics"),
        ({"provenance": {"signature": "v2"}}, {}, r"exact_match \(None\).*exact_match \(v2\)"),
        ({"provenance": {"scope": "only"}}, {}, "scope is 'only'.*layer_importance"),
    ],
)
def test_what_cannot_be_compared(other, options, message):
    with pytest.raises(ResultError, match=message):
        icl.compare(RESULT, None if other is None else replace(RESULT, **other), **options)


def test_other_metrics_and_single_items_are_refused():
    for name in ("log_prob", "chrf"):
        columns = 2 if name == "log_prob" else 18
        table = torch.ones(1, 4, 2, 20, columns, dtype=torch.float64)
        other = replace(RESULT, metric=name, statistics=table)
        with pytest.raises(ResultError, match=f"exact_match .* result_b by {name} .* two metrics"):
            icl.compare(RESULT, other)
    single = result_of([[0, 0.1, 1, 1]], n_items=1)
    for pair, name in ((single, RESULT), "result_a"), ((RESULT, single), "result_b"):
        with pytest.raises(ResultError, match=f"{name} has one item: expected two or more"):
            icl.compare(*pair)


def test_a_figure_shows_the_numbers():
    curves = [[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0.5] * 6]
    recipe = {"task": "t", "model": "m", "n_shots": 5, "seeds": [0, 1], "signature": "sig"}
    result = result_of(curves, noise=0.2, n_seeds=4, seed=1)
    result = replace(result, conditions=("late", "early", "flat"), provenance=recipe)
    differences = icl.compare(result)
    assert [found.layer for found in differences] == [2, None, None]
    figure = plots.layer_differences(differences)
    points = [trace for trace in figure.data if trace.error_x.array is not None]
    assert [trace.x[0] for trace in points] == [differences[0].layer]
    low, high = differences[0].interval
    assert points[0].x[0] + points[0].error_x.array[0] == high
    assert points[0].x[0] - points[0].error_x.arrayminus[0] == low
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [list(line.y) for line in lines] == [found.scores.tolist() for found in differences]
    for line, found in zip(lines, differences, strict=True):
        assert [list(pair) for pair in line.customdata] == found.score_interval.T.tolist()
    dots = [trace.x[0] for trace in figure.data if trace.marker.color == "black"]
    layers = [each.layer for found in differences for each in found.locations]
    assert dots == [layer for layer in layers if layer is not None]
    texts = [note.text for note in figure.layout.annotations]
    for found, text in zip(differences, texts, strict=False):
        assert text.replace("<b>", "").replace("</b><br>", ": ") == str(found)
    assert "5 shots, 20 queries, seeds 0, 1; sig" in texts[-1] and "95 %" in texts[-1]
    assert figure.layout.title.text == "t, m"
    with pytest.raises(ResultError, match="differences is"):
        plots.layer_differences([])


def test_a_figure_without_curves():
    short = at_layers(RESULT, [0, 2, 3])
    figure = plots.layer_differences(icl.compare(RESULT, short))
    assert not [trace for trace in figure.data if trace.mode == "lines+markers"]
    words = [trace.text[0] for trace in figure.data if trace.mode == "text"]
    assert len(words) == 1 and words[0].startswith("other start layers: no curve")


def test_the_command_compares_what_sweeps_wrote(tmp_path, capsys):
    pair = simulated_pair((rising(8, 6), rising(8, 4)), "items and seeds", 0)
    for name, result in zip("ab", pair, strict=True):
        result.save(tmp_path / name / "result.safetensors")
    output = tmp_path / "out"
    places = [str(tmp_path / "a"), str(tmp_path / "b" / "result.safetensors")]
    assert main(["compare", *places, "--output", str(output), "--threshold", "0.8"]) == 0
    printed = capsys.readouterr().out
    found = icl.compare(*pair, threshold=0.8)
    assert printed.startswith(f"{found[0]}\n") and "differences.html" in printed
    header, *rows = (output / "differences.csv").read_text().splitlines()
    assert header.startswith("first,second,first_layer,second_layer,verdict,shared,layers,")
    assert len(rows) == 1 and f"later,items and seeds,{found[0].layer}," in rows[0]
    page = (output / "differences.html").read_text()
    assert all(cell in page for cell in difference_rows(found)[0]) and "simulated" in page
    assert main(["compare", places[0], "--output", str(output)]) == 2
    assert "result_a has 'c0' alone" in capsys.readouterr().err
