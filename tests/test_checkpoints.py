"""One measure over checkpoints: the planted curve, files, resumes, failures, memory; revisions."""

import gc
import json
import os
import shutil
import weakref
from functools import partial
from pathlib import Path

import planted
import pytest
import saved_kinds
import tiny
import torch
from huggingface_hub import constants
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import hub

import icl_locate as icl
from icl_locate import plots
from icl_locate.checkpoints.values import as_values
from icl_locate.cli import main
from icl_locate.errors import CheckpointError, ModelError, ResultError
from icl_locate.induction import HeadScores, head_scores
from icl_locate.lora.adapters import load_base
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.steps import step_of
from icl_locate.report.checkpoints import step_rows, write_checkpoint_report
from icl_locate.studies.recipe import describe_weights

TASK = icl.load_task("pseudo-translation")
STEPS = (20, 100, 3000)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Three checkpoints with other weights each, named as trainers name them."""
    home = tmp_path_factory.mktemp("training")
    names = ("checkpoint-100", "step3000", "iter_0000020")
    for seed, name in enumerate(names):
        tiny.save(tiny.build("llama", seed), home / name)
    (home / "logs").mkdir()
    return home


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the Hub with two revisions of a model, which is all that there is offline."""
    home = tmp_path / "hub" / "models--EleutherAI--pythia-none"
    (home / "refs").mkdir(parents=True)
    for seed, name in enumerate(("step1000", "step2000")):
        commit = str(seed + 1) * 40
        (home / "refs" / name).write_text(commit)
        tiny.save(tiny.build("llama", seed), home / "snapshots" / commit)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return home / "snapshots"


def checksum(model):
    """A number of the weights."""
    with torch.no_grad():
        return sum(float(part.double().sum()) for part in model.original_model.parameters())


class Counted:
    """A measure that counts the models that it sees."""

    def __init__(self, fails_at=()):
        self.n, self.fails_at = 0, fails_at

    def __call__(self, model):
        self.n += 1
        if self.n in self.fails_at:
            raise RuntimeError("out of luck")
        return checksum(model)


LENT = ("llama", "gpt2", "llama")


def lend(name, loaded):
    """Models that are there already, in a loader's place."""
    loaded.append(name)
    return tiny.boot(name)


def swept(model):
    """A sweep whose targets are the model's own clean answers: what context changes is a loss."""
    options = {"n_shots": 2, "n_queries": 8, "seeds": [0], "max_new_tokens": 3}
    clean = icl.sweep(model, TASK, conditions=["query"], **options).texts[0][-1][0]
    test = tuple(icl.Example(e.source, a) for e, a in zip(TASK.test, clean, strict=False))
    task = icl.Task("planted", TASK.train, test, TASK.template, "exact_match")
    return icl.sweep(model, task, conditions=["everything"], **options)


def test_planted_layers_give_the_planted_curve(tmp_path):
    wanted = {100: 3, 250: 1, 900: 0}
    for step, layer in wanted.items():
        tiny.save(planted.attention_only_in({layer}, 4), tmp_path / "m" / f"step{step:05}")
    result = icl.over_checkpoints(swept, tmp_path / "m", device="cpu")
    assert result.steps == (100, 250, 900) and result.measures == ("swept",)
    located = result.locate()
    assert {step: found.layer - 1 for step, (found,) in located.items()} == wanted
    table = result.to_dataframe(rows="cell")
    assert list(table.columns[:2]) == ["step", "condition"] and len(table) == 3 * 5
    figure = plots.over_checkpoints(result)
    line = figure.data[-1]
    assert list(line.x) == ["100", "250", "900"] and list(line.y) == [4, 2, 1]
    heat = torch.tensor(figure.data[0].z)
    assert torch.equal(heat.T, result.stack("scores")[:, 0, :, 0].to(heat.dtype))
    rows = step_rows(result)
    assert rows[0][:4] == ("100", "everything", "never recovered", "4")


