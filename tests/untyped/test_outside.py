"""What CONTRIBUTING.md prints works outside the package: its modules are run as they stand there.

As on the other pages, no types are checked here while it runs.
"""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import cli
from icl_locate.errors import IclLocateError, ResultError

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
MODULES = ("my_metrics", "my_conditions", "my_interventions", "my_sweep", "my_study")
SMALL = {"n_shots": 1, "n_queries": 3, "seeds": (0, 1), "max_new_tokens": 4}
OPTIONS = [
    "--n-shots", "1", "--n-queries", "3", "--seeds", "0", "1", "--max-new-tokens", "4", "--quiet",
]  # fmt: skip


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A directory with the page's modules and files, where their author works."""
    for name, text in re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE, re.M | re.S):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(*re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [*MODULES, *(path.stem for path in tmp_path.glob("*.py"))]:
        sys.modules.pop(name, None)


@pytest.fixture
def load(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    return importlib.import_module


@pytest.fixture(scope="module")
def model():
    return tiny.boot("llama")


@pytest.fixture(scope="module")
def task():
    return icl.load_task("pseudo-translation")


def f1_by_hand(answers, targets):
    """Micro F1 over a corpus, counted word by word."""
    shared = said = wanted = 0
    for answer, target in zip(answers, targets, strict=True):
        for word in set(answer.split()):
            said += 1
            shared += word in target.split()
        wanted += len(set(target.split()))
    return 2 * shared / (said + wanted)


def test_a_corpus_metric(load, embedded, task, tmp_path):
    metric = load("my_metrics").WordF1()
    result = icl.sweep(
        embedded, task, metric=metric, conditions="examples", layers=[0, 4, 8],
        n_queries=6, seeds=0, max_new_tokens=8,
    )  # fmt: skip
    assert result.metric == "word_f1" and result.provenance["signature"] == metric.signature
    for place in range(3):
        said = result.texts[0][place][0]
        assert float(result.scores[0, place, 0]) == pytest.approx(f1_by_hand(said, result.targets))
    assert float(result.ceiling[0, 0]) > 0.9 > 0.5 > float(result.floor[0, 0])
    (found,) = icl.locate(result)
    assert found.layer in (4, 8) and found.ceiling > found.floor
    page = icl.write_report(result, tmp_path / "report.html").read_text("utf-8")
    assert "word_f1" in page and metric.signature in page
    loaded = icl.SweepResult.load(result.save(tmp_path / "result"))
    with pytest.raises(ResultError, match="set custom_metric with dataclasses.replace"):
        icl.locate(loaded)
    assert str(icl.locate(replace(loaded, custom_metric=metric))[0]) == str(found)


def test_a_function_as_metric_needs_nothing_when_it_is_loaded(load, model, task, tmp_path):
    first_word = load("my_metrics").first_word
    assert [first_word("le chat", "le chien"), first_word("chat", "le"), first_word("", "")] == [
        1.0, 0.0, 1.0,
    ]  # fmt: skip
    result = icl.sweep(model, task, metric=first_word, conditions="examples", **SMALL)
    loaded = icl.SweepResult.load(result.save(tmp_path / "result"))
    assert str(icl.locate(loaded)) == str(icl.locate(result))


def test_a_condition(load, model, task):
    both = load("my_conditions").BOTH
    result = icl.sweep(model, task, conditions=["examples", both], metric="log_prob", **SMALL)
    assert result.conditions == ("examples", "examples and query")
    setting = icl.studies.Setting.of(task, metric="log_prob", **SMALL)
    prompts = setting.prompts(model, 0, instruction=False)
    hidden = icl.ContextMask({icl.Segment.EXAMPLES, icl.Segment.QUERY}, icl.from_layer(1))
    wanted = icl.score_targets(model, prompts, hidden)
    assert torch.allclose(result.item_scores[1, 1, 0].float(), wanted, atol=1e-4)
    assert [found.condition for found in icl.locate(result)] == [*result.conditions]


def test_an_intervention(load, model, task):
    skip = load("my_interventions").SkipMLP
    prompts = icl.build_prompts(model, task.test[:3], examples=task.train, template=task.template)
    run = {"attention_mask": prompts.attention_mask}
    clean = model(prompts.tokens, **run)
    with icl.intervene(model, prompts, skip(1)):
        skipped, cache = model.run_with_cache(prompts.tokens, **run)
    before, after = (cache[f"blocks.1.{at}"] for at in ("hook_resid_mid", "hook_resid_post"))
    assert torch.equal(before, after) and not torch.equal(clean, skipped)
    assert torch.equal(model(prompts.tokens, **run), clean), "restored"
    with icl.intervene(model, prompts, skip(1) | icl.HeadAblation({(0, 0)}) | skip(1)):
        both = model(prompts.tokens, **run)
    with icl.intervene(model, prompts, icl.HeadAblation({(0, 0)})):
        ablated = model(prompts.tokens, **run)
    assert not torch.equal(both, ablated) and not torch.equal(both, skipped)


def test_an_intervention_in_a_sweep(load, model, task, tmp_path):
    result = load("my_sweep").compare(model, task, metric="log_prob", **SMALL)
    skip = load("my_interventions").SkipMLP(1)
    prompts = icl.studies.Setting.of(task, **SMALL).prompts(model, 1, instruction=False)
    for start in range(int(model.cfg.n_layers) + 1):
        hidden = icl.ContextMask("examples", icl.from_layer(start))
        wanted = icl.score_targets(model, prompts, hidden | skip)
        assert torch.allclose(result.item_scores[1, start, 1].float(), wanted, atol=1e-4)
    assert not torch.allclose(result.scores[0], result.scores[1], atol=1e-3)
    loaded = icl.SweepResult.load(result.save(tmp_path / "result"))
    assert [found.condition for found in icl.locate(loaded)] == [*result.conditions]


@pytest.mark.parametrize("metric", ["log_prob", "exact_match", "mine"])
def test_an_experiment(metric, load, model, task, tmp_path):
    study, skip = load("my_study"), load("my_interventions").SkipMLP
    chosen = load("my_metrics").WordF1() if metric == "mine" else metric
    found = study.mlp_study(model, task, metric=chosen, **SMALL)
    n_layers = int(model.cfg.n_layers)
    assert found.axes == {"layer": list(range(n_layers)), "seed": [0, 1]}
    assert found.scores.shape == (n_layers, 2) and found.n_items == 3
    if metric == "log_prob":
        prompts = icl.build_prompts(
            model, task.test[:3], examples=task.train, n_shots=1, template=task.template, seed=1
        )
        for layer in range(n_layers):
            wanted = icl.score_targets(model, prompts, skip(layer)).mean()
            assert float(found.scores[layer, 1]) == pytest.approx(float(wanted), abs=1e-5)
    low, high = found.score_interval()
    gap = found.spread().combine([[1, -1, *[0] * (n_layers - 2)]])
    low_gap, high_gap = gap.interval()[:, 0]
    assert low_gap <= float((found.scores[0] - found.scores[1]).mean()) + 1e-9
    assert low_gap <= gap.mean[0] <= high_gap
    mean = found.scores.mean(dim=-1)
    assert (low <= mean + 1e-9).all() and (mean <= high + 1e-9).all()
    assert list(found.to_dataframe().columns) == ["layer", "seed", "score"]
    assert found.to_xarray()["score"].shape == (n_layers, 2)
    assert {"fingerprint", "prompts_sha256", "signature", "versions"} <= {*found.provenance}
    loaded = study.MlpResult.load(found.save(tmp_path / "mlp"))
    assert loaded.layers == found.layers and torch.equal(loaded.statistics, found.statistics)
    known = replace(loaded, custom_metric=found.custom_metric)
    assert torch.equal(known.score_interval()[0], low)
    with pytest.raises(ResultError, match="^scores has the shape"):
        replace(found, layers=(0,))
    with pytest.raises(ResultError, match="^layers is None: expected the labels of the axis 'la"):
        replace(found, layers=None)


def test_the_command_scores_with_a_metric_of_ones_own(mine, capsys):
    asked = ["sweep", "--conditions", "examples", "--layers", "0", "8", *OPTIONS]
    assert cli.main([*asked, "--metric", "my_metrics:WordF1", "--output", "out"]) == 0
    printed = capsys.readouterr()
    assert "verdict" in printed.out, printed
    result = icl.SweepResult.load(mine / "out" / "result")
    assert result.metric == "word_f1"
    said = [texts[0] for texts in result.texts[0]]
    wanted = [f1_by_hand(some, result.targets) for some in said]
    assert np.allclose(result.scores[0, :, 0].numpy(), wanted)
    settings = result.provenance["settings"]
    assert settings["metric"] == "my_metrics:WordF1" and len(settings["metric_sha256"]) == 64


def test_a_changed_metric_is_another_recipe(mine, capsys):
    asked = ["sweep", "--conditions", "examples", "--layers", "0", "8", *OPTIONS]
    asked += ["--metric", "my_metrics:first_word", "--output", "out"]
    assert cli.main(asked) == 0
    assert cli.main(asked) == 0, "the same again replaces it"
    with (mine / "my_metrics.py").open("a") as file:
        file.write("# changed\n")
    capsys.readouterr()
    assert cli.main(asked) == 2
    assert "a result of another recipe (other metric_sha256)" in capsys.readouterr().err


def test_the_command_takes_conditions_of_ones_own(mine):
    asked = ["sweep", "--conditions-file", "mine.toml", "--metric", "log_prob", *OPTIONS]
    assert cli.main([*asked, "--layers", "0", "8", "--output", "out"]) == 0
    assert icl.SweepResult.load(mine / "out" / "result").conditions == ("examples and query",)


def test_the_command_has_an_intervention_of_ones_own_act_alongside(mine, capsys, embedded):
    asked = ["sweep", "--conditions", "examples", "--metric", "log_prob", "--layers", "0", "8"]
    asked += ["--alongside", "my_interventions:NO_MLP_1", "--output", "out", *OPTIONS]
    assert cli.main(asked) == 0, capsys.readouterr()
    result = icl.SweepResult.load(mine / "out" / "result")
    task = icl.load_task("pseudo-translation")
    prompts = icl.studies.Setting.of(task, **SMALL).prompts(embedded, 1, instruction=False)
    without = sys.modules["my_interventions"].SkipMLP(1)
    for place, start in enumerate(result.layers):
        mask = icl.ContextMask("examples", icl.from_layer(start)) | without
        wanted = icl.score_targets(embedded, prompts, mask)
        assert torch.allclose(result.item_scores[0, place, 1].float(), wanted, atol=1e-3)
    assert len(result.provenance["settings"]["alongside_sha256"]) == 64


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("my_metrics:first_word", "--alongside is <function first_word"),
        ("my_interventions:SkipMLP", "a class that cannot be made without arguments (TypeError"),
        (
            "my_interventions:NO_MLP_9",
            "no 'NO_MLP_9': it has SkipMLP, nothing, skip_mlps, NO_MLP_1",
        ),
        ("NO_MLP_1", "--alongside is 'NO_MLP_1': expected MODULE:NAME"),
    ],
)
def test_what_acts_alongside_is_an_intervention(named, message, mine, capsys):
    assert cli.main(["sweep", "--alongside", named, *OPTIONS]) == 2
    assert message in capsys.readouterr().err


