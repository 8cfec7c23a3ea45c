"""Figures: what they show is what the result says."""

import pytest
import saved_kinds
import tiny
import torch
from test_locate import result_of

import icl_locate as icl
from icl_locate import Segment, plots, vectors
from icl_locate.errors import PromptError, ResultError
from icl_locate.induction.arms import Arm
from icl_locate.induction.result import AblationResult
from icl_locate.plots import frame
from icl_locate.report.figures import html_figure
from icl_locate.report.sweep import text_table

RESULT = result_of([[0, 0.1, 0.9, 1.0], [0.5] * 4], noise=0.1)
ARMS = [Arm("none", "full", 0.0, 0, ())]
ARMS += [
    Arm("zero", kind, share, 0, ((0, 0),))
    for share in (0.01, 0.03)
    for kind in ("induction", "random")
]
STUDY = AblationResult(
    tuple(ARMS), (5,), (0, 1), torch.ones(5, 1, 2, 4, 2), torch.ones(5, 1, 2), "exact_match", {}
)


def test_layer_curves_show_the_numbers():
    locations = icl.locate(RESULT)
    figure = plots.layer_curves(RESULT, locations)
    lines = {trace.legendgroup: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert set(lines) == {"c0", "c1"}
    for location in locations:
        trace = lines[location.condition]
        assert list(trace.x) == [0, 1, 2, 3]
        assert list(trace.y) == pytest.approx(location.scores.tolist())
        low, high, recovery = zip(*trace.customdata, strict=True)
        assert all(word.endswith("not yet recovered") for word in recovery[: location.layer or 0])
        assert not any("not yet" in word for word in recovery[location.layer or 0 :])
        assert list(low) == pytest.approx(location.score_interval[0].tolist())
        assert all(a <= b for a, b in zip(low, high, strict=True))
    assert lines["c0"].name.startswith("c0<br>recognised by layer 2 [")
    assert lines["c1"].name == "c1<br>no effect"
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [list(mark.x) for mark in marks] == [[locations[0].layer]], "none without an effect"
    dashed = [shape for shape in figure.layout.shapes if shape.line.dash == "dash"]
    assert sorted(shape.y0 for shape in dashed) == pytest.approx(
        sorted(location.ceiling for location in locations)
    )
    assert "95 % intervals over items and seeds" in figure.layout.annotations[-1].text


def test_no_rounding_turns_a_share_into_recovery():
    found = icl.locate(result_of([[0, 0.8999, 0.9001, 1.0]]))
    shown = plots.layer_curves(RESULT, found).data[1].customdata
    assert [word for _, _, word in shown] == [
        "0.000: not yet recovered",
        "0.900: not yet recovered",
        "0.900",
        "1.000",
    ]


def test_no_diamond_hides_another():
    """Six conditions on two curves: six diamonds, apart by more than half their size."""
    early, late = [0, 0.99, 1, 1, 1.0], [0, 0, 0, 0.99, 1.0]
    found = icl.locate(result_of([early, late] * 3))
    figure = plots.layer_curves(result_of([early, late] * 3), found)
    marks = [(trace.x[0], trace.y[0]) for trace in figure.data if trace.mode == "markers"]
    assert [x for x, _ in marks] == [location.layer for location in found] == [1, 3] * 3
    for i, (x, y) in enumerate(marks):
        assert all(abs(y - b) > 0.05 for a, b in marks[:i] if a == x)
    alone = [mark.y[0] for mark in plots.layer_curves(RESULT).data if mark.mode == "markers"]
    assert alone == [float(icl.locate(RESULT)[0].scores[2])], "one that hides none is on its curve"


@pytest.mark.parametrize("height", [450, 600, 1300])
def test_captions_fit_below_the_axis(height):
    """In pixels, so that they fit whatever the height; long lines are broken."""
    figure = plots.layer_curves(RESULT)
    figure.update_layout(height=height)
    note = figure.layout.annotations[-1]
    lines = note.text.split("<br>")
    assert note.yref == "paper" and note.y == 0 and note.yanchor == "top"
    assert figure.layout.margin.b >= -note.yshift + 13 * len(lines)
    assert -note.yshift >= 60, "below the axis' title"
    frame.add_caption(figure, "word " * 100)
    assert max(map(len, figure.layout.annotations[-1].text.split("<br>"))) <= 125


@pytest.mark.parametrize("most", [1, 8, 16, 17, 48, 126, 5000])
def test_axes_of_layers_have_whole_ticks(most):
    step = frame.count_axis("layer", most)["dtick"]
    assert step == int(step) >= 1 and most / step <= 16


def test_shares_of_heads_have_ticks_of_their_own():
    """At half per cents, rounded to whole ones: 0 % 0 % 1 % 2 % 2 % 2 % 3 %."""
    figure = plots.fraction_curves(STUDY)
    assert figure.layout.xaxis.tickformat == ".4~%"


def test_no_figure_in_a_page_offers_to_upload():
    """plotly.js 4 does so unless told otherwise."""
    html = html_figure(plots.layer_curves(RESULT), "curves")
    assert '"showSendToCloud": false' in html


def test_no_locations_given_means_computed():
    assert plots.layer_curves(RESULT, []).to_json() == plots.layer_curves(RESULT).to_json()


def test_conditions_differ_in_colour_and_dash():
    figure = plots.layer_curves(result_of([[0, i / 6] for i in range(6)]))
    lines = [trace.line for trace in figure.data if trace.mode == "lines+markers"]
    assert len({line.color for line in lines}) == len({line.dash for line in lines}) == 6


def test_figures_are_neither_shown_nor_written(monkeypatch, tmp_path):
    import plotly.graph_objects as go

    def refuse(*arguments, **options):
        raise AssertionError("a figure function must only return")

    monkeypatch.chdir(tmp_path)
    for name in ("show", "write_image", "write_html"):
        monkeypatch.setattr(go.Figure, name, refuse)
    plots.layer_curves(RESULT)
    assert not list(tmp_path.iterdir())


def test_prompt_segments_shows_every_token():
    model = tiny.boot("llama")
    bank = [icl.Example("sort thin", "zimo")]
    prompts = icl.build_prompts(
        model,
        [icl.Example("zero", "rovu"), icl.Example("zero one sort", "rovu")],
        examples=bank,
        n_shots=1,
        template=icl.PromptTemplate("Translate English to <b>:"),
    )
    figure = plots.prompt_segments(model, prompts)
    n_real = int(prompts.attention_mask[0].sum())
    assert len(figure.layout.annotations) == n_real
    by_segment = {trace.name: len(trace.x) for trace in figure.data}
    for segment in (Segment.BOS, Segment.INSTRUCTIONS, Segment.EXAMPLES, Segment.QUERY):
        assert by_segment[segment.name] == int((prompts.segments[0] == segment).sum())
    hover = " ".join(text for trace in figure.data for text in trace.hovertext)
    assert "EXAMPLES, target, example 1" in hover and "⏎" in hover
    assert "&lt;" in " ".join(annotation.text for annotation in figure.layout.annotations)
    with pytest.raises(PromptError, match="index is 2: expected a whole number from 0 to 1"):
        plots.prompt_segments(model, prompts, 2)


def test_text_table():
    lines = text_table(icl.locate(RESULT)).splitlines()
    assert lines[1].startswith("hidden") and set(lines[2]) == {"-", " "} and not lines[5]
    assert "no effect" in lines[4] and lines[3].split()[:3] == ["c0", "recognised", "2"]
    assert max(map(len, lines)) <= 120


def traces_of(figure, mode="lines+markers"):
    return {trace.name: trace for trace in figure.data if trace.mode == mode and trace.name}


def bell():
    """Scores of four layers, sixteen items and two seeds, of a vector that peaks after layer 2."""
    heights = torch.tensor([[0, 0.4, 1, 0.2], [0.1] * 4], dtype=torch.float64).flatten()
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(10, 2, 16, generator=generator, dtype=torch.float64)
    means = torch.cat([heights, torch.tensor([1.2, 0.0], dtype=torch.float64)])
    values = means[:, None, None] + noise
    statistics = torch.stack([values, torch.ones_like(values)], dim=-1)
    scores = values.mean(-1)
    return vectors.LayerScores(
        ("vector", "random"), (0, 1, 2, 3), (0, 1), statistics, scores[:8].view(2, 4, 2),
        scores[8], scores[9], "exact_match", {"task": "sorting", "model": "tiny"},
    )  # fmt: skip


def test_transfer_curves_show_the_numbers():
    result = bell()
    peak = vectors.locate_peak(result.curve())
    figure = plots.transfer_curves(result)
    lines = traces_of(figure)
    assert [*lines] == [f"vector<br>{peak.label}", "random"] and peak.layer == 2
    low, high = result.score_interval().tolist()
    for i, line in enumerate(lines.values()):
        assert list(line.x) == [0, 1, 2, 3]
        assert list(line.y) == pytest.approx(result.scores[i].mean(-1).tolist())
        assert [pair[0] for pair in line.customdata] == pytest.approx(low[i])
        assert [pair[1] for pair in line.customdata] == pytest.approx(high[i])
    levels = traces_of(figure, "lines")
    ceiling, floor = float(result.ceiling.mean()), float(result.floor.mean())
    assert [line.y[0] for line in levels.values()] == pytest.approx([ceiling, floor])
    assert [*levels] == [
        f"ceiling, with examples: {ceiling:.3g}", f"floor, nothing put in: {floor:.3g}",
    ]  # fmt: skip
    mark = next(trace for trace in figure.data if trace.mode == "markers")
    low_end, high_end = peak.interval
    assert (mark.x[0], mark.y[0]) == (peak.layer, peak.value)
    assert (mark.error_x.arrayminus[0], mark.error_x.array[0]) == (2 - low_end, high_end - 2)
    said = figure.layout.annotations[-1].text.replace("<br>", " ")
    assert "16 queries, seeds 0, 1" in said and "the last layer with 90 % of its gain" in said


def test_curves_of_task_vectors_and_one_arm_have_controls_of_their_own():
    result = saved_kinds.task_vectors()
    lines = traces_of(plots.transfer_curves(result))
    assert list(lines["random"].y) == pytest.approx(result.control_scores[0, :, 0].tolist())
    levels = traces_of(plots.transfer_curves(result), "lines")
    assert {name.split(":")[0] for name in levels} == {"zero-shot", "few-shot"}
    (alone,) = traces_of(plots.transfer_curves(bell().curve("random")))
    assert alone.startswith("random<br>")


def test_a_peak_of_other_layers_is_refused():
    with pytest.raises(ResultError, match="peak"):
        plots.transfer_curves(bell(), vectors.locate_peak(saved_kinds.task_vectors()))


def test_controls_of_a_place_have_its_colour():
    table = saved_kinds.means(14, 1, 3)
    scores = table[..., 0].mean(-1)
    arms = tuple(f"{place}{end}" for place in ("all", "last") for end in ("", ": x", ": y"))
    result = vectors.Patched(
        arms, (0, 1), (3,), table, scores[:12].view(6, 2, 1), scores[12], scores[13], "log_prob",
        saved_kinds.RECIPE,
    )  # fmt: skip
    lines = [trace.line for trace in traces_of(plots.transfer_curves(result)).values()]
    colours = [line.color for line in lines]
    assert len(lines) == 6 and len({*colours[:3]}) == len({*colours[3:]}) == 1
    assert colours[0] != colours[3]
    assert [line.dash for line in lines[:3]] == [line.dash for line in lines[3:]]
    assert len({(line.color, line.dash) for line in lines}) == 6


def test_strength_curves_go_from_left_to_right():
    result = saved_kinds.injected(vectors.StrengthScores, (0.1, -0.5))
    figure = plots.strength_curves(result)
    for i, line in enumerate(traces_of(figure).values()):
        assert list(line.x) == [-0.5, 0.1]
        assert list(line.y) == pytest.approx(result.scores[i].mean(-1).flip(0).tolist())
    assert "below 0" in figure.layout.xaxis.title.text


def test_overrides_fill_the_markers_of_what_wins():
    high, low = (torch.full((1, 8, 1), value, dtype=torch.float64) for value in (0.9, 0.1))
    near = torch.linspace(0, 1, 8, dtype=torch.float64)[None, :, None]
    values = torch.stack([high, low, near, low, high, near.flip(1), high, low])
    table = torch.cat([values, torch.ones_like(values)], dim=-1)
    scores = values[..., 0].mean(-1)
    result = vectors.Override(
        (0, 1, 2), (3,), table, scores[:6].view(2, 3, 1), scores[6], scores[7], "exact_match",
        {"task": "sorting", "other": "reversing"},
    )  # fmt: skip
    lines = traces_of(plots.overrides(result))
    task, other = lines["the examples' task: sorting"], lines["the vector's task: reversing"]
    assert list(task.y) == pytest.approx([0.9, 0.1, 0.5])
    assert list(task.marker.symbol) == ["circle", "circle-open", "circle-open"]
    assert list(other.marker.symbol) == ["circle-open", "circle", "circle-open"]


def test_the_map_of_a_study_of_heads_shows_worth_and_interval():
    effects = saved_kinds.indirect_effects()
    figure = plots.head_map(effects)
    assert torch.allclose(torch.tensor(figure.data[0].z, dtype=torch.float64), effects.effects)
    low, high = (float(bound[1, 0]) for bound in effects.interval())
    assert f"[{low:.3g}, {high:.3g}]" in figure.data[0].hovertext[1][0]
    assert "probability of the first token" in figure.layout.title.text
