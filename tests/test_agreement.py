"""Several methods on one layer axis: planted models, where all of them must say the same layer."""

from dataclasses import replace
from itertools import combinations

import pandas as pd
import planted_circuit
import planted_vector
import pytest
import saved_kinds
import tiny
import torch

import icl_locate as icl
from icl_locate import agreement, plots
from icl_locate.agreement import METHODS, Agreement, MethodDifference
from icl_locate.agreement.summary import _camps, _say_camps, together
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.lora import LoraConfig
from icl_locate.metrics import MeanMetric

HEADS = {"function_vector": {"n_heads": 1, "n_mean": 20}}
SIZES = {"n_queries": 8, "n_shots": 10}
EVERYWHERE = ("masking", "single_layer", "task_vector", "many_positions", "function_vector")


@pytest.fixture(scope="module")
def found():
    """On a model whose task is read in layer 1 alone, and used in layer 2."""
    model, task = planted_vector.boot(), planted_vector.task("same")
    return icl.triangulate(model, task, list(EVERYWHERE), seeds=[0, 1], **SIZES, **HEADS)


@pytest.fixture(scope="module")
def circuit():
    """On a model that retrieves the label in one layer, and holds no task at a single token."""
    model, task = planted_circuit.boot(), planted_circuit.TASK
    methods = ["masking", "single_layer", "disconnections", "task_vector", "many_positions"]
    return icl.triangulate(
        model, task, [*methods, "kernel_alignment", "probe"], n_queries=12, n_shots=4, seeds=0,
        metric="log_prob", probe={"n_calibration": 12}, kernel_alignment={"k": 3},
    )  # fmt: skip


# What is found.


def test_all_methods_find_the_planted_layer(found):
    assert found.methods == EVERYWHERE
    for witness in found.witnesses:
        assert witness.layer == planted_vector.READING_LAYER, str(witness)
        assert witness.interval[0] <= witness.layer <= witness.interval[1]
        assert witness.effect[0] > 0 and witness.metric == "first_token_accuracy"
        assert witness.seconds > 0 and witness.n_prompts >= 2 * 8 * len(witness.layers)
    assert {one.verdict for one in found.differences} == {"no difference shown"}
    assert len(found.differences) == 10 and not found.left_out
    same = "masking, single_layer, many_positions and function_vector (the same layer)"
    assert f"{same}; nor to task_vector, not resolved" in found.summary.replace("\n  ", " ")


def test_the_planted_circuit_is_found_and_what_has_no_layer_says_so(circuit):
    layer = planted_circuit.RETRIEVE_LAYER + 1
    for name in ("masking", "single_layer", "disconnections", "many_positions"):
        assert circuit[name].layer == layer and circuit[name].interval == (layer, layer)
    cut = circuit.results["disconnections"].windows
    n_layers = planted_circuit.N_LAYERS
    assert cut == tuple((at, n_layers) for at in range(n_layers)), "no layer stands in for another"
    assert circuit["task_vector"].verdict == "no peak" and circuit["task_vector"].interval is None
    verdicts = {one.methods: one.verdict for one in circuit.differences}
    assert verdicts["masking", "task_vector"] == "not comparable"
    assert verdicts["masking", "single_layer"] == "no difference shown"
    assert verdicts["disconnections", "probe"] == "later"
    for name in ("kernel_alignment", "probe"):
        summed_up = planted_circuit.SUMMARY_LAYER + 1
        assert circuit[name].layer == summed_up and circuit[name].interval == (summed_up,) * 2
        assert circuit[name].metric in (name, "centroid_probe")
        assert circuit[name].verdict == "reached", "though all layers behind it tell as well"
    damage = circuit["single_layer"]
    hurt = [at for at, score in enumerate(damage.scores) if score < damage.reference - 1]
    planted = ("SUMMARY_LAYER", "COPY_LAYER", "RETRIEVE_LAYER")
    assert hurt == [getattr(planted_circuit, name) for name in planted]


