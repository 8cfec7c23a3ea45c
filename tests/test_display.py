"""What is shown while a study runs: the curves as they form, each answer scored once."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.masking import sweeps
from icl_locate.metrics import get_metric
from icl_locate.studies import display
from icl_locate.studies.units import MISSING

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
OPTIONS = {
    "n_shots": 1, "n_queries": 4, "seeds": [0, 5], "max_new_tokens": 3, "batch_size": 2,
    "conditions": ["examples", "query"], "layers": [1],
}  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
def test_the_curves_that_form_end_as_those_of_the_result(monkeypatch, tmp_path, kept):
    seen = []
    monkeypatch.setattr(display, "_PAUSE", 0.0)
    monkeypatch.setattr(
        display.Display, "show", lambda self, name, scores: seen.append((name, list(scores)))
    )
    store = tmp_path if kept else None
    result = icl.sweep(tiny.boot("llama"), TASK, progress=True, store=store, **OPTIONS)
    for c, name in enumerate(result.conditions):
        curves = [scores for told, scores in seen if told == name]
        # One more look for each unit, or each set of prompts; some are known from the first on.
        assert len(curves) >= (8 if kept else 4)
        known = [sum(score is not None for score in scores) for scores in curves]
        assert known == sorted(known) and known[-1] == 3
        torch.testing.assert_close(
            torch.tensor(curves[-1], dtype=torch.float64), result.scores[c].mean(-1)
        )


def test_nothing_is_scored_or_shown_unless_asked(monkeypatch, capsys):
    monkeypatch.setattr(sweeps, "Watch", lambda *args: pytest.fail("it looked"))
    icl.sweep(tiny.boot("llama"), TASK, **OPTIONS)
    assert capsys.readouterr() == ("", "")


def test_a_bar_and_a_line_for_each_condition_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(display, "_PAUSE", 0.0)
    icl.sweep(tiny.boot("llama"), TASK, progress=True, **OPTIONS)
    said = capsys.readouterr().err
    assert "12/12" in said and "cell" in said
    assert "examples: 0 to" in said and "query: 0 to" in said


def test_each_answer_is_scored_once_and_programs_never():
    scored = []

    def score(answer, target):
        scored.append(answer)
        return float(answer == target)

    shown = []
    metric = get_metric(score)
    watch = display.Watch(metric, [["a", "b"]], {"c": [[(0, 0)], [(0, 1)]]},
                          lambda name, scores: shown.append(scores))  # fmt: skip
    for rows in ([["a", MISSING]] * 2, [["a", "a"], ["a", MISSING]]):
        watch._looked = -np.inf
        watch([rows])
    assert shown == [[1.0, 1.0], [0.5, 1.0]] and len(scored) == 3
    programs = display.Watch(get_metric("pass@1"), [["a"]], {"c": [[(0, 0)]]}, shown.append)
    programs([[["a"]]])
    assert len(shown) == 2


def test_units_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="icl_locate"):
        for _ in range(2):
            icl.sweep(tiny.boot("llama"), TASK, store=tmp_path, **OPTIONS)
    assert caplog.messages[0] == "0 answers are kept, 8 units are to run"
    assert caplog.messages[-1] == "48 answers are kept, 0 units are to run"
    assert sum("runs of 2 prompts" in said for said in caplog.messages) == 8