def test_the_same_as_each_model_alone(training, tmp_path):
    measures = {"heads": partial(head_scores, lengths=(6, 4)), "sum": checksum}
    result = icl.over_checkpoints(measures, training, output=tmp_path / "o", device="cpu")
    assert result.steps == STEPS and result.stack("induction", "heads").shape == (3, 3, 4)
    order = ("iter_0000020", "checkpoint-100", "step3000")
    for i, name in enumerate(order):
        model = icl.load_model(training / name, device="cpu")
        alone = head_scores(model, lengths=(6, 4))
        assert torch.equal(result.results["heads"][i].prefix_matching, alone.prefix_matching)
        assert result.of("sum")[STEPS[i]]["value"] == checksum(model)
        assert result.of("sum")[STEPS[i]].provenance["fingerprint"] == fingerprint(model)
        kept = HeadScores.load(tmp_path / "o" / f"step{STEPS[i]}" / "heads")
        assert torch.equal(kept.copying, alone.copying), "its file is a file like any other's"
    for loaded in (icl.OverCheckpoints.load(tmp_path / "o"), _saved(result, tmp_path / "again")):
        assert loaded.steps == STEPS and loaded.labels == result.labels
        assert torch.equal(loaded.stack("value", "sum"), result.stack("value", "sum"))
        assert loaded.of("heads")[20].provenance == result.of("heads")[20].provenance


def _saved(result, path):
    return icl.OverCheckpoints.load(result.save(path))


def test_a_resumed_run_measures_nothing_again(tmp_path):
    measure, loaded = Counted(), []
    models = {step: partial(lend, name, loaded) for step, name in zip(STEPS, LENT, strict=True)}
    first = icl.over_checkpoints(measure, {20: models[20], 100: models[100]}, output=tmp_path)
    assert measure.n == 2 and first.steps == (20, 100)
    again = icl.over_checkpoints(measure, models, output=tmp_path)
    assert measure.n == 3 and loaded == [*LENT], "only the one that was missing"
    assert torch.equal(again.stack("value")[:2], first.stack("value"))
    more = {"measure": measure, "more": checksum}
    both = icl.over_checkpoints(more, models, output=tmp_path)
    assert measure.n == 3, "of two measures only the new one"
    assert torch.equal(both.stack("value", "more"), again.stack("value"))
    assert not list(tmp_path.rglob("*.part"))


def test_what_was_measured_otherwise_is_refused(training, tmp_path):
    run = partial(icl.over_checkpoints, models=training, output=tmp_path, device="cpu")
    run({"heads": partial(head_scores, lengths=(6, 4))}, steps=[20])
    with pytest.raises(ResultError, match="another measure of the name 'heads'"):
        run({"heads": partial(head_scores, lengths=(6, 5))})
    assert not (tmp_path / "step100").exists(), "before anything runs"
    weights = training / "iter_0000020" / "model.safetensors"
    held = weights.stat()
    os.utime(weights, ns=(held.st_atime_ns, held.st_mtime_ns + 1))
    with pytest.raises(ResultError, match="belongs to another training .other files"):
        run({"heads": partial(head_scores, lengths=(6, 4))})


def test_a_checkpoint_that_fails_names_itself_and_leaves_the_others(tmp_path):
    measure = Counted(fails_at=(2,))
    models = {step: partial(lend, name, []) for step, name in zip(STEPS, LENT, strict=True)}
    run = partial(icl.over_checkpoints, measure, models, output=tmp_path)
    with pytest.raises(CheckpointError, match=r"lend \(step 100\) failed: Runtime") as e:
        run()
    assert measure.n == 3 and e.value.found.steps == (20, 3000)
    assert "run again to go on" in str(e.value) and "out of luck" in e.value.__notes__[0]
    assert icl.OverCheckpoints.load(tmp_path).steps == (20, 3000)
    assert run().steps == STEPS and measure.n == 4


def test_what_fails_at_the_first_one_fails_at_once(training):
    measure = Counted(fails_at=(1, 2, 3))
    with pytest.raises(CheckpointError, match="iter_0000020") as error:
        icl.over_checkpoints(measure, training, device="cpu")
    assert measure.n == 1 and error.value.found is None
    located = icl.locate(saved_kinds.sweep_result())
    with pytest.raises(CheckpointError, match="what the measure 'located' gave is.*sweep itself"):
        icl.over_checkpoints({"located": lambda model: located}, training, device="cpu")


def test_two_directories_of_one_step_are_refused(tmp_path):
    for name in ("step100", "step0100"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="step0100 and .*step100 are both of step 100"):
        icl.over_checkpoints(checksum, tmp_path)


