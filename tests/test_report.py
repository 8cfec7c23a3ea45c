"""Pages without a browser: what they say, what they hold, and which result gets which."""

import dataclasses
import gzip
import html
import json
import re
from base64 import b64decode
from importlib.resources import files

import pytest
import saved_kinds
from plotly.offline import get_plotlyjs
from simulated import Simulated

import icl_locate as icl
from icl_locate.checkpoints import OverCheckpoints
from icl_locate.cli import main
from icl_locate.errors import ResultError
from icl_locate.masking.failures import has_answers
from icl_locate.metrics import METRICS
from icl_locate.plots.frame import metric_scale
from icl_locate.report import write_run_report
from icl_locate.report.figures import html_figure
from icl_locate.report.kinds import KINDS, kind_of, read_run
from icl_locate.report.prompt import html_prompt
from icl_locate.report.words import condition_rows, hidden_from, tell

EXAMPLES = {"name": "examples", "hide": ["EXAMPLES"], "instruction": False}


def simulated(layer=4, seed=0, **changes):
    found = Simulated(n_layers=8, layer=layer, ceiling=0.95).result(seed=seed)
    recorded = {**found.provenance, "model": "m", "task": "t", "n_shots": 4}
    recorded["conditions"] = [{**EXAMPLES, "name": name} for name in found.conditions]
    return dataclasses.replace(found, provenance=recorded, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "From layer 4 of 8 on, the model no longer needs to see its examples (95 % interval"),
        ({"after": 1}, "From one of layers 2 to 4 of 8 on, the model no longer needs"),
        ({"interval": (4, 4)}, "(95 % interval: layer 4)."),
        ({"verdict": "never recovered"}, "The model needs to see its examples up to its last"),
        ({"verdict": "no effect", "interval": None}, "changes nothing beyond noise."),
        ({"verdict": "context harms", "interval": None}, "does better where it cannot see its"),
        ({"verdict": "not resolved"}, "does not tell where the model stops needing to see"),
    ],
)  # fmt: skip
def test_a_finding_is_a_sentence(changes, words):
    found = dataclasses.replace(icl.locate(simulated())[0], layer=4, after=3)
    assert words in tell(dataclasses.replace(found, **changes), EXAMPLES)


def test_what_is_hidden_is_said_in_words():
    named = {condition.name: condition for condition in icl.PAPER_CONDITIONS}
    described = {
        name: {"hide": [s.name for s in sorted(c.hide)], "instruction": c.instruction,
               "keep_self": c.keep_self}
        for name, c in named.items()
    }  # fmt: skip
    said = [hidden_from(described[name], name) for name in named]
    assert said == [
        "its examples",
        "its instructions and its examples",
        "its examples, while its instructions stay in sight",
        "the query",
        "its instructions, its examples and the query",
        "anything but the word that it stands at",
    ]
    assert hidden_from(None, "<b>") == "what “<b>” hides"
    assert hidden_from({"hide": ["SOMETHING"]}, "x") == "what “x” hides"
    assert condition_rows(saved_kinds.sweep_result())[0] == ("a", "not recorded", "not recorded")


@pytest.mark.parametrize("metric", [*METRICS, "bleu:zh", "bleu_lc:first_sentence"])
def test_every_metric_s_scale_is_explained(metric):
    assert metric_scale(metric)


def test_the_prompt_is_the_one_that_the_model_read(embedded):
    task = icl.load_task("pseudo-translation")
    prompts = icl.build_prompts(
        embedded, task.test[:3], examples=task.train, n_shots=4, template=task.template, seed=7
    )
    queries = task.test[:3]
    result = saved_kinds.sweep_result(
        seeds=(7, 8),
        sources=tuple(q.source for q in task.test[:4]),
        targets=tuple(q.target for q in task.test[:4]),
        provenance={
            "task": task.name,
            "template": dataclasses.asdict(task.template),
            "n_shots": 4,
            "choice": "random",
            "conditions": [{**EXAMPLES, "instruction": True}],
        },
    )
    shown = _text(html_prompt(result))
    wanted = task.template.answer(queries[0].target)
    assert shown.endswith(prompts.texts[0] + wanted) and "as the model read it" in shown
    other = dataclasses.replace(result, sources=("x", *result.sources[1:]))
    shown = _text(html_prompt(other))
    assert "‹query of example 4›" in shown and "Q:xA:" in shown
    said = {**other.provenance, "first_shots": [["<b>", "1"]] * 4}
    shown = _text(html_prompt(dataclasses.replace(other, provenance=said)))
    assert shown.count("Q:<b>A:1") == 4 and "as the model read it" in shown


