"""Answers that are kept: what is run again, what is not, and what becomes of damaged files."""

import logging
import pickle
import random
from dataclasses import dataclass, replace
from functools import partial

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment, studies, vectors
from icl_locate.errors import ModelError, ResultError, TaskError
from icl_locate.records.runs import read_run, run_files
from icl_locate.records.store import Store
from icl_locate.records.units import read_unit
from icl_locate.studies import naming, schedule, units
from icl_locate.studies.place import check_place, using

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
LABELS = icl.load_task("f_a_f_p/4")
OPTIONS = {
    "n_shots": 2, "n_queries": 4, "seeds": [0, 5], "max_new_tokens": 4, "batch_size": 3,
    "conditions": ["examples", "query"],
}  # fmt: skip


@pytest.fixture
def ran(monkeypatch):
    """The units that run, as (runs, prompts)."""
    found = []

    def count(model, prompts, runs, *args, **kwargs):
        found.append((len(runs), len(prompts)))
        return answer_grid(model, prompts, runs, *args, **kwargs)

    answer_grid = units.answer_grid
    monkeypatch.setattr(units, "answer_grid", count)
    return found


def sweep(store=None, **changes):
    return icl.sweep(tiny.boot("llama"), TASK, store=store, **OPTIONS | changes)


def same(one, other):
    """Whether two results are equal bit by bit."""
    tensors = all(getattr(one, name).equal(getattr(other, name)) for name in one._tensors)
    return tensors and getattr(one, "texts", None) == getattr(other, "texts", None)


def kept(store):
    """The units of a store, by context."""
    there = Store.at(store)
    return {context: there.files(context) for context in there.contexts()}


def n_answers(ran):
    return sum(runs * prompts for runs, prompts in ran)


@pytest.mark.parametrize("engine", ["shared", "hooks"])
@pytest.mark.parametrize(
    "metric", ["token_accuracy", "log_prob", "first_token_prob", "label_accuracy_contextual"]
)
def test_what_is_kept_is_equal_and_not_run_again(tmp_path, ran, metric, engine):
    task = TASK if metric == "token_accuracy" else LABELS
    options = OPTIONS | {"metric": metric, "engine": engine, "conditions": "examples"}
    plain = icl.sweep(tiny.boot("llama"), task, **options)
    first = icl.sweep(tiny.boot("llama"), task, store=tmp_path / "s", **options)
    assert sorted(ran) == [(4, 1)] * 2 + [(4, 3)] * 2, "two seeds, each in portions of a batch"
    again = icl.sweep(tiny.boot("llama"), task, store=tmp_path / "s", **options)
    assert len(ran) == 4
    assert same(plain, first) and same(plain, again)
    assert plain.provenance == first.provenance == again.provenance


def test_another_metric_scores_the_same_texts(tmp_path, ran):
    sweep(tmp_path)
    ran.clear()
    for metric in ("chrf", "bleu", "exact_match", lambda answer, target: float(len(answer))):
        assert same(sweep(tmp_path, metric=metric), sweep(metric=metric))
    assert not ran


def test_more_extends_a_run_by_what_is_missing(tmp_path, ran):
    sweep(tmp_path, layers=[1])
    for changes, n_new in (
        ({"layers": [1]}, 0),
        ({"layers": [1, 2]}, 2 * 2 * 4),  # one layer more: conditions, seeds, queries
        ({"layers": [2]}, 0),  # a part of what is there
        ({"layers": [1, 2], "seeds": [5, 7, 0]}, 2 * 4 * 4),
        ({"layers": [1, 2], "n_queries": 6}, 2 * 2 * 4 * 2),
        ({"layers": [1, 2], "n_queries": 5, "batch_size": 64}, 0),
        ({"layers": [1, 2], "conditions": ["query", "everything"]}, 2 * 4 * 4),
        ({"layers": [1, 2], "max_new_tokens": 5}, 2 * 2 * 4 * 4),
        ({"layers": [1, 2], "engine": "hooks"}, 2 * 2 * 4 * 4),
        ({"layers": [1, 2], "n_shots": 1}, 2 * 2 * 4 * 4),
        ({"layers": [1, 2], "alongside": icl.HeadAblation({(0, 1)})}, 2 * 2 * 4 * 4),
        ({"layers": [1, 2], "alongside": icl.HeadAblation({(0, 2)})}, 2 * 2 * 4 * 4),
    ):
        ran.clear()
        found = sweep(tmp_path, **changes)
        if not n_new:
            assert not ran, changes
            continue
        # Where nothing is hidden all conditions are one run; so what is new may be fewer.
        assert n_answers(ran) <= n_new and bool(ran) == bool(n_new), changes
        assert found.texts == sweep(**changes).texts, changes
    ran.clear()
    sweep(tmp_path, layers=[1, 2, 0, 3])
    assert not ran


