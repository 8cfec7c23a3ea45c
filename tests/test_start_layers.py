"""Sweeps over some start layers: the same numbers there, and words for what lies between them."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from test_locate import result_of

import icl_locate as icl
from icl_locate import plots
from icl_locate.errors import MaskError

TASK = icl.load_task("pseudo-translation")
OPTIONS = {
    "conditions": ["examples", "query"], "n_shots": 2, "n_queries": 4, "seeds": [0, 3],
    "max_new_tokens": 3, "metric": "token_accuracy",
}  # fmt: skip
N = tiny.N_LAYERS


def some(result, layers):
    """A result as if only these start layers had run."""
    places = [result.layers.index(layer) for layer in layers]
    return replace(
        result,
        layers=tuple(layers),
        statistics=result.statistics[:, places],
        item_scores=result.item_scores[:, places],
        scores=result.scores[:, places],
    )


@pytest.fixture(scope="module")
def whole():
    return icl.sweep(tiny.boot("llama"), TASK, **OPTIONS)


@pytest.mark.parametrize("engine", ["shared", "hooks"])
@pytest.mark.parametrize(
    ("layers", "ran"),
    [([2], (0, 2, N)), (1, (0, 1, N)), (range(0, N, 2), (0, 2, N)), ([0], (0, N))],
)
def test_some_layers_score_as_they_do_among_all(whole, engine, layers, ran):
    assert N == 3, "the cases above are made for it"
    found = icl.sweep(tiny.boot("llama"), TASK, layers=layers, engine=engine, **OPTIONS)
    assert found.layers == ran and found.n_layers == N
    places = list(ran)
    assert found.scores.equal(whole.scores[:, places])
    assert found.texts == [[by_layer[place] for place in places] for by_layer in whole.texts]
    assert found.ceiling.equal(whole.ceiling) and found.floor.equal(whole.floor)


@pytest.mark.parametrize("layers", [[N + 1], [0, 40], range(0, 33, 4)])
def test_layers_that_the_model_has_not(layers):
    with pytest.raises(MaskError, match=f"layer .* is no start layer: the model's are 0 to {N}"):
        icl.sweep(tiny.boot("llama"), TASK, layers=layers, **OPTIONS)


@pytest.mark.parametrize("layers", [[], [-1], [1, 1]])
def test_what_is_no_layer_is_refused_before_a_model_is_loaded(layers):
    with pytest.raises(MaskError, match="layers"):
        icl.sweep("no-such/model", TASK, layers=layers, **OPTIONS)


CURVES = [[0, 0, 0.1, 0.2, 0.95, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0.2, 1]]


def test_locations_say_between_which_layers_they_lie():
    all_layers, few = result_of(CURVES), some(result_of(CURVES), [0, 3, 6, 8])
    first, last = icl.locate(all_layers)
    assert (first.layer, first.after, first.place, first.interval) == (4, 3, "4", (4, 4))
    assert (last.layer, last.place) == (8, "8")
    first, last = icl.locate(few)
    assert (first.layer, first.after, first.place) == (6, 3, "4 to 6")
    assert first.interval == (4, 6), "all that the layers which ran leave open"
    assert first.jump_layer == 6 and first.layers == (0, 3, 6, 8)
    assert (last.layer, last.after, last.place) == (8, 6, "7 to 8")
    assert str(first) == "c0: recognised by one of layers 4 to 6 [4, 6]"
    assert first.height == 1.0 and np.isnan(replace(first, layer=None).height)


def test_a_location_between_layers_holds_the_one_of_all_layers():
    """Whatever the layers that run, monotone curves are located in the right gap."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        curve = np.sort(generator.random(9))
        curve[0], curve[-1] = 0, 1
        fine = result_of([curve], n_items=4)
        among = sorted({0, 8, *generator.choice(np.arange(1, 8), 3, replace=False).tolist()})
        coarse = icl.locate(some(fine, among), n_resamples=10)[0]
        exact = icl.locate(fine, n_resamples=10)[0].layer
        assert coarse.after < exact <= coarse.layer


def test_figures_tables_and_pages_of_some_layers(tmp_path):
    few = some(result_of(CURVES, noise=0.1), [0, 3, 6, 8])
    few = replace(few, provenance={"scope": "from", "task": "t", "model": "m"})
    found = icl.locate(few)
    figure = plots.layer_curves(few, found)
    marks = [trace for trace in figure.data if trace.name and "layers 4 to 6" in trace.name]
    assert list(marks[0].x) == [0, 3, 6, 8]
    diamonds = [trace for trace in figure.data if "diamond" in str(trace.marker.symbol)]
    assert [list(trace.x) for trace in diamonds] == [[6], [8]]
    page = icl.write_report(few, tmp_path / "page.html", found).read_text()
    assert "<td>4 to 6</td>" in page


def test_importance_of_some_layers():
    few = some(result_of([[1, 0.2, 1, 0.5, 1]], noise=0.01), [0, 1, 3, 4])
    few = replace(few, provenance={"scope": "only"})
    found = icl.layer_importance(few)[0]
    assert found.layers == (0, 1, 3) and found.critical == (1, 3)
    assert list(plots.importance_curves(few, [found]).data[1].x) == [0, 1, 3]


def test_adapters_are_ranked_against_layers_that_ran():
    """The masked curve is read at the tuned layers, wherever they stand among those that ran."""
    from icl_locate.errors import ResultError
    from icl_locate.lora import LoraResult

    statistics = torch.ones(3, 1, 4, 2, dtype=torch.float64)
    statistics[..., 0] = torch.tensor([3.0, 2.0, 1.0])[:, None, None]
    tuned = LoraResult(
        layers=(0, 3, 6), seeds=(0,), statistics=statistics,
        scores=statistics[..., 0].mean(-1), dev_losses=torch.ones(3, 1),
        n_epochs=torch.ones(3, 1, dtype=torch.long), untuned=0.0, metric="exact_match",
        provenance={},
    )  # fmt: skip
    masked = result_of([[0, 0.1, 0.2, 0.3, 0.8, 0.85, 0.9, 0.95, 1]])
    assert tuned.rank_correlation(masked)[0] == -1
    assert tuned.rank_correlation(some(masked, [0, 3, 6, 8]))[0] == -1
    with pytest.raises(ResultError, match="expected 'c0', and the tuned layers 0, 3, 6 among them"):
        tuned.rank_correlation(some(masked, [0, 3, 8]))