def _text(page):
    return html.unescape(re.sub("<[^>]*>", "", page))


def test_nothing_is_said_of_a_prompt_that_is_not_recorded():
    assert html_prompt(saved_kinds.sweep_result()) == ""
    broken = saved_kinds.sweep_result(provenance={"bare_template": {"source_prefix": 3}})
    assert html_prompt(broken) == ""


def test_every_answer_stands_in_the_page(tmp_path):
    result = saved_kinds.sweep_result(
        texts=[[[[f"{c}{i}{s}😀\"</script>{x % 2}" for x in range(4)] for s in range(2)]
                for i in range(3)] for c in range(2)],
    )  # fmt: skip
    page = icl.write_report(result, tmp_path / "page.html").read_text("utf-8")
    block = re.search('id="answers-data">([^<]*)<', page)[1]
    held = json.loads(gzip.decompress(b64decode(block)))
    table = result.to_dataframe("answer")
    assert [held["strings"][i] for i in held["texts"]] == table["answer"].tolist()
    assert held["scores"] == pytest.approx(table["item_score"].tolist(), rel=1e-5)
    assert len(held["strings"]) == 24, "each different text once"
    assert not has_answers(dataclasses.replace(result, texts=[]))


def test_savings_follow_the_published_formula(tmp_path):
    result = simulated()
    found = icl.locate(result)[0]
    page = icl.write_report(result, tmp_path / "page.html").read_text("utf-8")
    share = icl.savings.paper_share(8, found.layer, 4)
    section = page.split('<section id="savings"')[1].split("</section>")[0]
    assert f"<td>{found.layer}</td><td>{share:.0%}</td>" in section


def test_a_figure_has_its_numbers_as_a_table():
    result = simulated()
    page = html_figure(icl.plots.layer_curves(result), "curves & more")
    rows = re.findall("<tr>(.*?)</tr>", page)
    assert len(rows) == 1 + len(result.layers)
    middle = float(result.scores[0, 3].mean())
    assert f'<th scope="row">3</th><td>{middle:.4g}</td>' in page
    assert 'aria-label="curves &amp; more"' in page


def test_no_script_ends_the_page_s_block_of_it():
    """They stand in it as they are."""
    assets = files("icl_locate.report") / "assets"
    for text in (get_plotlyjs(), *(one.read_text("utf-8") for one in assets.iterdir())):
        assert "</script" not in text.lower() and "<!--" not in text


@pytest.mark.parametrize("name", [*saved_kinds.VALUES])
def test_every_result_that_is_saved_has_a_page(name, tmp_path):
    value = saved_kinds.VALUES[name]
    found = read_run(value.save(tmp_path / "result"))
    assert type(found["result"]) is type(value)
    assert type(value) in (*kind_of(found).needs, *kind_of(found).takes)


def test_pages_are_named_as_the_commands_name_them():
    named = {"report", "checkpoints", "induction", "circuit", "vectors", "agreement", "formation",
             "savings", "gates", "lora", "result"}  # fmt: skip
    assert {kind.page for kind in KINDS} == {f"{name}.html" for name in named}