def test_other_weights_are_another_model(tmp_path, ran):
    sweep(tmp_path)
    model = tiny.boot("llama")
    weights = model.original_model.model.layers[1].mlp.up_proj.weight
    kept_value = weights[0, 0].item()
    ran.clear()
    try:
        with torch.no_grad():
            weights[0, 0] = kept_value + 1e-3
        sweep(tmp_path)
    finally:
        with torch.no_grad():
            weights[0, 0] = kept_value
    assert len(ran) == 8
    sweep(tmp_path)
    assert len(ran) == 8


def test_equal_prompts_run_once_and_equal_runs_too(tmp_path, ran):
    model, task = tiny.boot("llama"), replace(TASK, test=TASK.test[:2] * 2)
    options = OPTIONS | {"seeds": 0, "batch_size": 8, "conditions": ["examples", "query"]}
    found = icl.sweep(model, task, store=tmp_path, **options)
    assert len(ran) == 2 and {n for _, n in ran} == {2}
    assert same(found, icl.sweep(model, task, **options))


def test_values_of_each_prompt_are_named_with_them(tmp_path, ran):
    model = tiny.boot("llama")
    setting = studies.Setting.of(TASK, n_queries=4, n_shots=1, metric="log_prob")
    prompts = setting.prompts(model, 0)
    values = torch.randn(4, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    edits = [icl.StateEdit("replace", some, 1) for some in (values, values.flip(0))]
    edits.append(icl.StateEdit("replace", values[0], 1))
    plain = [cell.statistics for cell in setting.run(model, prompts, edits, batch_size=3)]
    with using(tmp_path):
        for _ in range(2):
            found = setting.run(model, prompts, edits, batch_size=3)
            for cell, wanted in zip(found, plain, strict=True):
                torch.testing.assert_close(cell.statistics, wanted, rtol=0, atol=0)
    kept_runs = [shape for shape in ran if shape in ((3, 3), (3, 1))]
    assert len(kept_runs) == 2


@dataclass(frozen=True, eq=False)
class Opaque(icl.Intervention):
    """An intervention whose rule does not say what it is."""

    rule: object


def test_what_does_not_say_what_it_does_is_refused(tmp_path):
    class Rule:
        pass

    model, task = tiny.boot("llama"), TASK
    with pytest.raises(TaskError, match=r"^runs\[0\] holds a .*Rule, which does not say"):
        icl.sweep(model, task, store=tmp_path, alongside=Opaque(Rule()), **OPTIONS)


def test_a_function_is_known_by_what_it_looks_up(tmp_path, ran):
    model, prompts = tiny.boot("llama"), None
    setting = studies.Setting.of(TASK, n_queries=2, n_shots=1, metric="log_prob")
    prompts = setting.prompts(model, 0)
    with using(tmp_path):
        for distance in (1, 1, 2):
            globals()["DISTANCE"] = distance
            setting.run(model, prompts, [icl.EdgeMask(_edges_at_distance, icl.from_layer(0))])
    assert len(ran) == 2


DISTANCE = 1


def _edges_at_distance(positions, n_rows):
    total = positions.segments.shape[1]
    places = torch.arange(total)
    edges = places == places[total - n_rows :, None] - DISTANCE
    return edges.expand(len(positions.segments), -1, -1)


def test_a_model_with_hooks_is_refused(tmp_path):
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, TASK.test[:2], examples=TASK.train, n_shots=1)
    with (
        icl.intervene(model, prompts, icl.HeadAblation({(0, 0)})),
        pytest.raises(ModelError, match="^the model holds hooks, or a context"),
    ):
        sweep(tmp_path, engine="hooks")
    model.hook_dict["blocks.0.hook_out"].add_hook(lambda value, hook: value)
    try:
        with pytest.raises(ModelError, match="call without store"):
            sweep(tmp_path, engine="hooks")
    finally:
        model.reset_hooks()
    sweep(tmp_path)


