"""Figures, page and command of the inference circuit: what they show is what was measured."""

import json
import re

import planted_circuit as planted
import pytest
from saved_kinds import head_measure, layer_measure

import icl_locate as icl
from icl_locate import circuit, plots
from icl_locate.cli import main
from icl_locate.errors import ResultError
from icl_locate.metrics import CalibratedLabelAccuracy
from icl_locate.report.circuit import circuit_words, draw_circuit, write_circuit_report

SIZES = {"n_shots": 4, "n_queries": 8}


@pytest.fixture(scope="module")
def cuts():
    windows = [(1, 2), (4, 5), (5, 6)]
    return circuit.disconnect(
        planted.boot(), planted.TASK, edges=["x->s", "y->s_q"], windows=windows, **SIZES
    )


def traces(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_curves_are_the_arms_with_their_intervals_and_chance():
    result = layer_measure()
    figure = plots.measure_curves(result)
    for i, arm in enumerate(result.arms):
        (curve,) = traces(figure, arm)
        assert list(curve.y) == pytest.approx(result.scores[i].mean(dim=-1).tolist())
        low_high = result.score_interval()[:, i].T.tolist()
        assert [list(pair) for pair in curve.customdata] == [pytest.approx(p) for p in low_high]
    (chance,) = traces(figure, "chance: 0.25")
    assert set(chance.y) == {0.25}


def test_the_map_is_of_the_arm_that_was_asked_for():
    result = head_measure()
    for i, arm in enumerate([None, "control"]):
        (cells,) = plots.measure_map(result, arm).data
        assert cells.z == pytest.approx(result.scores[i].mean(dim=-1).numpy())
    with pytest.raises(ResultError, match="arm is 'other': expected"):
        plots.measure_map(result, "other")


def test_bars_are_the_scores_of_cuts_beside_their_control(cuts):
    figure = plots.cut_bars(cuts)
    bars = traces(figure, "cut")
    means = cuts.scores.mean(dim=-1)
    assert [list(bar.y) for bar in bars] == means[:, 0].tolist()
    assert [list(bar.x) for bar in bars] == [["1", "4", "5"]] * 2
    random = traces(figure, "as many random edges cut")
    assert [list(bar.y) for bar in random] == means[:, 1].tolist()
    (ceiling,) = {shape.y0 for shape in figure.layout.shapes}
    assert ceiling == float(cuts.ceiling.mean())
    assert "labels into the answer" in figure.layout.annotations[1].text
    alone = circuit.disconnect(
        planted.boot(), planted.TASK, edges="y->s_q", windows=[(5, 6)], controls=0, **SIZES
    )
    assert not traces(plots.cut_bars(alone), "as many random edges cut")
    assert circuit_words({"cuts": alone})["cuts"][0].startswith("cutting costs something")


def test_the_plane_shows_each_label_and_where_the_query_points():
    view = circuit.query_key_view(planted.boot(), planted.TASK, n_shots=6, n_queries=4)
    figure = plots.query_key_plane(view)
    shown = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    for label in ("l0", "l1"):
        mine = [i for i, name in enumerate(view.classes) if name == label]
        name = f"label {label}{', the right one' * (label == view.asked)}"
        assert shown[name] == [pytest.approx(view.points[i].tolist()) for i in mine]
    (zero, end), away = shown["the query's direction"], view.query - view.zero
    assert zero == pytest.approx(view.zero.tolist())
    ratio = [(a - b) / float(c) for a, b, c in zip(end, zero, away, strict=True)]
    assert ratio[0] == pytest.approx(ratio[1], rel=1e-4) and ratio[0] > 0


def test_the_page_tells_what_each_measure_found(cuts, tmp_path):
    heads = circuit.induction_heads(planted.boot(), planted.TASK, **SIZES)
    results = {"probe <b>": layer_measure(), "heads": heads, "cuts": cuts}
    words = circuit_words(results)
    layer, head = planted.RETRIEVAL_HEAD
    assert words["heads"] == [
        "correct induction, more than permuted classes beyond noise: "
        f"layer {layer}, head {head} (100% of prompts)"
    ]
    told = re.findall(r"(\S+->\S+) at layers (\d+) \(-([.\d]+)\)", words["cuts"][0])
    assert {(edge, int(place)) for edge, place, _ in told} == {
        ("x->s", planted.SUMMARY_LAYER), ("y->s_q", planted.RETRIEVE_LAYER)
    }  # fmt: skip
    page = write_circuit_report(tmp_path / "page.html", results).read_text("utf-8")
    assert ">probe &lt;b&gt;</h2>" in page and "<b>" not in page
    for lines in words.values():
        assert all(line.replace(">", "&gt;") in page for line in lines)
    figures = draw_circuit(results)
    assert list(figures) == list(results)
    assert "correct induction" in figures["heads"].layout.title.text


def test_a_single_query_is_told_without_noise(tmp_path):
    one = {"n_shots": 4, "n_queries": 1}
    model, task = planted.boot(), planted.TASK
    words = circuit_words({
        "probe": circuit.centroid_probe(model, task, n_calibration=8, **one),
        "heads": circuit.forerunner_heads(model, task, **one),
        "cuts": circuit.disconnect(model, task, edges="y->s_q", windows=[(5, 6), (0, 1)], **one),
    })  # fmt: skip
    alone = "a single query tells nothing of noise"
    assert words["heads"] == ["right label: 1 heads count", alone]
    assert [said[-1] for said in words.values()] == [alone] * 3
    assert words["cuts"][0].startswith("cutting costs more than as many random edges: ")
    assert not any("nan" in line or "noise:" in line for said in words.values() for line in said)


def test_a_calibrated_score_is_shown_with_and_without(tmp_path):
    found = circuit.disconnect(
        planted.boot(), planted.TASK, edges="y->s_q", windows=[(5, 6)], n_shots=4, n_queries=4,
        metric=CalibratedLabelAccuracy(texts=("a0",)), controls=0,
    )  # fmt: skip
    words = circuit_words({"cuts": found})
    assert list(words) == list(draw_circuit({"cuts": found})) == ["cuts", "cuts_uncalibrated"]
    page = write_circuit_report(tmp_path / "page.html", {"cuts": found}).read_text("utf-8")
    assert ">cuts uncalibrated</h2>" in page


def test_the_command_writes_every_measure(tmp_path, capsys, monkeypatch):
    """On a file of one's own."""
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"text": e.source, "label": e.target, "split": split})
        for split in ("train", "test")
        for e in getattr(planted.TASK, split)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), "utf-8")
    monkeypatch.setattr("icl_locate.tasks.loading.LABEL_TEMPLATE", planted.TASK.template)
    monkeypatch.setattr("icl_locate.cli.circuit.write_pngs", lambda *args: "not here")
    monkeypatch.setattr("icl_locate.load_model", lambda *args, **options: planted.boot())
    command = "circuit mine.jsonl --n-queries 8 --n-calibration 8 --quiet --own-labels"
    assert main([*command.split(), "--output", "out", "--neighbours", "2", "--controls", "1"]) == 0
    said = capsys.readouterr().out
    assert "layer 3, head 1 (100% of prompts)" in said
    kinds = {
        "alignment": circuit.LayerMeasure, "labels": circuit.LayerMeasure,
        "probe": circuit.LayerMeasure, "assignment": circuit.LayerMeasure,
        "forerunner": circuit.HeadMeasure, "induction": circuit.HeadMeasure,
        "cuts": circuit.Disconnections,
    }  # fmt: skip
    for name, kind in kinds.items():
        result = kind.load(tmp_path / "out" / f"{name}.safetensors")
        assert result.provenance["settings"]["command"] == "circuit"
        assert result.n_items == 8
        assert (tmp_path / "out" / f"{name}.csv").is_file()
        assert f"{name}\n  " in said
    assert (tmp_path / "out" / "circuit.html").is_file()
    one = f"{command} --output other --measures cuts --windows 4 --metric log_prob"
    assert main(one.split()) == 0
    found = circuit.Disconnections.load(tmp_path / "other" / "cuts.safetensors")
    assert found.metric == "log_prob" and len(found.windows) == planted.N_LAYERS - 3
    assert len(found.arms) == 4
    assert main([*command.split(), "--output", "out", "--n-shots", "6"]) == 2
    assert "add --overwrite" in capsys.readouterr().err


def test_the_command_refuses_a_task_without_classes(tmp_path, capsys):
    arguments = ["circuit", "pseudo-translation", "--n-queries", "4", "--measures", "probe"]
    assert main([*arguments, "--output", str(tmp_path), "--quiet"]) == 2
    assert "which no example of the task" in capsys.readouterr().err
    assert isinstance(icl.load_task("f_a_f_p/4"), icl.Task)
