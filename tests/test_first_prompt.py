"""The commands show the first prompt by segment before they score anything."""

import json
import re
import sys

import pytest

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.cli.first_prompt import print_first_prompt
from icl_locate.errors import TaskError

CITIES = {"Cuba": "Havana", "France": "Paris", "Japan": "Tokyo", "Chile": "Santiago"}
ANSI = re.compile(r"\x1b\[\d+m")


@pytest.fixture
def task(tmp_path):
    lines = [json.dumps({"source": c, "target": t}) for c, t in CITIES.items()]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_lines_are_labelled_where_there_is_no_terminal(task, capsys):
    print_first_prompt(icl.load_task(task), n_shots=1, instruction=False, seed=3)
    assert capsys.readouterr().out == (
        "first prompt, 1 shot, seed 3:\n\n"
        "examples | Q: France\n"
        "examples | A: Paris\n"
        "examples |\n"
        "query    | Q: Cuba\n"
        "query    | A:\n"
        "wanted   |  Havana\n\n"
    )


@pytest.mark.parametrize("instruction", [True, False])
def test_colours_are_the_segments_and_the_text_is_the_prompts(
    instruction, capsys, monkeypatch, embedded
):
    on_a_terminal(monkeypatch)
    task = icl.load_task("pseudo-translation")
    print_first_prompt(task, n_shots=2, instruction=instruction, seed=1)
    head, printed = capsys.readouterr().out.split("\n\n", 1)
    template = task.template_for(instruction=instruction)
    options = {"examples": task.train, "n_shots": 2, "template": template, "seed": 1}
    text = icl.build_prompts(embedded, task.test[:1], **options).texts[0]
    assert ANSI.sub("", printed) == text + task.test[0].target + "\n\n"
    for colour, name in {"33": "instructions", "36": "examples", "32": "query"}.items():
        there = name != "instructions" or instruction
        assert (f"\x1b[{colour}m{name}" in head) == there
        assert (f"\x1b[{colour}m" in printed) == there
    assert f"\x1b[35m{task.test[0].target}\x1b[0m" in printed
    monkeypatch.setenv("NO_COLOR", "1")
    print_first_prompt(task, n_shots=2, instruction=instruction)
    assert not ANSI.search(capsys.readouterr().out)


def test_text_gives_the_terminal_no_orders(capsys, monkeypatch):
    on_a_terminal(monkeypatch)
    query = icl.Example("a\x1b]0;mine\x07\x1b[2Jb\r", "c\u202ed")
    template = icl.PromptTemplate()
    print_first_prompt(icl.Task("t", (), (query,), template), n_shots=0, instruction=False)
    printed = ANSI.sub("", capsys.readouterr().out)
    assert r"a\x1b]0;mine\x07\x1b[2Jb\r" in printed and r"c\u202ed" in printed
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(printed)


def test_long_prompts_are_cut_in_the_middle(capsys):
    bank = tuple(icl.Example(f"s{i}", "t") for i in range(99))
    task = icl.Task("t", bank, bank[:1], icl.PromptTemplate())
    print_first_prompt(task, n_shots=98, instruction=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 50 and any("... (" in line for line in lines)
    assert lines[-3:-1] == ["query    | Q:s0A:", "wanted   | t"]


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        (["sweep"], "icl_locate.studies.setting.answer"),
        (["induction", "--shots", "2"], "icl_locate.induction.head_scores"),
        (["gates"], "icl_locate.gates.train_gates"),
        (["lora"], "icl_locate.lora.lora_by_layer"),
    ],
)
def test_commands_print_it_before_they_score(
    arguments, function, task, tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise TaskError("enough")

    monkeypatch.setattr(function, stop)
    shots = ["--n-shots", "2"] if arguments[0] in ("sweep", "gates") else []
    command = [arguments[0], str(task), *arguments[1:], *shots, "--output", str(tmp_path / "out")]
    assert main(command) == 2
    found = capsys.readouterr()
    assert "first prompt, " in found.out and "query" in found.out and "enough" in found.err
    assert re.search(r"^wanted +\|  Havana$", found.out, re.MULTILINE)
    assert main([*command, "--quiet"]) == 2
    assert "first prompt" not in capsys.readouterr().out


def test_a_dry_run_prints_it(task, tmp_path, capsys):
    options = ["--n-shots", "2", "--dry-run", "--quiet", "--output", str(tmp_path / "out")]
    assert main(["sweep", str(task), *options]) == 0
    assert "query    | Q: Cuba\nquery    | A:\n" in capsys.readouterr().out
    assert main(["sweep", str(task), *options, "--source-prefix", "In: "]) == 0
    assert "query    | In: Cuba\nquery    | A:\n" in capsys.readouterr().out
    assert main(["sweep", str(task), *options, "--instruction", "Name the capital:"]) == 0
    assert "instructions | Name the capital:\n" in capsys.readouterr().out
