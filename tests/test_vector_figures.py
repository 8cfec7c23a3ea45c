"""Figures, page and command of vectors: what they draw is what the results hold."""

import json
from dataclasses import replace

import pytest
from saved_kinds import injected, override_result, patched_result, task_vectors

import icl_locate as icl
from icl_locate import vectors
from icl_locate.cli import main
from icl_locate.report.vectors import peak_of, vector_table, write_vector_report


def lines(figure):
    """The curves by the first line of their names."""
    return {
        trace.name.partition("<br>")[0]: trace
        for trace in figure.data
        if trace.mode == "lines+markers"
    }


def test_curves_are_the_scores_of_every_arm():
    found = task_vectors()
    figure = icl.plots.transfer_curves(found)
    drawn = lines(figure)
    assert set(drawn) == {"task vector", *found.controls}
    assert list(drawn["task vector"].y) == pytest.approx(found.scores.mean(-1).tolist())
    assert list(drawn["task vector"].x) == list(found.layers)
    assert vectors.locate_peak(found).layer is None, "a flat curve has no peak to draw"
    assert not any("diamond" in str(trace.marker.symbol) for trace in figure.data)
    peak = replace(
        vectors.locate_peak(found),
        verdict="peak",
        layer=1,
        interval=(0, 1),
        last_layer=1,
        value=0.5,
    )
    figure = icl.plots.transfer_curves(found, peak)
    (diamond,) = [trace for trace in figure.data if "diamond" in str(trace.marker.symbol)]
    assert list(diamond.x) == [peak.layer] and peak.label in diamond.hovertemplate
    said = " ".join(note.text.replace("<br>", " ") for note in figure.layout.annotations)
    assert "dev queries" in said and "95 % intervals" in said


def test_scores_of_a_vector_by_layer_and_by_strength():
    by_layer = injected(vectors.LayerScores, (0, 1))
    drawn = lines(icl.plots.transfer_curves(by_layer))
    for arm, scores in zip(by_layer.arms, by_layer.scores.mean(-1).tolist(), strict=True):
        assert list(drawn[arm].y) == pytest.approx(scores)
    by_strength = injected(vectors.StrengthScores, (0.2, 0.1))
    drawn = lines(icl.plots.strength_curves(by_strength))
    assert list(drawn["vector"].x) == [0.1, 0.2]
    assert list(drawn["vector"].y) == pytest.approx(by_strength.scores[0].mean(-1).flip(0).tolist())


def test_overrides_fill_the_answers_that_win():
    found = override_result()
    figure = icl.plots.overrides(found)
    wins = found.to_dataframe()["wins"]
    for answer, trace in zip(found.answers, lines(figure).values(), strict=True):
        expected = ["circle" if name == answer else "circle-open" for name in wins]
        assert list(trace.marker.symbol) == expected


def test_patched_states_have_curves_too():
    found = patched_result()
    assert set(lines(icl.plots.transfer_curves(found))) == set(found.arms)


def test_the_page_holds_the_table_and_the_recipe(tmp_path):
    found = task_vectors()
    path = write_vector_report(tmp_path / "page.html", found)
    text = path.read_text("utf-8")
    assert "A task vector is the state" in text and "best layer, by dev queries" in text
    shown = text.split(">Scores</h2>")[1].split("</section>")[0]
    assert shown.count("<tr>") == 1 + len(found.test_table()) + 1  # the header, and the best layer
    assert peak_of(injected(vectors.StrengthScores, (0.1, 0.2))) is None
    table = vector_table(injected(vectors.LayerScores, (0, 1)))
    assert "random, at its best layer" in table and "without a vector" in table


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("kind", ["task", "function", "in-context"])
def test_the_command(kind, tmp_path, capsys):
    options = f"--kind {kind} --n-queries 3 --seeds 0 --n-heads 4 --max-new-tokens 6 --quiet"
    command = f"vectors --metric token_accuracy {options} --output {tmp_path}"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "token accuracy" in printed and "vectors.html" in printed
    kinds = {
        "task": vectors.TaskVectors,
        "function": vectors.LayerScores,
        "in-context": vectors.StrengthScores,
    }
    found = kinds[kind].load(tmp_path / "vectors.safetensors")
    assert found.provenance["settings"]["kind"] == kind
    recipe = json.loads((tmp_path / "vectors.recipe.json").read_text("utf-8"))
    assert recipe["settings"]["n_heads"] == 4 and (tmp_path / "vectors.csv").exists()
    other = command.replace("--n-queries 3", "--n-queries 4")
    assert main(other.split()) == 2
    assert "vectors.safetensors is in the way" in capsys.readouterr().err