def test_one_model_is_alive_at_a_time(training):
    """Whatever the collector would have freed by itself, sooner or later."""
    seen, threshold = [], gc.get_threshold()
    gc.set_threshold(0)

    def measure(model):
        assert not [old for old in seen if old() is not None]
        seen.extend([weakref.ref(model), weakref.ref(model.original_model)])
        if len(seen) == 4:
            raise RuntimeError("its traceback must not keep the model either")
        return head_scores(model, lengths=(6, 4))

    try:
        with pytest.raises(CheckpointError):
            icl.over_checkpoints(measure, training, device="cpu")
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(seen) == 6 and not [old for old in seen if old() is not None]


def test_loaders_models_and_mappings(training):
    bridge = tiny.boot("llama")
    models = {7: bridge, 3: lambda: bridge, 5: str(training / "step3000")}
    result = icl.over_checkpoints(checksum, models, device="cpu")
    assert result.steps == (3, 5, 7) and result.labels[1] == str(training / "step3000")
    first, second, third = result.stack("value").tolist()
    assert first == third != second
    loaders = [lambda: bridge, partial(icl.load_model, training / "step3000", device="cpu")]
    listed = icl.over_checkpoints(checksum, loaders, steps=[9, 1])
    assert listed.labels == ("load_model", "<lambda>")
    assert listed.stack("value").tolist() == [second, first]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "models is .*expected at least one"),
        ({}, {}, "models is .*expected at least one"),
        (["main"], {}, r"models\[0\], 'main', is of no known step: expected its step in the name"),
        (["nobody/nothing@step10"], {}, "the model of step 10: .*'step10' is not on this machine"),
        (["./nowhere/step10"], {}, "the model of step 10: there is no model directory"),
        ("gpt2", {}, "models is 'gpt2': expected a directory of checkpoints .* or steps, too"),
        ("gpt2", {"steps": [5]}, "checkpoint_value is 5.*known checkpoint revision convention"),
        ("EleutherAI/pythia-70m", {"steps": [5]}, "checkpoint_value is 5: .*not in available"),
        ([checksum], {}, "say which steps they are of"),
        ([checksum], {"steps": [1, 2]}, "steps is .*expected one for each of the 1 models"),
        ([checksum] * 2, {"steps": [1, 1]}, "steps is .*expected each once"),
        ({1: checksum}, {"steps": [1]}, "steps is .*expected None where models is a mapping"),
        ({-1: checksum}, {}, "a key of models is -1"),
    ],
)
def test_checkpoints_that_are_none(models, options, message):
    with pytest.raises(icl.errors.IclLocateError, match=message):
        icl.over_checkpoints(checksum, models, **options)


def test_directories_that_hold_no_checkpoints(training, tmp_path):
    with pytest.raises(ModelError, match="has no checkpoints"):
        icl.over_checkpoints(checksum, tmp_path)
    (tmp_path / "step10").mkdir()
    with pytest.raises(ModelError, match=r"step10 holds no config.json"):
        icl.over_checkpoints(checksum, tmp_path)
    with pytest.raises(ValueError, match="some of .*, which has 20, 100, 3000"):
        icl.over_checkpoints(checksum, training, steps=[21])
    with pytest.raises(ResultError, match="holds no results over checkpoints"):
        icl.OverCheckpoints.load(tmp_path)


