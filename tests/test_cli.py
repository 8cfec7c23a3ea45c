"""The command line, as a user runs it."""

import csv
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from saved_kinds import sweep_result
from timing import children_seconds

import icl_locate as icl
from icl_locate import cli
from icl_locate.cli import main
from icl_locate.cli.command import COMMANDS
from icl_locate.cli.writing import write_table

ROOT = Path(__file__).parents[1]

COMMAND = [sys.executable, "-m", "icl_locate.cli"]


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("command", [(), ("demo",), ("sweep",)])
def test_help_answers_at_once(command):
    best = min(_timed(*command, "--help") for _ in range(3))
    assert best < 1.0


def _timed(*arguments):
    before = children_seconds()
    done = run(*arguments)
    assert done.returncode == 0 and "--help" in done.stdout
    return children_seconds() - before


def test_the_first_word_comes_at_once():
    best = min(_first_word("demo", "--output", "/dev/null/nowhere") for _ in range(3))
    assert best < 1.0


def _first_word(*arguments):
    before = children_seconds()
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as running:
        line = running.stderr.readline()
        running.kill()
    assert line == "icl-locate demo: model embedded\n"
    return children_seconds() - before


TYPOS = {
    "sweep nonsense": "unknown task 'nonsense'",
    "sweep nothing.csv": "there is no task file nothing.csv",
    "sweep flores/en-klingon": "the direction is 'en-klingon'",
    "sweep --metric blue": "unknown metric 'blue'",
    "sweep --metric nowhere:score": "but there is no module 'nowhere' in",
    "sweep --metric my-module:score": "expected MODULE:NAME, such as my_module:score",
    "sweep --conditions exmples": "unknown condition 'exmples'",
    "sweep --conditions-file none.toml": "there is no such file",
    "sweep --scope onyl": "scope is 'onyl'",
    "sweep --seeds 0 0": "--seeds is (0, 0): expected a whole number, or a list of them, each once",
    "sweep --n-queries 0": "--n-queries is 0: expected a whole number of at least 1",
    "sweep --confidence 95": "--confidence is 95.0: expected a number above 0 and below 1",
    "sweep --model ./nowhere": "there is no model directory ./nowhere",
    "sweep --model a/b/c": "model is 'a/b/c': expected 'embedded', a local directory",
    "sweep --model gpt2:": "model is 'gpt2:': expected 'embedded', a local directory",
    "sweep --model nobody/nothing": "HF_HUB_OFFLINE is set",
    "sweep --revision main": "revision is 'main', but the model is the directory",
    "induction --fractions 3": "--fractions is 3.0: expected a number above 0 and at most 1",
    "induction --reference none": "there is no such file",
    "induction --n-effects -1": "--n-effects is -1: expected a whole number of at least 0",
    "gates --learning-rate 0": "--learning-rate is 0.0: expected a number above 0",
    "lora --layers 1 1": "--layers is (1, 1): expected a whole number, or a list of them, each",
    "compare nowhere": "--sweeps is 'nowhere': there is no such file or directory",
    "compare . . .": "there are 3 sweeps: expected one or two",
    "compare . --threshold 2": "--threshold is 2.0: expected a number above 0 and at most 1",
    "savings --model ./nowhere": "there is no model directory ./nowhere",
    "savings --measure --metric log_prob": "the metric 'log_prob' reads no answers: expected one",
    "gates --metric blue": "unknown metric 'blue'",
    "gates --metric pass@1": "pass@1 runs the programs that the model writes",
    "lora --metric log_prob": "expected one of bleu, bleu_lc, chrf, exact_match, token_accuracy,",
    "lora --sweep none": "there is no such file",
    "checkpoints --model ./nowhere": "--model is './nowhere': expected a directory of checkpoints",
    "checkpoints --revision main": "--revision is 'main': expected --revisions",
    "checkpoints --model gpt2 --revisions main": "'main' is of no known step",
    "checkpoints --model nobody/nothing --revisions step5": "'step5' is not on this machine",
    "checkpoints --conditions exmples": "unknown condition 'exmples'",
    "circuit --measures probe probe": "--measures is probe probe: expected some of alignment",
    "circuit --controls -1": "--controls is -1: expected",
    "triangulate --methods probe probe": "--methods is probe probe: expected each method once",
    "triangulate --n-heads 0": "--n-heads is 0: expected",
    "vectors --n-heads 0": "--n-heads is 0: expected",
    "vectors --metric blue": "unknown metric 'blue'",
}


