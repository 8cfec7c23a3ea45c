"""Figures: what they show is what the result says."""

import pytest
import tiny
from test_locate import result_of

import icl_locate as icl
from icl_locate import Segment, plots
from icl_locate.errors import PromptError
from icl_locate.report import text_table

RESULT = result_of([[0, 0.1, 0.9, 1.0], [0.5] * 4], noise=0.1)


def test_layer_curves_show_the_numbers():
    locations = icl.locate(RESULT)
    figure = plots.layer_curves(RESULT, locations)
    lines = {trace.legendgroup: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert set(lines) == {"c0", "c1"}
    for location in locations:
        trace = lines[location.condition]
        assert list(trace.x) == [0, 1, 2, 3]
        assert list(trace.y) == pytest.approx(location.scores.tolist())
        low, high, _ = zip(*trace.customdata, strict=True)
        assert list(low) == pytest.approx(location.score_interval[0].tolist())
        assert all(a <= b for a, b in zip(low, high, strict=True))
    assert lines["c0"].name.startswith("c0: 2 [") and lines["c1"].name == "c1: no effect"
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [list(mark.x) for mark in marks] == [[locations[0].layer]], "none without an effect"
    dashed = [shape for shape in figure.layout.shapes if shape.line.dash == "dash"]
    assert sorted(shape.y0 for shape in dashed) == pytest.approx(
        sorted(location.ceiling for location in locations)
    )
    assert "paired bootstrap" in figure.layout.annotations[-1].text


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
    with pytest.raises(PromptError, match="prompt 2 does not exist: expected 0 to 1"):
        plots.prompt_segments(model, prompts, 2)


def test_text_table():
    lines = text_table(icl.locate(RESULT)).splitlines()
    assert lines[0].startswith("hidden") and len(lines) == 4
    assert "no effect" in lines[3] and lines[2].split()[:2] == ["c0", "2"]