def test_two_revisions_are_two_models(cache):
    name = "EleutherAI/pythia-none"
    models = [icl.load_model(name, revision=f"step{n}000", device="cpu") for n in (1, 2)]
    alone = [icl.load_model(cache / (str(n) * 40), device="cpu") for n in (1, 2)]
    assert [fingerprint(model) for model in models] == [fingerprint(model) for model in alone]
    assert fingerprint(models[0]) != fingerprint(models[1])
    by_label = icl.load_model(name, checkpoint_value=2000, device="cpu")
    assert fingerprint(by_label) == fingerprint(models[1])
    recipe = head_scores(by_label, lengths=(6, 4)).provenance
    assert recipe["revision"] == "2" * 40 and recipe["model"] == name
    base, words = load_base(name, "cpu", torch.float32, "step1000")
    assert describe_weights(name, base, words)["revision"] == "1" * 40
    result = icl.over_checkpoints(checksum, [f"{name}@step2000", f"{name}@step1000"], device="cpu")
    assert result.labels == (f"{name}@step1000", f"{name}@step2000")
    assert result.stack("value").tolist() == [checksum(model) for model in alone]
    told = icl.over_checkpoints(checksum, name, steps=[2000, 1000], device="cpu")
    assert torch.equal(told.stack("value"), result.stack("value"))
    assert [one.provenance["revision"][0] for one in told.results["checksum"]] == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "step200"}, r"revision 'step200' is not on this machine \(there: step2000"),
        ({"revision": "x"}, r"not on this machine \(there: step1000, step2000\)"),
        ({"checkpoint_value": 999}, "checkpoint_value is 999: .* not in available checkpoints"),
        ({"checkpoint_index": 999}, "checkpoint_index is 999: .* out of range"),
        ({"checkpoint_index": 0, "checkpoint_value": 0}, "expected one of them alone"),
        ({"checkpoint_value": 1, "revision": "main"}, "expected one of them alone"),
        ({"checkpoint_value": 3000}, "revision 'step3000' is not on this machine"),
    ],
)
def test_revisions_that_are_none_are_refused_before_anything_loads(
    cache, options, message, monkeypatch
):
    monkeypatch.setattr(TransformerBridge, "boot_transformers", None)
    with pytest.raises(ModelError, match=message):
        icl.load_model("EleutherAI/pythia-none", device="cpu", **options)


def test_what_has_no_revisions_takes_none():
    with pytest.raises(ModelError, match="checkpoint_value is 1, but the model is a local dir"):
        icl.load_model("embedded", checkpoint_value=1)
    with pytest.raises(ModelError, match="revision is 'main', but the model is there already"):
        icl.load_model(tiny.boot("llama"), revision="main")


@pytest.mark.parametrize(
    ("name", "step"),
    [("step1000", 1000), ("global_step12", 12), ("checkpoint-500", 500), ("ckpt_7", 7),
     ("0100", 100), ("stage1-step7000-tokens30B", 7000), ("main", None), ("pythia-70m", None),
     ("v2", None)],
)  # fmt: skip
def test_steps_of_names(name, step):
    assert step_of(name) == step


def numbers(**given):
    return as_values(given, tiny.boot("llama"))


def test_numbers_and_tensors():
    table = torch.rand(2, 3)
    found = numbers(a=1, b=table, c=torch.tensor(2.5))
    assert torch.equal(found["b"], table.double()) and found.numbers == {"a": 1.0, "c": 2.5}
    frame = found.to_dataframe()
    assert frame.value.tolist()[1:7] == table.flatten().double().tolist()
    assert frame.place[6] == "1, 2" and found.provenance["fingerprint"]
    assert numbers(a=1, b=2).to_dataframe().to_dict("records") == [{"a": 1.0, "b": 2.0}]
    assert as_values({"a": "text"}, tiny.boot("llama")) is None
    assert as_values({}, tiny.boot("llama")) is as_values(None, tiny.boot("llama")) is None


def over(steps=(1, 5, 20), **results):
    return icl.OverCheckpoints(steps, tuple(map(str, steps)), results)


def scores(first, n=3):
    table = torch.zeros(n, 1, 2, 2)
    table[:, 0, 1, 0] = torch.linspace(first, 0.9, n)
    rest = torch.zeros(2, 2)
    return [
        HeadScores((5,), one, torch.zeros(1, 2, 2), one, rest, rest, saved_kinds.RECIPE)
        for one in table
    ]


def test_the_figure_shows_heads_and_numbers(tmp_path):
    accuracy = [numbers(accuracy=x) for x in (0.1, 0.5, 0.7)]
    result = over(heads=scores(0.1), accuracy=accuracy, curves=[saved_kinds.sweep_result()] * 3)
    figure = plots.over_checkpoints(result, n_heads=2)
    best, _, line, heat = figure.data[:4]
    assert best.name == "1.0" and list(best.y) == pytest.approx([0.1, 0.5, 0.9])
    assert list(line.x) == ["1", "5", "20"] and list(line.y) == [0.1, 0.5, 0.7]
    assert heat.type == "heatmap" and figure.layout.yaxis3.title.text.startswith("a<br>")
    only = plots.over_checkpoints(result, "curves", condition="b")
    assert only.layout.yaxis.title.text.startswith("b<br>")
    page = write_checkpoint_report(tmp_path / "page.html", result).read_text("utf-8")
    assert "<h1>" in page and "Where the numbers come from" in page
    with pytest.raises(ResultError, match="condition is 'c': expected one of 'a', 'b'"):
        plots.over_checkpoints(result, condition="c")
    with pytest.raises(ResultError, match="of a AblationResult draw to_dataframe"):
        plots.over_checkpoints(over(x=[saved_kinds.ablation_result()] * 3))