def test_the_bypass_takes_the_labels_away_two_layers_before_they_are_looked_at():
    found = icl.triangulate(
        planted_circuit.boot(bypass=True), planted_circuit.TASK, ["many_positions", "masking"],
        n_queries=12, n_shots=4, seeds=0, metric="log_prob",
    )  # fmt: skip
    assert found["many_positions"].layer == planted_circuit.COLLECT_LAYER + 1
    assert found["masking"].layer == planted_circuit.BYPASS_LAYER + 1
    (difference,) = found.differences
    assert (difference.layer, difference.verdict) == (-2, "earlier")
    assert str(difference) == "many_positions is 2 layers earlier [2, 2] than masking"
    assert "Differ: many_positions is 2 layers earlier than masking." in found.summary


# What it is measured on.


def test_every_method_answers_the_same_queries_under_the_same_seeds(found):
    queries = tuple(query.source for query in planted_vector.task("same").test[:8])
    assert {curve.items for curve in found.curves} == {queries}
    assert {curve.seeds for curve in found.curves} == {(0, 1)}
    assert {one.paired for one in found.differences} == {"items and seeds"}
    assert tuple(found.results["task_vector"].provenance["dev_queries"]) == queries
    assert found.results["masking"].sources == queries
    assert found.provenance["n_queries"] == 8 and found.provenance["task"] == "same"


def test_a_curve_is_what_the_method_alone_measures(found):
    model, task = planted_vector.boot(), planted_vector.task("same")
    asked = {"conditions": "examples", "seeds": [0, 1], **SIZES}
    (alone,) = icl.locate(icl.sweep(model, task, **asked))
    masking = found["masking"]
    assert (masking.layer, masking.interval) == (alone.layer, alone.interval)
    assert masking.effect == alone.effect and masking.verdict == alone.verdict
    torch.testing.assert_close(masking.scores, alone.scores)
    only = icl.sweep(model, task, scope="only", **asked)
    torch.testing.assert_close(found["single_layer"].scores, only.scores[0, :-1].mean(-1))
    assert found["single_layer"].reference == float(only.ceiling.mean())
    vectors = found.results["task_vector"]
    assert found["task_vector"].layers == tuple(layer + 1 for layer in vectors.layers)
    torch.testing.assert_close(found["task_vector"].scores, vectors.scores.mean(-1))


def test_an_adapter_a_layer_counts_where_it_is_asked_for(tmp_path):
    directory = tiny.save(tiny.build("llama"), tmp_path / "model")
    task = icl.load_task("pseudo-translation")
    config = LoraConfig(max_epochs=1, n_train=2, n_dev=1, rank=1, batch_size=2)
    found = icl.triangulate(
        directory, task, "lora", n_queries=2, n_shots=1, seeds=0, metric="chrf", max_new_tokens=2,
        lora={"output": tmp_path / "adapters", "config": config, "device": "cpu"},
    )  # fmt: skip
    tuned = found.results["lora"]
    assert found.methods == ("lora",) and found["lora"].layers == (0, 1, 2)
    torch.testing.assert_close(found["lora"].scores, tuned.scores.mean(-1))
    assert found["lora"].reference == pytest.approx(tuned.untuned)
    again = type(tuned).load(tuned.save(tmp_path / "tuned"))
    torch.testing.assert_close(again.untuned_statistics, tuned.untuned_statistics)
    assert "nothing to hold" in found.summary.lower() and not found.differences


# Files, tables, figures.


def test_a_file_gives_the_same_answers(circuit, tmp_path):
    again = Agreement.load(circuit.save(tmp_path / "agreed"))
    assert again.summary == circuit.summary and again.results == {}
    assert again.to_dataframe().equals(circuit.to_dataframe())
    wider = replace(again, confidence=0.5)
    assert wider["masking"].effect[1] > again["masking"].effect[1], "computed again"


def test_the_table_has_a_row_a_method(circuit):
    frame = circuit.to_dataframe().set_index("method")
    assert list(frame.index) == list(circuit.methods)
    assert frame.layer["masking"] == planted_circuit.RETRIEVE_LAYER + 1
    assert frame.layer.isna()["task_vector"] and frame.low.isna()["task_vector"]
    assert frame.effect["masking"] == circuit["masking"].effect[0]


def test_where_no_method_tells_a_layer_the_summary_says_so(circuit):
    silent = [replace(one, interval=None, verdict="no effect") for one in circuit.witnesses[:2]]
    assert together(silent, []) == [
        "No method tells a layer: masking (no effect); single_layer (no effect)."
    ]


