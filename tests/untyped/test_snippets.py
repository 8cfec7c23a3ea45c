"""What README and the pages tell their readers to type runs as it is printed there.

The modules that CONTRIBUTING prints have a test of their own. Only sizes are made small, and where
it goes only by what is given: short task files, a tiny model in a directory named "gpt2". No types
are checked here while it runs, as nobody's are who reads those pages.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import plotly.graph_objects as go
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.cli.command import _parse as parse
from icl_locate.cli.runs import RUNS
from icl_locate.tasks import pseudo

ROOT = Path(__file__).parents[2]
README, START = ROOT / "README.md", ROOT / "docs" / "start.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
VECTORS, CIRCUIT, WITNESSES = (
    ROOT / "docs" / f"{name}.md" for name in ("vectors", "circuit", "witnesses")
)
OWN_TESTS = {README, START, VECTORS, CIRCUIT, WITNESSES, ROOT / "CONTRIBUTING.md"}
OTHERS = [
    page for page in PAGES if page not in OWN_TESTS and "\n```python\n" in page.read_text("utf-8")
]
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
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(directory, n_layer=6))
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


GIVEN = {
    "checkpoints": """
        import shutil

        for name in ("step0100", "step0200"):
            shutil.copytree("gpt2", f"training/{name}")
    """,
    "experiments": """
        both = ["examples", icl.Condition("query", "query", instruction=False)]
        small = {"n_shots": 1, "n_queries": 3, "seeds": 0, "conditions": both}
        result = icl.sweep(model, "mine.jsonl", metric="exact_match", **small)
        other = icl.sweep(model, "mine.jsonl", metric="exact_match", **small | {"seeds": 1})
    """,
    "formation": "",
    "heads": "",
    "induction": "texts = ['Cuba is an island', 'Peru is not']",
    "locations": """
        small = {"n_shots": 1, "n_queries": 3, "seeds": (0, 1), "metric": "log_prob"}
        result = icl.sweep(model, "mine.jsonl", **small)
    """,
    "masks": """
        task = icl.load_task("mine.jsonl")
        prompts = icl.build_prompts(model, task.test[:2], examples=task.train, n_shots=2)
        mask = icl.ContextMask("examples", icl.from_layer(1))
    """,
    "runs": "",
    "savings": "",
    "states": "",
    "store": """
        from dataclasses import replace

        task = replace(icl.load_task("mine.jsonl"), metric="log_prob")
    """,
}
"""What a page's code takes for granted, by the page's name: its readers have it already."""
SMALL = {
    "icl.load_model()": 'icl.load_model("gpt2")',
    '"meta-llama/Llama-3.1-8B", 14': '"gpt2", 1',
    "n_queries=16, seeds=[0, 1]": "n_queries=2, seeds=[0]",
    "n_sequences=20_000": "n_sequences=64",
    "n_sequences=800_000": "n_sequences=64",
    "n_sequences=150_000": "n_sequences=64",
    "n_queries=32": "n_queries=2",
    "n_queries=64": "n_queries=4",
    '"meta-llama/Llama-3.1-8B", device="cpu", dtype="bfloat16"': '"gpt2"',
    "icl.RayExecutor(n_workers=8, num_gpus=1)": "None",
}
"""What stands on the pages, and what is run in its place."""


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_python_of_the_other_pages(page, newcomer):
    session = {"icl": icl, "model": icl.load_model("gpt2")}
    exec(dedent(GIVEN[page.stem]), session)  # noqa: S102
    code = "\n".join(blocks(page, "python"))
    for printed, small in SMALL.items():
        code = code.replace(printed, small)
    exec(compile(code, str(page), "exec"), session)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_named_is_public(page):
    """A dotted name is one that a public module lists, and a method of it at most."""
    named = re.findall(r"(?<!-m )\bicl_locate\.([a-z_]+)\.(\w+)", page.read_text("utf-8"))
    if page.stem == "api":
        assert len(named) > 60
    for module, name in named:
        assert module in {*icl.__all__, "errors"}, f"icl_locate.{module}.{name} is no public path"
        assert name in getattr(icl, module).__all__, f"icl_locate.{module} lists no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_commands(page, tmp_path, monkeypatch):
    """Each of them is understood, with every option."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for text in blocks(page, "toml"):
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    for text in blocks(page, "python"):
        for name in re.findall(r"\A# (\w+)\.py\n", text):
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    for command in shell_commands(page):
        if "--config" in command:
            path = tmp_path / command[command.index("--config") + 1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(blocks(page, "toml")[0], encoding="utf-8")
        config = parse(command)
        if not is_of_runs(config):
            config.check()
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def is_of_runs(config):
    return type(config) in RUNS


def test_python_as_printed(newcomer, monkeypatch):
    monkeypatch.setattr(pseudo, "N_EXAMPLES", 5)
    session = run_python(README, newcomer, ("n_queries=16", "n_queries=5"))
    assert len(session["result"].conditions) == 6
    assert session["result"].item_scores.shape[-1] == 5


def run_small(page, *changes):
    """Run a page's blocks in one session, on the embedded model, each of the changes made."""
    code = "\n".join(blocks(page, "python"))
    for printed, small in changes:
        assert printed in code
        code = code.replace(printed, small)
    session = {}
    exec(compile(code, str(page), "exec"), session)  # noqa: S102
    return session


def test_python_of_vectors_as_printed(capsys):
    """On the embedded model: a random one answers nothing, so that there is no vector to take."""
    session = run_small(
        VECTORS, ("n_queries=32", "n_queries=4"), ('"n_queries": 32', '"n_queries": 4')
    )
    assert len(session["tv"].layers) == session["model"].cfg.n_layers
    assert "few-shot" in capsys.readouterr().out and len(session["scores"].layers) == 10


def test_python_of_the_circuit_as_printed():
    """What the page says of the embedded model's heads holds for a few prompts, too."""
    session = run_small(
        CIRCUIT,
        ('"n_queries": 128, "seeds": (0, 1, 2)', '"n_queries": 16'),
        ("n_queries=128", "n_queries=16"),
        ("presets=None", "presets=None, n_calibration=32"),
    )
    assert session["cuts"].windows[-1] == (0, 10) and len(session["probe"].arms) == 9
    assert {(4, 3), (5, 2), (6, 2)} <= {*session["found"]}


def test_python_of_witnesses_as_printed(capsys, monkeypatch):
    """On the embedded model: of a random one no method tells a layer."""
    shown = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    session = run_small(
        WITNESSES,
        ("n_queries=32", "n_queries=4, seeds=0"),
        ("n_shots=8", 'n_shots=8, probe={"n_calibration": 32}'),
        ("max_new_tokens=10", "max_new_tokens=4"),
    )
    printed = capsys.readouterr().out
    agreed, words = session["agreed"], session["words"]
    assert len(shown) == 1 and len(shown[0].data) >= len(agreed.methods)
    assert agreed["masking"].label in printed and words["function_vector"].label in printed
    assert str(agreed.differences[-1]) in printed and "Left out:" in printed


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
    assert "first prompt" in printed and "verdict" in printed