def test_results_that_do_not_go_together():
    other = saved_kinds.sweep_result(provenance={**saved_kinds.RECIPE, "n_shots": 2})
    with pytest.raises(ResultError, match="step 20 has other n_shots than that of step 1"):
        over(x=[saved_kinds.sweep_result()] * 2 + [other])
    with pytest.raises(ResultError, match="step 5 has a HeadScores than"):
        over(x=[saved_kinds.sweep_result(), *scores(0.1, 2)])
    with pytest.raises(ResultError, match="steps is .* ascending"):
        over(steps=(5, 1, 20), x=scores(0.1))
    with pytest.raises(ResultError, match="expected a list of results with save"):
        over(x=scores(0.1, 2))
    with pytest.raises(ResultError, match="measure is named 'a/b'"):
        over(**{"a/b": scores(0.1)})
    both = over(x=scores(0.1), y=scores(0.2))
    with pytest.raises(ResultError, match="measure is None: expected one of 'x', 'y'"):
        both.of()
    with pytest.raises(ResultError, match="expected one that gave sweeps: there is none"):
        both.locate()
    with pytest.raises(ResultError, match="attribute is 'lengths': expected a tensor of the Head"):
        both.stack("lengths", "x")


def test_a_folder_that_was_not_finished_or_not_known(tmp_path):
    models = {step: tiny.boot(name) for step, name in zip(STEPS, LENT, strict=True)}
    icl.over_checkpoints(checksum, models, output=tmp_path)
    shutil.rmtree(tmp_path / "step100")
    assert icl.OverCheckpoints.load(tmp_path).steps == (20, 3000)
    entry = tmp_path / "step20" / "checkpoint.safetensors"
    entry.write_bytes(entry.read_bytes()[:-1])
    with pytest.raises(ResultError, match="is damaged"):
        icl.OverCheckpoints.load(tmp_path)
    with pytest.raises(ResultError, match="is damaged.* remove it to begin anew"):
        icl.over_checkpoints(checksum, models, output=tmp_path)


def test_kinds_are_found_by_their_names():
    from icl_locate.checkpoints.folder import find_kind

    here = Path()
    assert find_kind("icl_locate.induction.scores.HeadScores", here) is HeadScores
    for name in ("my_study.MlpResult", "icl_locate.induction.scores.None", "icl_locate.no.Where"):
        with pytest.raises(ResultError, match="import that module first"):
            find_kind(name, here)
    with pytest.raises(ResultError, match="no kind of result"):
        find_kind("icl_locate.models.loading.load_model", here)


def test_the_command_writes_what_it_says_and_goes_on(training, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("icl_locate.cli.checkpoints.write_pngs", lambda *_: None)
    task, output = tmp_path / "mine.jsonl", tmp_path / "out"
    lines = [{"source": f"sort {w}", "target": "zimo"} for w in ("thin", "one", "zero", "count")]
    task.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    line = f"checkpoints {task} --model {training} --steps 20 3000 --output {output} --n-shots 2 "
    line += "--seeds 0 --metric log_prob --device cpu --quiet"
    assert main(line.split()) == 0
    printed = capsys.readouterr().out
    assert "best head" in printed and "verdict" in printed
    for name in ("recognition.csv", "heads.csv", "recognition.recipe.json", "checkpoints.html"):
        assert str(output / name) in printed and (output / name).stat().st_size > 0
    rows = (output / "recognition.csv").read_text().splitlines()
    assert rows[0] == "step,condition,verdict,layer,low,high,floor,ceiling" and len(rows) == 3
    assert icl.OverCheckpoints.load(output).steps == (20, 3000)
    kept = (output / "step20" / "heads.safetensors").stat().st_mtime_ns
    assert main(line.split()) == 0
    assert (output / "step20" / "heads.safetensors").stat().st_mtime_ns == kept
    assert main([*line.split(), "--n-queries", "1"]) == 2
    assert "another measure of the name 'curves'" in capsys.readouterr().err
