"""What README and docs/start.md tell newcomers to type runs as it is printed there.

Only sizes are made small, and only by what is given: short task files, a tiny model in a directory
named "gpt2". No types are checked here while it runs, as nobody's are who reads those pages.
"""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from icl_locate.cli import main
from icl_locate.tasks import pseudo

ROOT = Path(__file__).parents[2]
README, START = ROOT / "README.md", ROOT / "docs" / "start.md"
CAPITALS = {
    "Cuba": "Havana",
    "France": "Paris",
    "Japan": "Tokyo",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Nepal": "Kathmandu",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Syria": "Damascus",
    "Ghana": "Accra",
    "Mali": "Bamako",
    "Qatar": "Doha",
    "Cyprus": "Nicosia",
    "Latvia": "Riga",
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def write_deeper(directory):
    """The model again with as many layers as the pages speak of, and short answers."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory, n_layer=5))
    model.generation_config.eos_token_id = list(range(model.config.vocab_size - 20))
    model.save_pretrained(directory)


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A directory with a file of twenty lines, another of reviews, and a tiny GPT-2."""
    spec = importlib.util.spec_from_file_location("own_task", ROOT / "examples" / "own_task.py")
    own_task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own_task)
    write_deeper(own_task.write_model(tmp_path / "gpt2"))
    own_task.write_task(tmp_path / "reviews.jsonl")
    lines = [json.dumps({"source": s, "target": t}) for s, t in CAPITALS.items()]
    assert len(lines) == 20
    (tmp_path / "mine.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    shown: list[go.Figure] = []
    return shown


def run_python(page, shown, *changes):
    """Run a page's blocks one behind the other, in one session."""
    code = "\n".join(blocks(page, "python"))
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    session = {}
    exec(compile(code, str(page), "exec"), session)  # noqa: S102
    assert len(shown) == 1
    return session


def test_python_as_printed(newcomer, monkeypatch):
    monkeypatch.setattr(pseudo, "N_EXAMPLES", 5)
    session = run_python(README, newcomer)
    assert len(session["result"].conditions) == 6
    assert session["result"].item_scores.shape[-1] == 5


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_python_on_a_model_and_a_file_of_ones_own(page, newcomer):
    """What the comments beside the lines offer."""
    session = run_python(
        page,
        newcomer,
        ("icl.load_model()", 'icl.load_model("gpt2")'),
        ('"pseudo-translation"', '"mine.jsonl"'),
    )
    assert session["result"].conditions == ("examples",)
    assert session["result"].item_scores.shape[1:] == (len(session["result"].layers), 3, 20)


def shell_commands(page):
    """The ``icl-locate`` commands of a page, as bash reads them."""
    for block in blocks(page, "console"):
        for line in re.findall(r"^\$ icl-locate (.*?[^\\])$", block, re.M | re.S):
            done = subprocess.run(
                ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
            )
            yield done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_commands_on_files_of_ones_own(page, newcomer, tmp_path, capsys):
    commands = [c for c in shell_commands(page) if any(a.endswith(".jsonl") for a in c)]
    assert commands
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err
        if "--output" in command:
            output = tmp_path / command[command.index("--output") + 1]
            assert (output / "report.html").is_file()
    printed = capsys.readouterr().out
    assert "first prompt" in printed and "recognised by layer" in printed
