"""Each verdict in the words that a reader sees: printed, in a figure, in a table, on a page."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_locate import result_of, result_with

import icl_locate as icl
from icl_locate import plots
from icl_locate.report.sweep import note_lines, text_table

N = 12
RISE = np.r_[[0.0] * 5, [0.9] * 8]
DIP = np.where(np.arange(N + 1) == 9, 0.4, RISE)
LATE = np.r_[[0.0] * N, 0.9]
FLAT = np.full(N + 1, 0.5)
FALL = np.r_[[0.8] * 6, [0.4] * 7]
KEPT = np.r_[[0.7] * 3, 0.3, 0.1, 0.1, 0.3, [0.72] * 6]
SURE = {"rise": RISE, "dip": DIP, "late": LATE, "flat": FLAT, "fall": FALL, "kept": KEPT}
RECIPE = {"task": "t", "model": "m", "n_shots": 5, "signature": "exact_match|strip"}


def named(result, names):
    return replace(result, conditions=tuple(names), provenance=RECIPE)


@pytest.fixture(scope="module")
def result():
    """Seven conditions: all verdicts, a dip, and a floor that is not the lowest point."""
    sure = result_of(list(SURE.values()), noise=0.05, n_items=40, n_seeds=3)
    slow = result_of([np.r_[[0.0] * 3, [0.8] * 10]], noise=1.2, n_items=40, n_seeds=3, seed=2)
    parts = {
        name: torch.cat([getattr(sure, name), getattr(slow, name)])
        for name in ("statistics", "item_scores", "scores")
    }
    names = (*SURE, "slow")
    return replace(sure, conditions=names, provenance=RECIPE, **parts)


@pytest.fixture(scope="module")
def found(result):
    return {location.condition: location for location in icl.locate(result)}


def test_each_verdict_is_made(found):
    assert {name: location.verdict for name, location in found.items()} == {
        "rise": "recognised", "dip": "recognised", "late": "never recovered",
        "flat": "no effect", "fall": "context harms", "kept": "recognised",
        "slow": "not resolved",
    }  # fmt: skip


def test_what_is_printed():
    """Of curves without noise, word for word."""
    found = icl.locate(named(result_of(list(SURE.values())), SURE))
    assert [str(location) for location in found] == [
        "rise: recognised by layer 5 [5, 5]",
        "dip: recognised by layer 10 [10, 10]; the score falls beyond noise at layer 9",
        "late: never recovered [12, 12]; its context is needed to the end",
        "flat: no effect beyond noise: 0.00 [0.00, 0.00] exact match",
        "fall: context harms: effect -0.40 [-0.40, -0.40] exact match",
        "kept: recognised by layer 7 [7, 7]; hiding it from layer 4 on costs over twice what "
        "hiding it everywhere does: a context read halfway disturbs what the model does without "
        "it; recovery is measured from there",
    ]
    assert [location.place for location in found] == ["5", "10", "12", "", "", "7"]


def test_a_floor_above_the_lowest_point_from_which_recovery_is_measured_nonetheless():
    half = np.r_[[0.3] * 3, [0.1] * 3, [0.9] * 7]
    (found,) = icl.locate(result_of([half], noise=0.05))
    assert found.base == 0 and found.lowest in (3, 4, 5)
    assert str(found).endswith(
        f"; hidden from layer {found.lowest} on, the score falls below the floor: a context read "
        "halfway disturbs what the model does without it"
        + "; the score falls beyond noise at layers "
        + ", ".join(str(layer) for layer in (3, 4, 5) if layer != found.lowest)
    )


def test_layers_between_those_that_ran():
    values = result_of([RISE, LATE])
    few = replace(
        values, layers=(0, 4, 8, 12),
        **{name: getattr(values, name)[:, [0, 4, 8, 12]]
           for name in ("statistics", "item_scores", "scores")},
    )  # fmt: skip
    rise, late = icl.locate(few)
    assert str(rise) == "c0: recognised by one of layers 5 to 8 [5, 8]"
    assert str(late) == (
        "c1: recognised by one of layers 9 to 12 [9, 12]; layer 12 is the end, where nothing is "
        "hidden: it may be never"
    )


def test_start_layers_that_leave_over_half_of_the_layers_open():
    values = result_of([LATE], noise=0.01)
    ends = replace(
        values, layers=(0, 12),
        **{name: getattr(values, name)[:, [0, 12]]
           for name in ("statistics", "item_scores", "scores")},
    )  # fmt: skip
    (found,) = icl.locate(ends)
    assert str(found) == (
        "c0: not resolved: one of layers 1 to 12 [1, 12]; the interval spans over half of the "
        "layers: no start layer between 0 and 12 ran"
    )


def test_a_page_of_a_single_item_speaks_of_no_interval(tmp_path):
    single = named(result_of([RISE], n_items=1), ["rise"])
    page = icl.write_report(single, tmp_path / "page.html").read_text()
    assert "not resolved: the layer has no interval, or one that" in page


def test_never_is_said_with_doubt_where_there_is_any(found):
    late = replace(found["late"], interval=(9, 12))
    assert late.label == "never recovered [9, 12]" and "seems to be needed" in late.notes[0]


def test_units_and_digits(found):
    for effect, worth in [
        ((99.7205, 99.3928, 100.048), "99.7 [99.4, 100.0]"),
        ((9.8105, 1.486, 18.135), "9.8 [1.5, 18.1]"),
        ((1.2345, 1.0, 1.5), "1.23 [1.00, 1.50]"),
        ((0.0031, -0.001, 0.0072), "0.0031 [-0.0010, 0.0072]"),
        ((-0.008, -0.104, 0.087), "-0.01 [-0.10, 0.09]"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
    ]:
        assert replace(found["rise"], effect=effect).worth == worth
    assert str(replace(found["flat"], metric="log_prob", effect=(0.5, -1.0, 2.0))) == (
        "flat: no effect beyond noise: 0.50 [-1.00, 2.00] nats"
    )


def test_how_much_more_would_resolve_it(found):
    slow, wide = found["slow"], "the interval spans over half of the layers"
    assert slow.notes == (f"{wide}; about {slow.enough_items} items would do",)
    assert slow.enough_items > 40 and slow.enough_seeds == 3
    seeds = replace(slow, enough_items=80, enough_seeds=10)
    assert seeds.notes == (
        f"{wide}, and more items alone would not do; about 10 seeds with 80 items would",
    )
    none = replace(slow, enough_items=None, enough_seeds=None)
    assert none.notes == (f"{wide}, and more items and seeds would hardly do",)
    assert replace(none, n_seeds=1).notes == (f"{wide}, and more items would hardly do",)


def seeds_differ(n_seeds, n_items, seed):
    """A slow rise, on which seeds differ more than items do."""
    curve = result_of([np.linspace(0, 0.8, 9)], noise=0.2, n_items=n_items, n_seeds=n_seeds)
    shift = 0.25 * np.random.default_rng(seed).normal(size=(1, 9, n_seeds, 1))
    return icl.locate(result_with(curve.item_scores.numpy() + shift))[0]


def test_seeds_are_asked_for_where_items_would_not_do():
    found = [seeds_differ(3, 40, seed) for seed in range(12)]
    asked = [location for location in found if location.enough_seeds not in (None, 3)]
    assert asked and {location.enough_seeds for location in asked} <= {5, 10, 20}
    assert all(location.verdict == "not resolved" for location in asked)
    again = [seeds_differ(p.enough_seeds, p.enough_items, seed) for seed, p in enumerate(asked)]
    assert all(location.verdict != "not resolved" for location in again)


def test_one_seed_says_nothing_of_others(found):
    slow = result_of([np.r_[[0.0] * 3, [0.8] * 10]], noise=1.2, n_items=40, n_seeds=1, seed=2)
    assert {location.enough_seeds for location in icl.locate(slow)} <= {None, 1}


def traces(figure, condition, mode="markers"):
    return [t for t in figure.data if t.legendgroup == condition and t.mode == mode]


def test_the_figure_says_each_verdict(result, found):
    figure = plots.layer_curves(result, list(found.values()))
    names = {name: traces(figure, name, "lines+markers")[0].name for name in found}
    assert names == {name: f"{name}<br>{location.label}" for name, location in found.items()}
    assert names["late"].startswith("late<br>never recovered [")
    assert names["slow"].startswith("slow<br>not resolved: layer ")
    symbols = {name: [t.marker.symbol for t in traces(figure, name)] for name in found}
    assert symbols == {
        "rise": ["diamond"], "dip": ["diamond", "triangle-down"], "late": ["square"],
        "flat": [], "fall": [], "kept": ["diamond"], "slow": ["diamond-open"],
    }  # fmt: skip
    assert [traces(figure, name)[0].x[0] for name in ("dip", "late")] == [10, N]
    text = figure.layout.annotations[-1].text.replace("<br>", " ")
    for word in (
        "95 % intervals over items and seeds", "diamond: 90 % recovered for good",
        "open diamond: not resolved", "square: never recovered", "triangle: falls beyond noise",
    ):  # fmt: skip
        assert word in text
    assert "bootstrap" not in figure.to_json() and figure.layout.height == 645
    assert figure.layout.xaxis.range[1] < N + 1, "no tick at a layer that there is not"


def test_the_figure_marks_the_layers_at_which_a_score_falls(result, found):
    figure = plots.layer_curves(result, list(found.values()))
    _, dips = traces(figure, "dip")
    assert list(dips.x) == [9] and dips.y[0] == pytest.approx(float(found["dip"].scores[9]))
    assert "falls beyond noise" in dips.hovertemplate


def test_the_bar_goes_on_to_the_upper_end_with_no_shape_assumed(result, found):
    location = replace(found["rise"], upper_any=9)
    figure = plots.layer_curves(result, [location, found["late"]])
    (dotted,) = traces(figure, "rise", "lines")[1:]  # the first is the band
    assert list(dotted.x) == [5, 9] and dotted.line.dash == "dot"
    assert len(traces(figure, "late", "lines")) == 1, "its interval ends there, too"
    assert "dotted: upper end with no shape" in figure.layout.annotations[-1].text
    assert "with no shape assumed: by layer 9" in traces(figure, "rise")[0].hovertemplate


def test_a_caption_says_only_what_is_there(result, found):
    text = plots.caption(result, [found["flat"]])
    assert text.endswith("no layer: no effect")
    assert "triangle" not in plots.caption(result, [found["rise"]])


def remarks(result, location):
    """What the curve's hover text says of recovery, without the numbers."""
    shown = traces(plots.layer_curves(result, [location]), location.condition, "lines+markers")
    return [words.partition(": ")[2] for _, _, words in shown[0].customdata]