def test_typos_are_refused_before_torch_is_loaded(tmp_path):
    code = """
import json, sys
from icl_locate.cli import main
for line in json.load(sys.stdin):
    print(line, file=sys.stderr)
    assert main([*line.split(), "--quiet"] if "savings" not in line else line.split()) == 2
    assert "torch" not in sys.modules, line
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(list(TYPOS)),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line, message in TYPOS.items():
        said = done.stderr.partition(f"{line}\n")[2].splitlines()
        assert any(text.startswith("icl-locate: ") and message in text for text in said[:2]), line
    assert not list(tmp_path.iterdir())


def test_a_hub_out_of_reach_is_asked_once():
    """Not six times with growing pauses, half a minute for each file."""
    away = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run("sweep", "--model", "nobody/nothing", "--quiet", env=os.environ | away, timeout=20)
    assert done.returncode == 2 and "Retrying" not in done.stderr
    assert "not on this machine, and the Hugging Face Hub cannot be reached" in done.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"icl-locate {icl.__version__}\n"


def test_every_command_that_takes_a_model_takes_a_revision():
    taken = {name: vars(config()).keys() for name, (config, _) in COMMANDS.items()}
    assert {name for name, fields in taken.items() if "model" in fields} == {*COMMANDS} - {
        "compare",
        "demo",
        "formation",
        "report",
    }
    assert all("revision" in fields for fields in taken.values() if "model" in fields)


@pytest.mark.parametrize("command", [*COMMANDS])
def test_every_option_is_documented(command):
    """Each field has a description, its own or one that it inherits, and --help prints it."""
    config, _ = COMMANDS[command]
    assert getattr(cli, config.__name__) is config
    source = "".join(map(inspect.getsource, config.__mro__[:-1]))
    printed = re.sub(r"[\s│]+", " ", run(command, "--help").stdout)
    for field in dataclasses.fields(config):
        described = rf'\n    {field.name}: (?:(?!\n\n).)*?\n    """(.+?)"""'
        found = re.search(described, source, re.DOTALL)
        assert found, f"{field.name} has no description"
        first_words = " ".join(found[1].split()[:4])
        assert first_words in printed, field.name


def test_sweep_writes_what_it_says(tmp_path, capsys):
    model = tiny.save(tiny.build("llama"), tmp_path / "model")
    task = tmp_path / "mine.jsonl"
    lines = [{"source": f"sort {w}", "target": "zimo"} for w in ("thin", "one", "zero", "count")]
    task.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    output = tmp_path / "out"
    status = main(
        f"sweep {task} --model {model} --output {output} --n-shots 2 --seeds 0 "
        "--metric log_prob --quiet".split()
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert "verdict" in printed and "examples" in printed
    for name in ("result.safetensors", "scores.csv", "report.html"):
        assert str(output / name) in printed and (output / name).stat().st_size > 0
    assert (output / "layer_curves.png").exists() or "no PNG" in printed
    rows = (output / "scores.csv").read_text().splitlines()
    assert rows[0] == "condition,layer,seed,score" and len(rows) == 1 + tiny.N_LAYERS + 1


ODD = [
    "", "NA", "été, 日本 𝄞", 'say "so"', " a\nb\n", "a\rb", "a\r\nb", "\u2028", "=1+1", "None", "'",
]  # fmt: skip


def odd_result(texts):
    """A result with these answers, and sources and targets like them."""
    n = len(texts)
    table = torch.stack([torch.arange(n).double() / n, torch.ones(n)], dim=-1)
    table = table.double().expand(1, 2, 1, n, 2).clone()
    return sweep_result(
        conditions=("c",), layers=(0, 1), seeds=(0,), statistics=table,
        item_scores=table[..., 0], scores=table[..., 0].mean(-1), texts=[[[texts], [texts[::-1]]]],
        sources=tuple(f"s{text}" for text in texts), targets=tuple(f"t{text}" for text in texts),
    )  # fmt: skip


@pytest.mark.parametrize("texts", [ODD, [text.replace("\r", "\n") for text in ODD]])
@pytest.mark.parametrize("reader", ["csv", "pandas"])
def test_answers_survive_the_table(texts, reader, tmp_path):
    """Carriage returns, too, which a model may write, and which end a row where they stand bare."""
    path, result = tmp_path / "answers.csv", odd_result(texts)
    assert write_table(result.to_dataframe(), path, {"model": "é"}) == [
        path, tmp_path / "answers.recipe.json"
    ]  # fmt: skip
    if reader == "pandas":
        frame = pd.read_csv(path, keep_default_na=False)
        rows = frame.to_dict("records")
    else:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [*texts, *texts[::-1]]
    assert [row["source"] for row in rows] == [f"s{text}" for text in texts] * 2
    assert [row["target"] for row in rows] == [f"t{text}" for text in texts] * 2
    assert [float(row["item_score"]) for row in rows] == result.item_scores.flatten().tolist()
    assert [int(row["layer"]) for row in rows] == [0] * len(texts) + [1] * len(texts)
    assert json.loads((tmp_path / "answers.recipe.json").read_text("utf-8")) == {"model": "é"}


def test_tables_are_plain_where_nothing_asks_for_more(tmp_path):
    write_table(odd_result(["a", "b"]).to_dataframe("cell"), tmp_path / "scores.csv", {})
    assert (tmp_path / "scores.csv").read_bytes() == (
        b"condition,layer,seed,score\nc,0,0,0.25\nc,1,0,0.25\n"
    )


@pytest.mark.parametrize("metric", ["token_accuracy", "log_prob"])
def test_a_sweep_writes_its_answers(metric, tmp_path):
    model = tiny.save(tiny.build("llama"), tmp_path / "model")
    task, output = tmp_path / "mine.jsonl", tmp_path / "out"
    lines = [{"source": f"sort {w}, é", "target": "zimo"} for w in ("thin", "one", "zero")]
    task.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    words = f"sweep {task} --model {model} --output {output} --n-shots 1 --seeds 0 1 --quiet"
    assert main([*words.split(), "--metric", metric, "--max-new-tokens", "3"]) == 0
    result = icl.SweepResult.load(output / "result")
    with (output / "answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result.item_scores.numel()
    places = list(product(*(range(size) for size in result.item_scores.shape)))
    for row, (c, layer, s, item) in zip(rows, places, strict=True):
        assert row["condition"] == result.conditions[c]
        assert (int(row["layer"]), int(row["seed"])) == (result.layers[layer], result.seeds[s])
        assert int(row["item"]) == item and row["source"] == result.sources[item]
        assert row["answer"] == (result.texts[c][layer][s][item] if result.texts else "")
        assert float(row["item_score"]) == result.item_scores[c, layer, s, item].item()
        assert float(row["score"]) == result.scores[c, layer, s].item()
    assert any(row["answer"] for row in rows) == (metric == "token_accuracy")
    recipe = json.loads((output / "answers.recipe.json").read_text("utf-8"))
    assert recipe == json.loads(json.dumps(dict(result.provenance)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "nothing.jsonl"], "there is no task file nothing.jsonl"),
        (["sweep", "nonsense"], "unknown task 'nonsense'"),
        (["sweep", "--model", "/no/such/model"], "there is no model directory /no/such/model"),
        (["sweep", "--conditions", "exmples"], "unknown condition 'exmples'"),
        (["sweep", "--metric", "blue"], "unknown metric 'blue'"),
        (["sweep", "--confidence", "95"], "confidence is 95.0"),
        (["sweep", "--output", __file__], "nothing can be written"),
        (["sweep", "--instruction", "Do:"], "brings its own template"),
        (["demo", "--output", f"{__file__}/deep"], "is in the way"),
    ],
)
def test_errors_are_one_line_and_a_status(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("icl-locate: ") and message in error
    assert "Traceback" not in error
    assert not list(Path(tmp_path).iterdir()), "nothing is written on bad input"


def test_demo_runs(tmp_path, capsys):
    assert (
        main(["demo", "--output", str(tmp_path), "--n-queries", "4", "--seeds", "0", "--quiet"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "all but self" in printed
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page), "the page needs nothing else"
    assert "Where the numbers come from" in page and "Every answer" in page
    figures = page.split('<figure class="plot')[1:]
    assert figures and all('"showSendToCloud": false' in figure for figure in figures)