def test_camps_are_told_apart_in_whatever_order_their_methods_ran():
    layers = {"a": 6, "x": 2, "b": 7, "y": 1, "lone": 9}
    camps = {"a": 0, "b": 0, "x": 1, "y": 1, "lone": 2}
    differences = [
        MethodDifference((one, other), apart, _around(apart, camps[one] == camps[other]), "nothing")
        for one, other in combinations(layers, 2)
        for apart in [layers[one] - layers[other]]
    ]
    differ = [one for one in differences if one.verdict != "no difference shown"]
    alike = [one for one in differences if one not in differ]
    assert _say_camps(_camps(differ, alike), differ, alike) == [
        "No difference shown: a and b (within 2 layers).",
        "No difference shown: x and y (within 2 layers).",
        "Differ: a and b are 4 to 6 layers later than x and y.",
        "Differ: a and b are 2 to 3 layers earlier than lone.",
        "Differ: x and y are 7 to 8 layers earlier than lone.",
    ]


def _around(apart, alike):
    return (apart - 1, apart + 1) if alike else (apart, apart)


def test_the_other_table_has_a_row_a_pair(circuit):
    frame = circuit.to_dataframe("difference").set_index(["method", "other"])
    assert len(frame) == len(circuit.differences) == 21
    for one in circuit.differences:
        row = frame.loc[one.methods]
        assert row.verdict == one.verdict and row.paired == one.paired
        assert (None if pd.isna(row.layer) else row.layer) == one.layer
        low_high = None if pd.isna(row.low) else (row.low, row.high)
        assert low_high == one.interval


def test_the_summary_says_what_each_leaves_open(circuit):
    text = str(circuit)
    for witness in circuit.witnesses:
        assert f"\n{witness.method}" in text and f"  {witness.method}: " in text
    same = "masking, single_layer, disconnections and many_positions (the same layer)"
    said = text.replace("\n  ", " ")
    assert f"No difference shown: {same}." in said
    assert "No difference shown: kernel_alignment and probe (the same layer)." in said
    apart = "are 4 layers later than kernel_alignment and probe."
    assert f"Differ: {same.partition(' (')[0]} {apart}" in said
    assert "Nothing to hold against the others: task_vector (no peak)." in text
    assert len(circuit.witnesses) == 7
    assert max(map(len, text.split("\n\n", 1)[1].splitlines())) <= 100


def test_the_figure_has_a_row_a_method_and_a_diamond_a_layer(circuit):
    figure = plots.agreement(circuit)
    diamonds = [one for one in figure.data if getattr(one, "mode", "") == "markers"]
    layers = [witness.layer for witness in circuit.witnesses if witness.layer is not None]
    assert [one.x[0] for one in diamonds] == layers and len(figure.layout.shapes) >= len(layers)
    headings = [note.text for note in figure.layout.annotations]
    for witness, said in zip(circuit.witnesses, headings, strict=False):
        assert witness.method in said and witness.question in said
    bars = [one for one in figure.data if one.type == "bar"]
    assert bars[0].x[0] == 0.5, "a layer spans from the stream that enters it to that behind it"
    assert max(bars[0].y) == pytest.approx(1.0)


def test_one_item_has_layers_without_intervals():
    found = icl.triangulate(
        planted_vector.boot(), planted_vector.task("same"), ["masking", "single_layer"],
        n_queries=1, n_shots=10, seeds=0,
    )  # fmt: skip
    assert {witness.layer for witness in found.witnesses} == {planted_vector.READING_LAYER}
    assert {witness.interval for witness in found.witnesses} == {None}
    assert found.differences[0].verdict == "not comparable" and found.summary
    assert len(plots.agreement(found).data) > 2


def test_a_metric_of_ones_own_scores_the_curves_that_it_made():
    mine = MeanMetric("mine", "mine|1", lambda answer, target: float(answer.strip() == target))
    found = icl.triangulate(
        planted_circuit.boot(), planted_circuit.TASK, ["masking", "kernel_alignment"],
        n_queries=4, n_shots=4, seeds=0, metric=mine, max_new_tokens=1, kernel_alignment={"k": 3},
    )  # fmt: skip
    assert found["masking"].metric == "mine" and found["masking"].effect[0] > 0
    assert found["kernel_alignment"].metric == "kernel_alignment"
    assert found.curves[0].custom_metric is mine and found.curves[1].custom_metric is None


