"""Shots, single layers, failures, presets, estimates, pass@k, and the figures of each."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch
from test_real_tasks import MBPP, write_code, write_flores

import icl_locate as icl
from icl_locate import plots
from icl_locate.cli import main
from icl_locate.errors import PromptError, ResultError, TaskError
from icl_locate.masking.estimate import estimate_sweep, measure_speed
from icl_locate.masking.failures import failure_rates, is_copy, is_empty
from icl_locate.masking.importance import layer_importance
from icl_locate.masking.published import SIA2024_TRANSLATION
from icl_locate.masking.shots import sweep_shots
from icl_locate.metrics import CorpusBleu, PassRate, first_sentence, get_metric, judged
from icl_locate.models.costs import ModelCosts
from icl_locate.prompts.programs import CodeCheck, pass_at_k

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
SHORT = {"n_queries": 3, "seeds": [0, 1], "max_new_tokens": 4}


def test_a_sweep_over_shots_is_a_sweep_for_each():
    model = tiny.boot("llama")
    results = sweep_shots(model, TASK, shots=(1, 2), conditions="examples", **SHORT)
    assert list(results) == [1, 2]
    alone = icl.sweep(model, TASK, n_shots=2, conditions="examples", **SHORT)
    assert results[2].texts == alone.texts and results[1].provenance["n_shots"] == 1
    figure = plots.shots_curves(results)
    names = [trace.name for trace in figure.data if trace.name]
    assert [name.split(":")[0] for name in names] == ["1", "2"]
    for shots in ((), (1, 1)):
        with pytest.raises(TaskError, match="shots is"):
            sweep_shots(model, TASK, shots=shots)
    with pytest.raises(ResultError, match="the result with 1 shots has no condition 'query'"):
        plots.shots_curves(results, "query")
    with pytest.raises(ResultError, match="no results were given"):
        plots.shots_curves({})


def test_importance_is_what_masking_a_layer_costs():
    model = tiny.boot("llama")
    options = {"n_shots": 2, "metric": "log_prob", "conditions": ["examples", "query"], **SHORT}
    result = icl.sweep(model, TASK, scope="only", **options)
    found = layer_importance(result)
    assert [each.condition for each in found] == ["examples", "query"]
    for each, curve in zip(found, result.scores.mean(-1), strict=True):
        torch.testing.assert_close(each.loss, curve[-1] - curve[:-1])
        assert each.ceiling == pytest.approx(float(curve[-1]))
        assert (each.interval[0] <= each.interval[1]).all() and each.loss.shape == (tiny.N_LAYERS,)
        assert all(each.interval[0, layer] > 0 for layer in each.critical)
        losses = [float(each.loss[layer]) for layer in each.critical]
        assert losses == sorted(losses, reverse=True)
    figure = plots.importance_curves(result, found)
    assert figure.layout.xaxis.title.text == "layer masked alone"
    for no_curve in (icl.locate, plots.layer_curves):
        with pytest.raises(ResultError, match="scope is 'only'.*use layer_importance"):
            no_curve(result)
    with pytest.raises(ResultError, match="this sweep masked from each layer on"):
        layer_importance(icl.sweep(model, TASK, **options))


def test_failures_are_counted(monkeypatch):
    model = tiny.boot("llama")
    result = icl.sweep(model, TASK, n_shots=2, conditions="examples", **SHORT)
    sources = ("the big cat sleeps here", "a dog barks at night", "rain falls")
    answers = ["", " The big CAT sleeps here", "Le chat noir dort sur la table."]
    texts = [[[list(answers) for _ in result.seeds] for _ in result.layers]]
    sources = (sources[0], answers[1], sources[2])
    planted = replace(result, texts=texts, sources=sources)
    rates = failure_rates(planted, labels={"Le chat noir dort sur la table."}, language="fr")
    assert list(rates) == ["empty", "copy", "wrong language", "no label"]
    for name, expected in (("empty", 1), ("copy", 1), ("wrong language", 1), ("no label", 2)):
        assert rates[name].shape == (1, tiny.N_LAYERS + 1, 2)
        assert (rates[name] == expected / 3).all(), name
    assert "no label" not in failure_rates(planted)
    figure = plots.failure_curves(planted, rates)
    assert {trace.name for trace in figure.data} == set(rates)
    with pytest.raises(ResultError, match="language is 'french'"):
        failure_rates(planted, language="french")
    scored = icl.sweep(model, TASK, conditions="examples", n_shots=2, metric="log_prob", **SHORT)
    with pytest.raises(ResultError, match="holds no answers"):
        failure_rates(scored)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ResultError, match=r"pip install 'icl-locate\[language\]'"):
        failure_rates(planted, language="fr")
    assert is_empty(" \n", "") and not is_empty(".", "")
    assert is_copy("A  b", "a b") and not is_copy("", "") and not is_copy("a", "b")


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (1, 1, 1, 1.0),
        (1, 0, 1, 0.0),
        (5, 2, 1, 0.4),
        (5, 2, 3, 0.9),
        (4, 4, 2, 1.0),
        (3, 2, 2, 1.0),
    ],
)
def test_pass_at_k_equals_cases_by_hand(n, c, k, expected):
    """5 samples of which 2 pass: of the 10 triples only 1 holds no passing one."""
    assert pass_at_k(n, c, k) == pytest.approx(expected)


def test_pass_at_k_refuses_what_it_cannot_estimate():
    with pytest.raises(TaskError, match="k is 3, but n_samples is 2: expected 1 to 2"):
        pass_at_k(2, 1, 3)
    with pytest.raises(TaskError, match="n_passed is 3, but n_samples is 2"):
        pass_at_k(2, 3, 1)


def test_pass_at_k_of_sampled_answers():
    task = icl.load_task("pseudo-python")
    metric = PassRate().bound_to(task.test)
    targets = [example.target for example in task.test[:2]]
    samples = [[targets[0], "x=["], ["x=[", "x=["]]
    assert metric.at_k(samples, targets, 1) == pytest.approx(0.25)
    assert metric.at_k(samples, targets, 2) == pytest.approx(0.5)
    with pytest.raises(TaskError, match="k is 3"):
        metric.at_k(samples, targets, 3)
    with pytest.raises(TaskError, match="there are no samples"):
        metric.at_k([], [], 1)
    with pytest.raises(TaskError, match="for which pass@1 knows no tests"):
        metric.statistics(["x"], ["y"])
    with pytest.raises(TaskError, match="asks for tests, but the query 'a' has none"):
        PassRate().bound_to([icl.Example("a", "b")])


def test_pass_at_1_says_how_many_programs_were_judged_in_one_process():
    pair = "class Pair(tuple): pass\ndef swap(x, y): return Pair((y, x))"
    plain = "def swap(x, y): return (y, x)"
    tests = "assert type(swap(1, 2)).__name__ in ('Pair', 'tuple') and swap(1, 2) == (2, 1)"
    example = icl.Example("swap", pair, check=CodeCheck(tests, entry_point="swap"))
    answers = [pair, plain, plain, ""]
    for wall, n_passed, n_shared in (("auto", 3, 1), ("sealed", 2, 0), ("shared", 3, 2)):
        metric = PassRate(timeout=20.0, wall=wall).bound_to([example])
        assert set(metric.judged().values()) == {0}
        assert metric.statistics(answers, [pair] * 4)[:, 0].sum() == n_passed
        assert judged(metric) == {"judged": 2, "judged_shared": n_shared, "unjudged": 3 - n_passed}
        assert f"|wall:{wall}|" in metric.signature
    assert judged(get_metric("bleu")) == {}
    with pytest.raises(TaskError, match="wall is 'open': expected one of 'auto', 'sealed'"):
        PassRate(wall="open")


def test_pass_at_1_in_a_sweep_must_be_asked_for():
    model = tiny.boot("llama")
    code = replace(icl.load_task("pseudo-python"), metric="pass@1")
    options = {"n_shots": 1, "n_queries": 2, "seeds": [0], "conditions": "examples"}
    with pytest.raises(TaskError, match="say metric='pass@1' if you want that"):
        icl.sweep(model, code, **options)
    result = icl.sweep(model, code, metric="pass@1", max_new_tokens=3, **options)
    assert result.metric == "pass@1" and (result.scores == 0).all()
    assert "tests in another process" in result.provenance["signature"]
    assert "|wall:auto|" in result.provenance["signature"]
    assert result.provenance["judged"] > 0 and result.provenance["judged_shared"] == 0
    assert icl.locate(result)[0].layer is None


def test_bleu_equals_sacrebleus_own_command(tmp_path):
    answers = ["Le chat noir dort. Il ronfle.", "the cat", "", "UNE maison bleue, là !"]
    targets = ["Le chat noir dort.", "le chat", "un chien", "Une maison bleue, là !"]
    files = {"answers": answers, "targets": targets, "firsts": [first_sentence(a) for a in answers]}
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for metric, hypotheses, *options in (
        ("bleu", "answers"),
        ("bleu_lc", "answers", "-lc"),
        ("bleu:zh", "answers", "--tokenize", "zh"),
        ("bleu_lc:first_sentence", "firsts", "-lc"),
    ):
        command = [sys.executable, "-m", "sacrebleu", tmp_path / "targets", "-i"]
        command += [tmp_path / hypotheses, "-b", "-w", "6", *options]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        ours = get_metric(metric)
        score = ours.score(ours.statistics(answers, targets).sum(axis=0))
        assert score == pytest.approx(float(printed), abs=1e-6), metric
        assert ours.name == metric
    assert get_metric("bleu_lc:first_sentence").signature.endswith("|answer:first sentence")
    with pytest.raises(TaskError, match="unknown metric 'bleu:latin'"):
        get_metric("bleu:latin")
    assert CorpusBleu.named("bleu:first_sentence:zh") == CorpusBleu(False, "zh", True)


def test_a_saved_result_knows_its_metric_again(tmp_path):
    model = tiny.boot("llama")
    options = {"n_shots": 1, "conditions": "examples", "metric": "bleu_lc:char:first_sentence"}
    result = icl.sweep(model, TASK, **options, **SHORT)
    loaded = icl.SweepResult.load(result.save(tmp_path / "r.safetensors"))
    assert loaded.scorer().name == "bleu_lc:char:first_sentence"
    assert [str(found) for found in icl.locate(loaded)] == [str(f) for f in icl.locate(result)]


def test_published_curves_lie_under_ones_own():
    model = tiny.boot("llama")
    result = icl.sweep(model, TASK, n_shots=1, **SHORT)
    figure = plots.layer_curves(result, reference=SIA2024_TRANSLATION)
    dotted = [trace for trace in figure.data if (trace.line.dash == "dot" and trace.opacity == 0.7)]
    assert len(dotted) == len(SIA2024_TRANSLATION) == 5
    by_name = {trace.name.split(":")[0]: trace for trace in dotted}
    examples = by_name["examples"]
    assert list(examples.y) == [12, 35.5, 40]
    assert examples.x[0] == pytest.approx(14 * tiny.N_LAYERS / 32), "their layer 15 counts from 1"


def test_an_estimate_counts_what_the_engine_computes():
    model = tiny.boot("llama")
    costs = ModelCosts.of(model.original_model.config)
    assert (costs.n_layers, costs.d_model, costs.widest) == (tiny.N_LAYERS, tiny.D_MODEL, 64)
    options = {"n_shots": 2, "n_queries": 4, "n_seeds": 2, "max_new_tokens": 5}
    few = estimate_sweep(model.tokenizer, costs, TASK, icl.PAPER_CONDITIONS[2:3], **options)
    prompts = icl.build_prompts(
        model, TASK.test[:4], examples=TASK.train, n_shots=2, template=TASK.template
    )
    assert few.n_prompts == 8 and few.n_cells == 4 * 2
    assert few.prompt_tokens == pytest.approx(float(prompts.attention_mask.sum()) / 4, abs=1)
    assert few.token_layers < few.hooked_token_layers
    more = estimate_sweep(model.tokenizer, costs, TASK, icl.PAPER_CONDITIONS, **options)
    assert more.token_layers > few.token_layers and more.n_cells == 6 * few.n_cells
    scored = estimate_sweep(
        model.tokenizer, costs, TASK, icl.PAPER_CONDITIONS, generates=False, **options
    )
    assert scored.token_layers < more.token_layers
    assert "about" in more.describe(1e9) and "about" not in more.describe()
    assert measure_speed("cpu", torch.float32, seconds=0.02) > 1e8
    short = replace(costs, n_ctx=10)
    with pytest.raises(PromptError, match="context holds 10"):
        estimate_sweep(model.tokenizer, short, TASK, icl.PAPER_CONDITIONS, **options)


FAMILIES = ("gpt_neo", "bloom", "llama", "starcoder2")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_presets_run_end_to_end_on_local_files(family, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tiny, "N_CTX", 2048)
    for sizes in (tiny._COMMON, tiny._GATED):  # room for sentences, spelt letter by letter
        monkeypatch.setitem(sizes, "max_position_embeddings", 2048)
    model = tiny.save(tiny.build(family), tmp_path / "model")
    flores = write_flores(tmp_path / "flores", n_dev=8)
    (tmp_path / "code").mkdir()
    write_code(tmp_path / "code", bank=MBPP)
    bank = [MBPP | {"task_id": 801 + i, "text": f"Add number {i}."} for i in range(3)]
    (tmp_path / "code" / "mbpp.jsonl").write_text("\n".join(map(json.dumps, bank)))
    common = f"--model {model} --n-shots 2 --seeds 0 --max-new-tokens 3 --quiet --batch-size 2"
    translation = f"sweep --preset sia2024-translation --data {flores} {common}"
    code = f"sweep --preset sia2024-code --data {tmp_path / 'code'} {common}"
    for command in (translation, code):
        assert main(f"{command} --dry-run --output {tmp_path / 'dry'}".split()) == 0
        printed = capsys.readouterr().out
        assert "conditions  examples; instructions+examples" in printed and "about" in printed
        assert not (tmp_path / "dry").exists()
    assert main(f"{translation} --direction en-tlh --output {tmp_path / 'x'}".split()) == 2
    assert "the direction is 'en-tlh'" in capsys.readouterr().err
    assert main(f"{translation} --output {tmp_path / 'translation'}".split()) == 0
    assert main(f"{code} --output {tmp_path / 'refused'}".split()) == 2
    assert "add --run-code" in capsys.readouterr().err
    made = [("translation", "bleu_lc:first_sentence")]
    if family in ("llama", "starcoder2"):  # which write the paper's programs
        assert main(f"{code} --run-code --output {tmp_path / 'programs'}".split()) == 0
        made.append(("programs", "pass@1"))
    for name, metric in made:
        result = icl.SweepResult.load(tmp_path / name / "result.safetensors")
        assert result.metric == metric and len(result.conditions) == 6
        assert result.scores.shape == (6, tiny.N_LAYERS + 1, 1)


@pytest.mark.usefixtures("no_pictures")
def test_conditions_from_a_file_shots_and_scopes_on_the_command_line(tmp_path, capsys):
    model = tiny.save(tiny.build("llama"), tmp_path / "model")
    conditions = tmp_path / "mine.toml"
    conditions.write_text(
        '[[condition]]\nname = "instruction alone"\nhide = ["INSTRUCTIONS"]\n\n'
        '[[condition]]\nname = "bare"\nhide = ["EXAMPLES"]\ninstruction = false\n'
    )
    common = f"--model {model} --n-queries 2 --seeds 0 --max-new-tokens 2 --quiet"
    output = tmp_path / "out"
    command = f"sweep {common} --output {output} --conditions-file {conditions} --shots 1 2"
    assert main(command.split()) == 0
    results = [icl.SweepResult.load(output / f"shots_{n}" / "result.safetensors") for n in (1, 2)]
    assert [r.conditions for r in results] == [("instruction alone", "bare")] * 2
    assert [r.provenance["n_shots"] for r in results] == [1, 2]
    capsys.readouterr()
    some = f"sweep {common} --output {tmp_path / 'some'} --n-shots 1 --layers 1"
    assert main([*some.split(), "--dry-run"]) == 0
    assert "18 cells" in capsys.readouterr().out, "six conditions, from layers 0, 1 and 3"
    assert main(some.split()) == 0
    assert icl.SweepResult.load(tmp_path / "some" / "result").layers == (0, 1, tiny.N_LAYERS)
    only = f"sweep {common} --output {output} --scope only --n-shots 1 --metric log_prob"
    assert main(only.split()) == 0
    assert "masked alone, a layer costs beyond doubt" in capsys.readouterr().out
    for wrong, message in (
        (command.replace("--shots 1 2", "--shots 1 1"), "--shots is (1, 1)"),
        (command.replace("--max-new-tokens 2", "--max-new-tokens 0"), "--max-new-tokens is 0"),
    ):
        assert main(wrong.split()) == 2
        assert message in capsys.readouterr().err
    both = f"{command} --conditions query"
    assert main(both.split()) == 2
    assert "not both" in capsys.readouterr().err
    for text, message in (
        ("condition = 3", "is no list of conditions"),
        ('[[condition]]\nname = "a"\nhide = ["EXAMPLE"]', "'EXAMPLE'"),
        ('[[condition]]\nname = "a"\nhide = []\nlayers = 3', "layers"),
        ("[[", "cannot be read"),
    ):
        conditions.write_text(text)
        assert main(command.split()) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_the_embedded_code_task_is_recognised_by_what_its_programs_do():
    """With its examples it writes programs that work; without, it falls to a language by habit."""
    model = icl.load_model(device="cpu")
    result = icl.sweep(
        model,
        icl.load_task("pseudo-python"),
        metric="pass@1",
        conditions="examples",
        n_queries=12,
        seeds=[0],
        max_new_tokens=60,
    )
    assert result.scores[0, -1, 0] >= 11 / 12
    assert result.scores[0, 0, 0] <= 6 / 12
