"""The command line, as a user runs it."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from icl_locate.cli import DemoConfig, SweepConfig, main

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
    start = time.perf_counter()
    done = run(*arguments)
    assert done.returncode == 0 and "--help" in done.stdout
    return time.perf_counter() - start


@pytest.mark.parametrize("config", [SweepConfig, DemoConfig])
def test_every_option_is_documented(config):
    """Each field has a description, and --help prints it."""
    source = inspect.getsource(config)
    text = run(config.__name__.removesuffix("Config").lower(), "--help").stdout
    printed = re.sub(r"[\s│]+", " ", text)
    for field in dataclasses.fields(config):
        found = re.search(rf"    {field.name}: .*\n    \"\"\"(.+?)\"\"\"", source, re.DOTALL)
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
    assert "recognised by layer" in printed and "examples" in printed
    for name in ("result.safetensors", "scores.csv", "report.html"):
        assert str(output / name) in printed and (output / name).stat().st_size > 0
    assert (output / "layer_curves.png").exists() or "no PNG" in printed
    rows = (output / "scores.csv").read_text().splitlines()
    assert rows[0] == "condition,layer,seed,score" and len(rows) == 1 + tiny.N_LAYERS + 1


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
    assert "Recipe" in page and "One answer over the layers" in page
    figures = page.split("Plotly.newPlot(  ")[1:]
    assert figures and all('"showSendToCloud": false' in figure for figure in figures)