def test_the_command_writes_one_run_s_page_or_that_of_several(tmp_path, capsys):
    for name, layer in (("one", 3), ("two", 5)):
        simulated(layer).save(tmp_path / name / "result")
    both = [str(tmp_path / "one"), str(tmp_path / "two" / "result.safetensors")]
    out = ["--output", str(tmp_path / "out"), "--quiet"]
    assert main(["report", both[0], *out, "--confidence", "0.8"]) == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert (
        "80 % interval" in page and str(tmp_path / "out" / "report.html") in capsys.readouterr().out
    )
    assert (tmp_path / "out" / "config.toml").is_file()
    assert main(["report", both[0], "--output", both[0], "--quiet"]) == 0
    assert not (tmp_path / "one" / "config.toml").exists(), "a run's options are its own"
    assert main(["report", *both, *out]) == 0
    page = (tmp_path / "out" / "runs.html").read_text("utf-8")
    differences = icl.compare(simulated(3), simulated(5))
    assert differences[0].verdict == "earlier" and html.escape(f"{differences[0]}.") in page
    assert page.count('<figure class="plot') == len(simulated().conditions) + 1


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (["nowhere"], "'nowhere': there is no such file or directory"),
        (["empty"], "holds no result that has a page: it holds no .safetensors file"),
        (["sweep", "gates"], "gates holds GatesResult: several runs on one page are sweeps"),
        (["sweep", "sweep"], "expected each once"),
    ],
)
def test_the_command_says_what_it_cannot_show(runs, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    saved_kinds.VALUES["sweep"].save("sweep/result")
    saved_kinds.VALUES["gates"].save("gates/gates")
    assert main(["report", *runs, "--quiet"]) == 2
    assert words in capsys.readouterr().err


def test_runs_of_two_metrics_are_shown_and_not_compared(tmp_path):
    one, two = simulated(), simulated(5)
    two = dataclasses.replace(two, provenance={**two.provenance, "signature": "another"})
    page = write_run_report(tmp_path / "page.html", {"a": one, "b": two}).read_text("utf-8")
    assert "a and b are not compared: result_a is scored by" in html.unescape(page)
    with pytest.raises(ResultError, match="two sweeps or more"):
        write_run_report(tmp_path / "page.html", {"a": one})


def test_run_curves_share_one_axis():
    one, two = simulated(), simulated(5)
    figure = icl.plots.run_curves({"a": one, "b<i>": two})
    curves = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert [trace.name.split("<br>")[0] for trace in curves] == ["a", "b&lt;i&gt;"]
    assert [list(trace.x) for trace in curves] == [list(one.layers)] * 2
    deeper = Simulated(n_layers=12, layer=6).result()
    figure = icl.plots.run_curves({"a": one, "deeper": deeper})
    assert {trace.x[-1] for trace in figure.data if trace.mode == "lines+markers"} == {1.0}
    with pytest.raises(ResultError, match="no condition 'query'"):
        icl.plots.run_curves({"a": one}, "query")
    other = dataclasses.replace(two, metric="mine", custom_metric=None)
    with pytest.raises(ResultError, match="share no axis"):
        icl.plots.run_curves({"a": one, "b": other})


def test_the_page_tells_answers_in_another_language(tmp_path):
    english, french = "The cat sleeps on the table tonight.", "Le chat dort sur la table ce soir."
    result = saved_kinds.sweep_result(
        texts=[[[[english] * 3 + [""]] * 2, *[[[french] * 4] * 2] * 2]] * 2,
        provenance={"task": "flores/en-fr", "model": "m"},
    )
    page = icl.write_report(result, tmp_path / "page.html").read_text("utf-8")
    assert '<th scope="row">a: wrong language</th><td>75.0%</td><td>0.0%</td>' in page
    assert '<th scope="row">a: empty</th><td>25.0%</td><td>0.0%</td>' in page


def test_results_over_checkpoints_have_their_page(tmp_path):
    over = OverCheckpoints((10, 20), ("a", "b"), {"curves": [simulated(5), simulated(3)]})
    over.save(tmp_path / "training")
    found = read_run(tmp_path / "training")
    page = kind_of(found).write(tmp_path / "page.html", found, 0.95).read_text("utf-8")
    assert "2 checkpoints were measured, from step 10 to step 20." in page
    assert "recognised by layer 5" in page and "at step 20." in page