def test_a_store_is_tried_before_anything_runs(tmp_path, ran):
    (tmp_path / "file").write_text("")
    for place, message in ((tmp_path / "file", "is in the way"), ("", "^store is ''")):
        with pytest.raises(ResultError, match=message):
            sweep(place)
    assert not ran
    with pytest.raises(TaskError, match=r"^executor is 3: expected an icl_locate\.RayExecutor"):
        check_place(None, 3)


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "foreign", "grow"])
def test_damaged_units_are_named_and_run_again(tmp_path, ran, caplog, how):
    wanted = sweep(tmp_path)
    files = [path for some in kept(tmp_path).values() for path in some]
    ran.clear()
    numbers = random.Random(how)
    for path in files[::3]:
        data = bytearray(path.read_bytes())
        if how == "flip":
            data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        elif how == "cut":
            del data[numbers.randrange(len(data)) :]
        elif how == "grow":
            data += b"x"
        path.write_bytes({"empty": b"", "foreign": b"{}" * 50}.get(how, bytes(data)))
    with caplog.at_level(logging.WARNING, logger="icl_locate"):
        assert same(sweep(tmp_path), wanted)
    assert len(ran) == len(files[::3])
    for path in files[::3]:
        assert path.name in caplog.text, "damaged files are named"
        read_unit(path)
    ran.clear()
    assert same(sweep(tmp_path), wanted) and not ran


def test_foreign_files_in_a_store_are_left_alone(tmp_path, ran):
    wanted = sweep(tmp_path)
    (context,) = kept(tmp_path)
    folder = tmp_path / "units" / context
    for name in ("..safetensors", "a.safetensors", f"{'0' * 31}/.safetensors", "note.txt"):
        place = folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
    (tmp_path / "units" / "..x").mkdir()
    ran.clear()
    assert same(sweep(tmp_path), wanted) and not ran
    assert (folder / "note.txt").read_text() == "mine"


def test_runs_are_recorded(tmp_path, monkeypatch):
    sweep(tmp_path, seeds=0)
    (path,) = run_files(Store.at(tmp_path))
    run = read_run(path)
    assert (run.study, run.state, run.why) == ("sweep", "done", "")
    assert run.recipe["task"] == TASK.name and run.recipe["seeds"] == [0] and run.ended
    units_there = {f"{p.parent.name}/{p.stem}" for some in kept(tmp_path).values() for p in some}
    assert {*run.units} == units_there and len(units_there) == 4
    monkeypatch.setattr(units, "answer_grid", fail_at(2))
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, seeds=[0, 1])
    *_, last = map(read_run, run_files(Store.at(tmp_path)))
    assert (last.state, last.why) == ("stopped", "KeyboardInterrupt: ")
    assert len(last.units) == 8, "those that are still to come, too"
    n_there = sum(map(len, kept(tmp_path).values()))
    assert n_there == 5, "what was computed before the interruption is kept"
    monkeypatch.undo()
    assert same(sweep(tmp_path, seeds=[0, 1]), sweep(seeds=[0, 1]))


def fail_at(number, error=KeyboardInterrupt):
    """Runs of units, until one is interrupted."""
    answer_grid, count = units.answer_grid, [0]

    def run(*args, **kwargs):
        count[0] += 1
        if count[0] == number:
            raise error
        return answer_grid(*args, **kwargs)

    return run


def test_a_full_disk_keeps_what_was_kept(tmp_path, monkeypatch):
    real, count = schedule.write_unit, [0]

    def write(*args):
        count[0] += 1
        if count[0] > 3:
            raise ResultError("x cannot be written: No space left on device")
        real(*args)

    monkeypatch.setattr(schedule, "write_unit", write)
    with pytest.raises(ResultError, match="No space left"):
        sweep(tmp_path)
    assert sum(map(len, kept(tmp_path).values())) == 3
    monkeypatch.undo()
    assert same(sweep(tmp_path), sweep())