def test_hover_text_goes_with_the_verdict(result, found):
    late, dip = remarks(result, found["late"]), remarks(result, found["dip"])
    assert late == ["not yet recovered"] * N + [""]
    assert dip[:5] == ["not yet recovered"] * 5 and dip[5:9] == ["not for good"] * 4
    assert dip[9] == "falls beyond noise" and dip[10:] == [""] * 3
    assert set(remarks(result, found["flat"])) == {"no effect"}
    assert set(remarks(result, found["fall"])) == {"context harms"}


def test_a_layer_just_below_the_threshold_behind_the_recognition_layer(result, found):
    """It is recovered: what is missing is noise."""
    recovery = found["rise"].recovery.clone()
    recovery[7] = 0.89
    said = remarks(result, replace(found["rise"], recovery=recovery))
    assert said[7] == "below the threshold, within noise" and said[6] == said[8] == ""


def test_the_table_and_its_notes_fit_a_terminal(found):
    lines = text_table(list(found.values())).splitlines()
    assert max(map(len, lines)) <= 120
    rows = {line.split()[0]: line for line in lines[3:10]}
    assert lines[1].split()[:4] == ["hidden", "verdict", "layer", "interval"]
    assert rows["rise"].split()[:5] == ["rise", "recognised", "5", "5-5", "5"]
    assert rows["late"].split()[:5] == ["late", "never", "recovered", "12", "12-12"]
    for name, verdict in (("flat", "no effect"), ("fall", "context harms")):
        assert verdict in rows[name] and rows[name].count("[") == 1
    assert "not resolved" in rows["slow"] and found["slow"].worth in rows["slow"]
    below = "\n".join(lines[10:])
    assert "dip: the score falls beyond noise at layer 9" in below and "any shape" in below
    assert [line.split(":")[0] for line in note_lines(list(found.values()))] == [
        "dip", "late", "kept", "slow",
    ]  # fmt: skip


def test_the_page_says_each_verdict_and_what_it_means(result, found, tmp_path):
    page = icl.write_report(result, tmp_path / "page.html", list(found.values())).read_text()
    table = page[page.index("<table>") :]
    for verdict in ("recognised", "never recovered", "no effect", "context harms", "not resolved"):
        assert f"<td>{verdict}</td>" in table and f"{verdict}: " in table
    assert "<li>dip: the score falls beyond noise at layer 9</li>" in table
    few = icl.write_report(result, tmp_path / "few.html", [found["rise"]]).read_text()
    table = few[few.index("<table>") :]
    assert "context harms: " not in table and "<li>rise: " not in table


def test_shots_are_said_in_the_same_words(result, found):
    figure = plots.shots_curves({1: result, 5: result}, "late")
    names = [trace.name for trace in figure.data if trace.mode == "lines+markers"]
    assert names == [f"{n}: {found['late'].label}" for n in (1, 5)]
