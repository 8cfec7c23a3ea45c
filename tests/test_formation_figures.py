"""Figures, page and command of formation: what they draw and say is what the results hold."""

import json
import math
from dataclasses import replace

import pytest
import torch
from saved_kinds import formation_run, formation_study

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.cli.formation import FormationConfig
from icl_locate.errors import ResultError
from icl_locate.formation import FormationStudy
from icl_locate.plots import formation as plots
from icl_locate.report.formation import formation_table, formation_words, write_formation_report


def captions(figure):
    return " ".join(note.text.replace("<br>", " ") for note in figure.layout.annotations)


def test_curves_are_losses_and_accuracies_with_their_times():
    study = formation_study()
    figure = icl.plots.formation_curves(study)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in lines if trace.showlegend] == list(study.labels)
    assert len(lines) == 2 * len(study.labels) * len(study.seeds), "a loss and an accuracy a run"
    run = study.runs["match"][1]
    (loss,) = [t for t in lines if t.name == "match" and "seed 5" in t.hovertemplate][:1]
    assert list(loss.x) == list(run.points[1:]), "a log axis has no 0"
    assert list(loss.y) == pytest.approx(run.losses[1:].tolist())
    times = [time for of in study.times().values() for time in of if time is not None]
    assert sorted(mark.x[0] for mark in marks) == sorted(times)
    assert "0.277 nats" in captions(figure) and "seeds 0, 5" in captions(figure)
    other = icl.plots.formation_curves(study, shown="exemplar")
    (loss,) = [t for t in other.data if t.name == "match" and "seed 5" in t.hovertemplate][:1]
    assert list(loss.y) == pytest.approx(run.set_losses[2, 1:].tolist())
    assert not [trace for trace in other.data if trace.mode == "markers"]
    with pytest.raises(ResultError, match="shown is 'test'"):
        icl.plots.formation_curves(study, shown="test")


def test_times_have_a_row_a_label_and_a_triangle_where_there_is_none():
    study = formation_study()
    figure = icl.plots.formation_times(study)
    for trace, (label, times) in zip(figure.data, study.times().items(), strict=True):
        end = int(study.sequences[-1])
        assert set(trace.y) == {label}
        assert list(trace.x) == [end if time is None else time for time in times]
        assert ["triangle" in symbol for symbol in trace.marker.symbol] == [
            time is None for time in times
        ]
    assert None in study.times()["none"]


def test_heads_are_drawn_over_training():
    run = formation_run(100, 0, ())
    figure = icl.plots.strength_against_only_head(run)
    *paths, ends = figure.data
    assert list(ends.x) == pytest.approx(run.strengths[-1].tolist())
    assert list(ends.y) == pytest.approx(run.only_head[-1].tolist())
    assert list(paths[2].x) == pytest.approx(run.strengths[:, 2].tolist())
    assert "at the end: 1.00" in captions(figure), "the strongest head is the best alone here"
    level = replace(run, only_head=torch.zeros_like(run.only_head))
    flat = captions(icl.plots.strength_against_only_head(level))
    assert "at the end: none, all are equal" in flat
    heads = icl.plots.head_formation(run)
    drawn = [trace.y for trace in heads.data]
    wanted = [*run.previous_token.T, *run.strengths.T, *run.only_head.T]
    for y, values in zip(drawn, wanted, strict=True):
        assert list(y) == pytest.approx(values.tolist())
    assert f"{run.reached():,} sequences" in captions(heads)


def test_the_toy_has_a_shorter_plateau_with_each_vector_given():
    figure = icl.plots.product_of_vectors()
    times = [sum(loss > 0.4 * trace.y[0] for loss in trace.y) for trace in figure.data]
    assert times[0] > 2 * times[1] > 4 * times[2]
    assert [trace.name for trace in figure.data] == list(plots._THREE)


def test_the_page_and_the_words_tell_the_order(tmp_path):
    study = formation_study()
    first, second, third = formation_words(study)
    assert first.index("match (") < first.index("all heads (")
    assert second == f"Not within {int(study.sequences[-1]):,} sequences: none."
    assert "head 3 of layer 2" in third and "rank correlation of the two over heads 1.00" in third
    rows = formation_table(study).splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == ["match", "all heads", "none"]
    assert "> 1,000" in rows[-1]
    text = write_formation_report(tmp_path / "page.html", study).read_text("utf-8")
    shown = text.split(">What is learnt when</h2>")[1].split("</section>")[0].split("</figure>")[1]
    assert first in text and shown.count("<tr>") == 1 + len(study.labels)
    assert "A product of three vectors" in text


@pytest.mark.usefixtures("no_pictures")
def test_the_command(tmp_path, capsys):
    options = "--clamps match match+copy --n-sequences 64 --evaluate-every 32 --n-classes 4 --quiet"
    command = f"formation {options} --output {tmp_path}"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "sequences" in printed and "formation.html" in printed
    found = FormationStudy.load(tmp_path / "formation.safetensors")
    assert found.clamps == (("match", "one_head"), ("match", "copy"))
    assert found.sequences.tolist() == [0, 32, 64]
    assert found.provenance["task"]["n_classes"] == 4
    recipe = json.loads((tmp_path / "formation.recipe.json").read_text("utf-8"))
    assert recipe["settings"]["n_sequences"] == 64 and (tmp_path / "formation.csv").exists()
    written = sorted((tmp_path / "checkpoints").iterdir())
    assert len(written) == 2
    before = [path.stat().st_mtime_ns for path in written]
    (tmp_path / "formation.safetensors").unlink()
    assert main(command.split()) == 0, "it goes on from its checkpoints"
    assert [path.stat().st_mtime_ns for path in written] == before
    again = FormationStudy.load(tmp_path / "formation.safetensors")
    assert torch.equal(again.weights, found.weights)
    capsys.readouterr()
    assert main(command.replace("--n-classes 4", "--n-classes 5").split()) == 2
    assert "formation.safetensors is in the way" in capsys.readouterr().err
    assert main(f"formation --clamps nothing --quiet --output {tmp_path / 'b'}".split()) == 2
    assert "nothing" in capsys.readouterr().err


def test_quick_is_a_default_and_no_order():
    assert FormationConfig(quick=True, n_sequences=5).setting()["n_sequences"] == 5
    assert FormationConfig().setting() == {}
    assert math.isclose(FormationConfig(quick=True).setting()["learning_rate"], 2e-4)