def studies_of(store, output):
    """Every study, on a tiny model: a call of each."""
    model, options = tiny.boot("llama"), {"n_queries": 3, "store": store}
    shots = {"n_shots": 2}
    return {
        "shots": lambda: icl.sweep_shots(
            model, TASK, (1, 2), metric="log_prob", conditions="examples", seeds=0, **options
        )[2],
        "heads": lambda: icl.HeadStudy(model, TASK, **shots, **options).sweep(),
        "greedy": lambda: icl.HeadStudy(model, TASK, **shots, **options).greedy(1),
        "ablation": lambda: icl.induction.ablation_study(
            model, TASK, [(0, 1)], controls=1, shots=2, seeds=0, metric="log_prob",
            interventions=("mean_z", "zero"), **options,
        ),
        "effects": lambda: icl.induction.head_effects(
            model, icl.build_prompts(model, TASK.test[:2], examples=TASK.train, n_shots=1),
            [(0, 0), (1, 2)], store=store,
        ),
        "task_vectors": lambda: vectors.task_vectors(
            model, LABELS, metric="first_token_prob", seeds=0, **shots, **options
        ),
        "patching": lambda: vectors.patch_states(
            model, LABELS, metric="first_token_prob", seeds=0, n_shots=4, **options
        ),
        "cuts": lambda: icl.circuit.disconnect(model, LABELS, edges="x->s", n_shots=4, **options),
        "gates": lambda: icl.gates.train_gates(
            model, TASK, icl.gates.GateConfig(max_epochs=2), n_train=4, n_dev=2, n_curve=2,
            metric="log_prob", **shots, **options,
        ),
        "lora": lambda: icl.lora.lora_by_layer(
            None, TASK, output, replace(icl.lora.PRESETS["sia2024"], n_train=4, n_dev=2,
            max_epochs=1), layers=[0], seeds=0, max_new_tokens=3, **options,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(studies_of(None, None)))
def test_every_study_keeps_its_answers(tmp_path, ran, name):
    wanted = studies_of(None, tmp_path / "plain")[name]()
    first = studies_of(tmp_path / "s", tmp_path / "one")[name]()
    ran.clear()
    again = studies_of(tmp_path / "s", tmp_path / "two")[name]()
    assert not ran and run_files(Store.at(tmp_path / "s"))
    for found in (first, again):
        for field in wanted._tensors:
            one, other = getattr(wanted, field), getattr(found, field)
            assert one is other is None or torch.equal(one, other), field
    assert any(kept(tmp_path / "s").values())


class Elsewhere:
    """An executor that runs everything on what came through a file, as workers do."""

    def __init__(self, directory):
        self.load = partial(icl.load_model, directory)
        self.n_done = 0

    def run(self, load, works, on_done):
        loaded = pickle.loads(pickle.dumps(load))()  # noqa: S301
        for work in works:
            on_done(work, pickle.loads(pickle.dumps(work)).run(loaded))  # noqa: S301
            self.n_done += 1


@pytest.mark.parametrize("name", ["ablation", "heads", "lora", "patching", "task_vectors"])
def test_every_study_runs_elsewhere(tmp_path, name):
    """Weights, prompts, interventions and readouts find their way into another process."""
    place = tiny.save(tiny.build("llama"), tmp_path / "model")
    wanted = studies_of(None, tmp_path / "here")[name]()
    executor = Elsewhere(place)
    with using(executor=executor):
        found = studies_of(None, tmp_path / "there")[name]()
    assert executor.n_done
    for field in wanted._tensors:
        one, other = getattr(wanted, field), getattr(found, field)
        assert one is other is None or torch.equal(one, other), field


def test_gates_go_on_from_the_store(tmp_path, monkeypatch):
    from icl_locate.gates import train

    def run(epochs, store):
        return icl.gates.train_gates(
            tiny.boot("llama"), TASK, icl.gates.GateConfig(max_epochs=epochs), n_train=4, n_dev=2,
            n_curve=0, n_queries=2, n_shots=1, metric="log_prob", store=store,
        )  # fmt: skip

    wanted, real, epochs = run(3, None), train._train_epoch, []

    def train_epoch(*args):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(train, "_train_epoch", train_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(3, tmp_path)
    assert run(3, tmp_path).alpha.equal(wanted.alpha) and len(epochs) == 4


def test_segments_decide_a_prompts_name():
    """The same tokens in other segments are another prompt; padding is none of it."""
    tokens = [[5, 6, 7, 5], [8, 9, 8]]
    spans = [[(0, 3, "examples"), (3, 4, "query")], [(0, 2, "examples"), (2, 3, "query")]]
    both = icl.Prompts.from_tokens(tokens, spans, targets=[[6], [9]])
    short = icl.Prompts.from_tokens(tokens[1:], spans[1:], targets=[[9]])
    other = icl.Prompts.from_tokens(tokens[1:], [[(0, 1, "examples"), (1, 3, "query")]],
                                    targets=[[9]])  # fmt: skip
    further = icl.Prompts.from_tokens(tokens[1:], spans[1:], targets=[[8]])
    name = naming.name_items
    assert name(both)[1:] == name(short)
    assert len({*name(both), *name(other), *name(further)}) == 4
    assert Segment.QUERY in short.segments