def test_a_difference_is_that_of_the_layers_that_are_told(found):
    for one in found.differences:
        first, second = (found[name] for name in one.methods)
        assert one.layer == first.layer - second.layer
        assert one.interval[0] <= one.layer <= one.interval[1]


def test_probes_count_what_they_learn_from(circuit):
    assert circuit["probe"].n_prompts == 12 + 12
    assert circuit["kernel_alignment"].n_prompts == 12


@pytest.mark.parametrize(
    ("effect", "worth"),
    [
        ((0.5, 0.25, 0.75), "0.50 [0.25, 0.75]"),
        ((0.0123, 0.01, 0.02), "0.012 [0.010, 0.020]"),
        ((12.3, 10.0, 14.0), "12.3 [10.0, 14.0]"),
        ((0.5, float("nan"), float("nan")), "0.50"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
    ],
)
def test_effects_have_the_digits_that_they_need(circuit, effect, worth):
    assert replace(circuit.witnesses[0], effect=effect).worth == worth


# What does not fit.


def only(method, **options):
    return {"methods": [method], method: options}


def test_what_fails_while_it_runs_takes_nothing_from_the_others(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("icl_locate.agreement.circuits.kernel_alignment", fails)
    asked = {"model": planted_circuit.boot(), "task": planted_circuit.TASK, "metric": "log_prob"}
    sizes = {"n_queries": 4, "n_shots": 4, "seeds": 0}
    found = icl.triangulate(methods=["masking", "kernel_alignment"], **asked, **sizes)
    assert found.methods == ("masking",)
    assert found.left_out["kernel_alignment"].startswith("RuntimeError: ")
    assert "out of memory" in found.summary
    with pytest.raises(RuntimeError, match="out of memory"):
        icl.triangulate(methods="kernel_alignment", **asked, **sizes)


def test_a_layer_that_the_model_does_not_have_is_refused(circuit):
    with pytest.raises(ResultError, match="expected those of a model of 1 layers"):
        replace(circuit, n_layers=1)


def test_what_a_task_cannot_serve_is_left_out_or_refused():
    model, task = planted_vector.boot(), planted_vector.task("same")
    given = icl.Task.from_prompts(
        icl.build_prompts(
            model, task.test[:4], examples=task.train, n_shots=10, template=task.template,
            choice="balanced",
        ),
        metric="log_prob",
    )  # fmt: skip
    found = icl.triangulate(model, given, seeds=[0])
    assert found.methods == ("masking", "single_layer")
    assert found["masking"].layer == planted_vector.READING_LAYER
    assert set(found.left_out) == {*METHODS} - {"masking", "single_layer", "lora"}
    assert "prompts of its own" in found.left_out["task_vector"]
    assert "Left out:" in found.summary and "prompts of its own" in found.summary
    with pytest.raises(TaskError, match="has prompts of its own, and none without context"):
        icl.triangulate(model, given, ["masking", "task_vector"])


def test_what_only_a_run_tells_leaves_a_method_out_too():
    """With few examples the planted model never answers rightly."""
    task = planted_vector.task("same")
    few = {"function_vector": {"n_mean": 1}}
    found = icl.triangulate(planted_vector.boot(), task, n_queries=4, n_shots=4, seeds=0, **few)
    assert "answers none of" in found.left_out["task_vector"] and "masking" in found.methods
    with pytest.raises(TaskError, match="answers none of"):
        icl.triangulate(planted_vector.boot(), task, "task_vector", n_queries=4, n_shots=4, seeds=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methods": []}, TaskError, r"methods is \[\]: expected names of methods, each once"),
        ({"methods": ["masking"] * 2}, TaskError, "expected names of methods, each once"),
        ({"methods": "mask"}, TaskError, r"methods\[0\] is 'mask': expected one of 'masking'"),
        ({"methods": {"masking"}}, TaskError, "methods is {'masking'}: expected names"),
        ({"n_queries": 0}, TaskError, "n_queries is 0"),
        ({"n_queries": 25}, TaskError, "n_queries is 25, but the task 'same' has 24 queries"),
        ({"seeds": []}, TaskError, r"seeds is \[\]"),
        ({"metric": "nonsense"}, TaskError, "unknown metric 'nonsense'"),
        ({"engine": "fast"}, TaskError, "engine is 'fast': expected one of"),
        ({"confidence": 1.0}, TaskError, "confidence is 1.0"),
        ({"n_shots": 0}, MaskError, "hides examples, but n_shots is 0"),
        ({"methods": "lora"}, TaskError, "lora trains an adapter a layer: say where they go"),
        ({"lora": {"output": "x"}}, TaskError, "options of 'lora' were given, but it does not run"),
        ({"masking": {"n_heads": 3}}, TaskError, "an option of masking is 'n_heads'"),
        ({**only("function_vector", n_heads=0)}, TaskError, "n_heads is 0"),
        ({**only("kernel_alignment", k=0)}, TaskError, "k is 0"),
        ({**only("kernel_alignment", at="y")}, TaskError, "at is 'y': expected one of 'x', 's'"),
        ({**only("probe", n_calibration=0)}, TaskError, "n_calibration is 0"),
        ({"nonsense": {}}, TypeError, "unexpected keyword argument 'nonsense'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(arguments, error, message, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("it ran")

    for name in ("masks.sweep", "transfers.task_vectors"):
        monkeypatch.setattr(f"icl_locate.agreement.{name}", never)
    task = planted_vector.task("same")
    asked = {"model": planted_vector.boot(), "task": task, "methods": ["masking"], **arguments}
    with pytest.raises(error, match=message):
        icl.triangulate(**asked)


def test_lora_asks_for_what_it_needs(tmp_path):
    model, task = planted_vector.boot(), planted_vector.task("same")
    own = {"output": tmp_path / "adapters", "config": LoraConfig(n_train=8, n_dev=2)}
    with pytest.raises(TaskError, match="lora loads the model anew: give triangulate its name"):
        icl.triangulate(model, task, "lora", lora=own)
    with pytest.raises(TaskError, match="has only 6 pairs to learn from that are not among"):
        icl.triangulate(
            model, replace(task, train=task.train[:6]), "lora", n_queries=4,
            lora={**own, "model": "embedded"},
        )  # fmt: skip
    with pytest.raises(TaskError, match="'embedded' has 10 layers, but the model has 3: give"):
        icl.triangulate(model, task, "lora", lora={**own, "model": "embedded"})
    with pytest.raises(TaskError, match="expected a LoraConfig or one of 'sia2024'"):
        icl.triangulate(
            model, task, "lora", metric="chrf",
            lora={**own, "model": "embedded", "config": "big"},
        )  # fmt: skip


def test_a_task_that_serves_no_method_says_why():
    model, task = planted_vector.boot(), planted_vector.task("same")
    with pytest.raises(TaskError, match="serves none of the methods: masking: .*n_shots is 0"):
        icl.triangulate(model, task, n_shots=0, n_queries=2)


def test_methods_that_did_not_run_and_damaged_contents_are_refused(circuit):
    with pytest.raises(ResultError, match="method is 'lora': expected one of 'masking'"):
        circuit["lora"]
    with pytest.raises(ResultError, match="numbers has the shape"):
        replace(circuit, numbers=circuit.numbers[:-1])
    with pytest.raises(ResultError, match="measured"):
        replace(circuit, measured=[{}])
    with pytest.raises(ResultError, match="methods"):
        Agreement.of(
            [circuit.curves[0]] * 2, n_layers=8, left_out={}, confidence=0.9, n_resamples=5, seed=0,
            provenance={},
        )  # fmt: skip


def test_methods_on_other_items_or_seeds_are_drawn_apart(circuit):
    first, second = circuit.curves[:2]
    rest = {"n_layers": 8, "left_out": {}, "confidence": 0.95, "n_resamples": 50, "seed": 0}
    for change, paired in (({"seeds": (9,)}, "items"), ({"items": ("x",) * 12}, "nothing")):
        found = Agreement.of([first, replace(second, **change)], **rest, provenance={})
        assert found.differences[0].paired == paired
        assert found.differences[0].interval is not None


def test_every_method_says_what_it_asks_and_leaves_open():
    for name, method in METHODS.items():
        assert method.name == name and method.question.endswith("?") and method.cannot_show
    assert agreement.__all__ and saved_kinds.VALUES["agreement"].methods == ("masking", "probe")
