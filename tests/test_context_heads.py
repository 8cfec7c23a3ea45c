"""Context masks over single heads and sets of heads."""

import anova
import planted_induction as planted
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment, plots
from icl_locate.context_heads import HeadSweepResult
from icl_locate.errors import MaskError, ResultError, TaskError

OPTIONS = {"n_shots": 4, "n_queries": 12}
PREVIOUS, INDUCTION = planted.PREVIOUS_HEAD, planted.INDUCTION_HEAD
BANK = (icl.Example("sort reverse", "dode zimo"), icl.Example("thin zero", "zimo rovu"))
TASK = icl.Task(
    "words",
    BANK,
    (icl.Example("reverse", "dode"), icl.Example("zero", "rovu")),
    icl.PromptTemplate("Go:"),
)


@pytest.fixture(scope="module")
def circuit():
    return planted.boot()


def test_the_heads_that_read_the_context_are_found(circuit):
    """The examples read themselves by the token before, and the query reads them by induction."""
    hidden = icl.HeadStudy(circuit, planted.TASK, **OPTIONS, seeds=[0, 1]).sweep("hidden")
    low, high = hidden.interval()
    needed = {divmod(i, 4) for i in (low.flatten() > 0.5).nonzero()[:, 0].tolist()}
    assert needed == planted.CIRCUIT
    assert (low <= hidden.worth).all() and (hidden.worth <= high).all()
    table = hidden.to_dataframe()
    assert {
        tuple(row) for row in table[["layer", "head"]].to_numpy()[:2].tolist()
    } == planted.CIRCUIT
    assert set(hidden.best(2)) == planted.CIRCUIT
    share, low, high = hidden.share_below(1)
    assert 0.05 < low <= share <= high < 0.95
    assert hidden.share_below(0)[0] == 0.0 and hidden.share_below(2)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["hidden", "kept"])
def test_the_interval_of_worth_is_of_the_difference_on_the_same_items_and_seeds(circuit, mode):
    study = icl.HeadStudy(circuit, planted.TASK, **OPTIONS, seeds=[0, 1, 2], metric="log_prob")
    found = study.sweep(mode)
    cells = [anova.of_mean(values) for values in found.statistics.numpy()[..., 0]]
    ends = {"hidden": (-1, cells[-2]), "kept": (1, cells[-1])}
    sign, end = ends[mode]
    for confidence in (0.95, 0.6):
        intervals = found.interval(confidence)
        scores = found.score_interval(confidence)
        for place in range(8):
            layer, head = divmod(place, 4)
            worth = anova.contrast([cells[place], end], [sign, -sign])
            wanted = anova.interval(worth, confidence)
            assert intervals[:, layer, head].tolist() == pytest.approx(wanted)
            wanted = anova.interval(cells[place], confidence)
            assert scores[:, layer, head].tolist() == pytest.approx(wanted)
    share, low, high = found.share_below(1, n_resamples=2000)
    assert low < share < high and found.share_below(1, seed=1) != found.share_below(1)
    narrow = found.share_below(1, 0.3, n_resamples=2000)
    assert narrow[0] == share and low < narrow[1] < narrow[2] < high


def test_after_the_context_one_head_is_enough(circuit):
    study = icl.HeadStudy(circuit, planted.TASK, rows="after", metric=None, **OPTIONS)
    kept = study.sweep("kept")
    assert kept.worth.flatten().argmax() == INDUCTION[0] * 4 + INDUCTION[1]
    assert float(kept.scores[INDUCTION].mean()) == 1.0 == float(kept.ceiling)
    others = torch.ones(2, 4, dtype=torch.bool)
    others[INDUCTION] = False
    assert kept.scores[others].max() < 0.6 and kept.floor.mean() < 0.6
    curve = study.greedy(2)
    assert curve.heads.heads[0] == INDUCTION and curve.sizes == (0, 1, 2)
    assert curve.scores[0].mean() == curve.floor and curve.scores[1].mean() == curve.ceiling == 1.0
    less = study.greedy(1, mode="hidden")
    assert less.heads.heads == (INDUCTION,) and less.scores[1].mean() < 0.6
    some = study.greedy(1, candidates=[(0, 0), (1, 2)])
    assert some.heads.heads[0] in {(0, 0), (1, 2)} and some.scores[1].mean() < 1.0


def test_one_query_has_no_interval(circuit):
    study = icl.HeadStudy(circuit, planted.TASK, n_shots=4, n_queries=1)
    found = study.sweep()
    assert found.interval().isnan().all() and found.worth.isfinite().all()
    share, low, high = found.share_below(1)
    assert 0 < share < 1 and low != low and high != high
    assert study.nested([INDUCTION]).interval.isnan().all()


def test_growing_sets(circuit):
    study = icl.HeadStudy(circuit, planted.TASK, **OPTIONS)
    order = study.sweep("hidden").best(8)
    curve = study.nested(order)
    assert curve.sizes == (0, 1, 2, 4, 8)
    means = curve.scores.mean(dim=1)
    assert means[0] == pytest.approx(curve.floor) and means[-1] == pytest.approx(curve.ceiling)
    assert means[1] < means[2] - 1 and means[2] > means[-1] - 1, "the circuit is enough"
    gone = study.nested(order, [1, 8], mode="hidden")
    assert gone.sizes == (0, 1, 8) and gone.scores[2].mean() == pytest.approx(curve.floor)
    assert (curve.interval[0] <= means + 1e-9).all()