WRONG = {
    "nothing:score": "but there is no module 'nothing' in",
    "my_metrics:recall": "my_metrics.py has no 'recall': it has first_word, WordF1",
    "my_metrics:": "expected MODULE:NAME, such as my_module:score for what my_module.py calls",
    "../my_metrics:WordF1": "expected MODULE:NAME",
    "my_metrics.py:WordF1": "there is no module 'my_metrics.py'",
    "broken:score": "the module 'broken' failed: ZeroDivisionError: division by zero",
    "leaves:score": "the module 'leaves' failed: SystemExit: 3",
    "lacks:score": "the module 'lacks' failed: ModuleNotFoundError: No module named 'lacking'",
    "shapes:Wide": "a class that cannot be made without arguments (TypeError: ",
    "shapes:width": "metric is 3: expected a name, a Metric or a function",
    "shapes:bleu": "the custom metric is called 'bleu' like one of icl_locate's own: rename it",
    "icl_locate.metrics:PassRate": "pass@1 runs the programs that the model writes: add --run-code",
    "shapes:judge": "judged runs the programs that the model writes: add --run-code",
}


@pytest.mark.parametrize("named", WRONG)
def test_what_is_named_wrongly_is_refused_in_words(named, mine, capsys):
    (mine / "broken.py").write_text("1 / 0")
    (mine / "leaves.py").write_text("raise SystemExit(3)")
    (mine / "lacks.py").write_text("import lacking")
    (mine / "shapes.py").write_text(
        "class Wide:\n    def __init__(self, width): ...\nwidth = 3\ndef bleu(a, t): return 1.0\n"
        "import icl_locate.metrics\njudge = icl_locate.metrics.PassRate(name='judged')\n"
    )
    assert cli.main(["sweep", "--metric", named, *OPTIONS]) == 2
    said = capsys.readouterr().err
    assert WRONG[named] in said and "Traceback" not in said


def test_nothing_is_imported_that_was_not_typed(mine):
    (mine / "bleu.py").write_text("raise RuntimeError")
    (mine / "json.py").write_text("raise RuntimeError")
    assert cli.main(["sweep", "--metric", "bleu:nonsense", *OPTIONS]) == 2
    assert cli.main(["sweep", "--metric", "my_metrics:recall", *OPTIONS]) == 2
    assert "bleu" not in sys.modules
    assert sys.path[-1] == str(mine), "last, so that no file there stands in for a library's"


def test_the_name_of_the_option_is_said():
    with pytest.raises(IclLocateError, match="^--mine is 'a b:c': expected MODULE:NAME"):
        importlib.import_module("icl_locate.cli.named").import_named("--mine", "a b:c")