@pytest.mark.parametrize("engine", ["hooks", "shared"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neo"])
def test_cells_by_hand(architecture, engine):
    model = tiny.boot(architecture)
    study = icl.HeadStudy(model, TASK, n_shots=1, n_queries=2, engine=engine, seeds=3)
    prompts = icl.build_prompts(
        model, TASK.test, examples=BANK, n_shots=1, seed=3,
        template=TASK.template.without_instruction(),
    )  # fmt: skip
    every = {(layer, head) for layer in range(3) for head in range(4)}
    for mode in ("hidden", "kept"):
        found = study.sweep(mode)
        for layer, head in every:
            heads = {(layer, head)} if mode == "hidden" else every - {(layer, head)}
            mask = icl.ContextMask({Segment.EXAMPLES}, heads=heads)
            mean = icl.score_targets(model, prompts, mask).double().mean()
            assert float(found.scores[layer, head, 0]) == pytest.approx(float(mean), abs=1e-4)
        assert float(found.ceiling) == pytest.approx(
            float(icl.score_targets(model, prompts).mean()), abs=1e-4
        )
        whole = icl.score_targets(model, prompts, icl.ContextMask({Segment.EXAMPLES}))
        assert float(found.floor) == pytest.approx(float(whole.mean()), abs=1e-4)


def test_any_metric(embedded):
    task = icl.load_task("pseudo-translation")
    study = icl.HeadStudy(embedded, task, metric="bleu", n_shots=3, n_queries=3, max_new_tokens=8)
    curve = study.nested([(5, 2), (0, 0)], [1, 2], mode="hidden")
    assert curve.scores[0].mean() == curve.ceiling > 90


def test_results_are_saved_and_loaded(circuit, tmp_path):
    found = icl.HeadStudy(circuit, planted.TASK, **OPTIONS).sweep("kept")
    again = HeadSweepResult.load(found.save(tmp_path / "heads"))
    assert torch.equal(again.worth, found.worth) and again.mode == "kept"
    assert torch.equal(again.interval(), found.interval())
    with pytest.raises(ResultError, match="layer is 3: expected a whole number from 0 to 2"):
        found.share_below(3)
    for n in (0, 9):
        with pytest.raises(MaskError, match=f"n is {n}: expected a whole number from 1 to 8"):
            found.best(n)


def test_figures(circuit):
    study = icl.HeadStudy(circuit, planted.TASK, **OPTIONS)
    found = study.sweep("hidden")
    figure = plots.head_map(found.worth, title="nats lost", boundary=1)
    assert figure.layout.shapes[0].y0 == 0.5
    curves = plots.head_set_curves(study.greedy(2), study.nested(found.best(2), mode="hidden"))
    lines = [trace for trace in curves.data if trace.mode == "lines+markers"]
    assert [line.name for line in lines] == ["kept 2 heads", "hidden from 2 heads"]
    assert lines[0].x == (0, 1, 2) and "layer" in lines[0].customdata[1]
    with pytest.raises(ResultError, match="no curves"):
        plots.head_set_curves()


def test_bad_studies(circuit):
    study = icl.HeadStudy(circuit, planted.TASK, **OPTIONS)
    for run, message in (
        (lambda: study.sweep("shown"), "mode is 'shown': expected one of 'hidden', 'kept'"),
        (lambda: study.nested([(0, 9)]), "head .layer 0, head 9. is out of range"),
        (lambda: study.nested([(0, 1)], [2]), r"sizes are \[2\]: expected 0 to 1"),
        (lambda: study.greedy(9), "n_heads is 9: expected 1 to 8"),
        (lambda: icl.HeadStudy(circuit, planted.TASK, "query and more"), "unknown condition"),
        (lambda: icl.HeadStudy(circuit, planted.TASK, n_shots=0), "hides EXAMPLES, but prompt 0"),
    ):
        with pytest.raises(MaskError, match=message):
            run()
    for options, message in (
        ({"seeds": ()}, r"seeds is \(\)"),
        ({"n_queries": 99}, "n_queries is 99, .*: expected 1 to 40"),
    ):
        with pytest.raises(TaskError, match=message):
            icl.HeadStudy(circuit, planted.TASK, **options)


def test_each_run_of_a_study_tells_the_weights_that_it_ran_with():
    model, task = tiny.boot_fresh("llama"), icl.load_task("pseudo-translation")
    study = icl.HeadStudy(model, "pseudo-translation", n_shots=1, n_queries=2)
    before = study.nested([(0, 0)])
    with torch.no_grad():
        next(model.original_model.parameters()).mul_(0.5)
    after = study.nested([(0, 0)])
    assert before.provenance["fingerprint"] != after.provenance["fingerprint"]
    assert after.provenance["task"] == task.name, "a task may be named"
