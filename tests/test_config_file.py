"""A command's options as a file: written, read, checked, and run again."""

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.cli.command import COMMANDS
from icl_locate.cli.config_file import (
    config_text,
    options_of,
    read_config_file,
    settle_paths,
    write_config,
)
from icl_locate.errors import IclLocateError

ROOT = Path(__file__).parents[1]
KINDS = {name: kind for name, (kind, _) in COMMANDS.items()}
UNWRITTEN = {"config", "overwrite", "dry_run"}
TEXTS = st.text(min_size=1).filter(lambda text: "\0" not in text and not _is_lone(text))


def _is_lone(text):
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def values_of(name, annotation):
    """Values that an option of an annotation may have."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_of(name, inner[0])
    if name == "seeds":
        return st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True).map(tuple)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        return st.lists(values_of(name, inner[0]), max_size=3).map(tuple)
    if inner:  # a union
        return st.one_of(*(values_of(name, one) for one in inner))
    return {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(2, 10_000),
        float: st.floats(0, 1, exclude_min=True, exclude_max=True),
        str: TEXTS,
        Path: TEXTS.map(Path),
    }[annotation]


def configs(kind):
    hints = get_type_hints(kind, include_extras=True)
    fields = {f.name: values_of(f.name, hints[f.name]) for f in dataclasses.fields(kind)}
    return st.builds(kind, **{name: fields[name] for name in fields if name not in UNWRITTEN})


@pytest.mark.parametrize("command", [*KINDS])
@given(data=st.data())
def test_every_option_of_every_command_comes_back(command, data, tmp_path_factory):
    config = data.draw(configs(KINDS[command]))
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config_text(config), encoding="utf-8", newline="")
    again = options_of(read_config_file(path), KINDS[command])
    assert again == config
    for field in dataclasses.fields(config):
        ours, theirs = getattr(config, field.name), getattr(again, field.name)
        assert type(ours) is type(theirs), field.name
        if isinstance(ours, tuple):
            assert list(map(type, ours)) == list(map(type, theirs)), field.name


@pytest.mark.parametrize("command", [*KINDS])
def test_what_is_left_out_is_none_by_default(command):
    """Since a file cannot say None: an option that may be None must be so where nobody gives it."""
    kind = KINDS[command]
    assert kind.command == command
    for name, hint in get_type_hints(kind).items():
        optional = get_origin(hint) is not None and type(None) in get_args(hint)
        if optional and name in vars(kind()):
            assert getattr(kind(), name) is None, name


def text_of(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('command = "sweep"\nn_shot = 5', "has 'n_shot', no option of sweep: did you mean n_s"),
        ('command = "sweep"\nzzzzz = 5', "has 'zzzzz', no option of sweep: expected some of task,"),
        ('command = "sweep"\nconfig = "a"', "has 'config', no option of sweep"),
        ('command = "sweep"\nn_shots = "5"', "n_shots is '5': expected a whole number"),
        ('command = "sweep"\nn_shots = true', "n_shots is True: expected a whole number"),
        ('command = "sweep"\nn_shots = 5.0', "n_shots is 5.0: expected a whole number"),
        ('command = "sweep"\nquiet = 1', "quiet is 1: expected True or False"),
        ('command = "sweep"\ntask = 1', "task is 1: expected text"),
        ('command = "sweep"\ndata = 1', "data is 1: expected a path"),
        ('command = "sweep"\nlayers = ["0"]', "layers[0] is '0': expected a whole number"),
        ('command = "sweep"\nconditions = "examples"', "conditions is 'examples': expected"),
        ('command = "sweep"\nengine = "fast"', "engine is 'fast': expected"),
        ('command = "sweep"\nconfidence = 1979-05-27', "confidence is datetime.date(1979"),
        ('command = "gates"', "is of the command 'gates': expected one of 'sweep'; run icl-"),
        ("n_shots = 5", 'names no command: expected the options of one, beginning with a line'),
        ("command = 5", "names no command"),
        ('command = "sweep"\nfiles = 1', "has files that are none"),
        ('command = "sweep"\n[files.task]\npath = "a"', "has files that are none"),
        ('command = "sweep', "cannot be read: "),
        ('command = "sweep"\ncommand = "sweep"', "cannot be read: "),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(text, message, tmp_path, capsys):
    path = text_of(tmp_path, text)
    assert main(["sweep", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"icl-locate: --config {path}") and message in error
    assert error.count("\n") == 1


def test_a_file_that_is_not_there(capsys, tmp_path):
    assert main(["sweep", f"--config={tmp_path}/none.toml"]) == 2
    assert "none.toml cannot be read: No such file or directory" in capsys.readouterr().err
    assert main(["sweep", "--config", str(tmp_path)]) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err


@pytest.fixture
def parsed(monkeypatch):
    """The options that commands would run with."""
    found = []
    for name, (kind, _) in [*COMMANDS.items()]:
        monkeypatch.setitem(COMMANDS, name, (kind, found.append))
    return found


def test_what_is_given_beside_a_file_goes_before(tmp_path, parsed):
    path = text_of(tmp_path, 'command = "sweep"\nn_shots = 2\nseeds = [7]\ntask = "pseudo-python"')
    wanted = ("pseudo-python", 3, (7,), 64)
    lines = [
        ["sweep", "--config", str(path), "--n-shots", "3"],
        ["sweep", "--n-shots", "3", "--config", str(path)],
        ["sweep", "--n-shots=3", f"--config={path}"],
        ["--config", str(path), "--n-shots", "3"],
        ["--n-shots", "3", f"--config={path}"],
    ]
    for line in lines:
        assert main([*line, "--metric", "log_prob", "--quiet"]) == 0
        config = parsed.pop()
        assert (config.task, config.n_shots, config.seeds, config.batch_size) == wanted
    assert main(["sweep", "pseudo-translation", "--config", str(path), "--quiet"]) == 0
    assert parsed.pop().task == "pseudo-translation"


def test_help_shows_a_file_s_values_as_defaults(tmp_path):
    path = text_of(tmp_path, 'command = "sweep"\nseeds = [17, 4]\ntask = "pseudo-python"')
    line = [sys.executable, "-m", "icl_locate.cli", "sweep", "--config", str(path), "--help"]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "(default: 17 4)" in printed and "(default: pseudo-python)" in printed
    assert "--config" in printed


def test_values_out_of_range_are_refused_as_on_the_command_line(tmp_path, capsys):
    path = text_of(tmp_path, 'command = "sweep"\nscope = "onyl"')
    assert main(["sweep", "--config", str(path), "--quiet"]) == 2
    assert "scope is 'onyl'" in capsys.readouterr().err


# Written by a run, and run again.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    tiny.save(tiny.build("llama"), directory / "model")
    lines = [{"source": f"sort {w}", "target": "zimo"} for w in ("thin", "one", "zero", "count")]
    (directory / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (directory / "my_own.py").write_text("def half(answer, target):\n    return 0.5\n")
    return directory


LINE = [
    "sweep", "mine.jsonl", "--model", "model", "--n-shots", "1", "--seeds", "3", "--quiet",
    "--conditions", "examples", "--max-new-tokens", "2", "--metric",
]  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
def test_a_run_s_file_gives_its_scores_from_everywhere(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(small)
    assert main([*LINE, "log_prob", "--output", str(tmp_path / "a")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--config", "a/config.toml", "--output", "b"]) == 0
    assert not capsys.readouterr().err
    first, second = (icl.SweepResult.load(tmp_path / name / "result") for name in "ab")
    assert first.scores.equal(second.scores) and first.statistics.equal(second.statistics)
    assert first.provenance["hardware"] == second.provenance["hardware"]
    read = tomllib.loads((tmp_path / "a" / "config.toml").read_text("utf-8"))
    assert read["task"] == str(small / "mine.jsonl") and read["model"] == str(small / "model")
    assert {"overwrite", "dry_run", "config"}.isdisjoint(read)
    assert main(["runs", "compare", "a", "b"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal bit for bit"
    monkeypatch.chdir(small)
    again = ["--config", str(tmp_path / "a/config.toml"), "--output", str(tmp_path / "a")]
    assert main(["sweep", *again]) == 0, "the same recipe, whose paths are absolute now"


@pytest.mark.usefixtures("no_pictures")
def test_a_file_that_changed_since_is_named(small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(small)
    task = small / "mine.jsonl"
    assert main([*LINE, "log_prob", "--output", str(tmp_path / "a")]) == 0
    kept = task.read_text("utf-8")
    task.write_text(kept.replace("count", "double"), encoding="utf-8")
    try:
        line = ["--config", str(tmp_path / "a/config.toml"), "--output", str(tmp_path / "b")]
        capsys.readouterr()
        assert main(["sweep", *line]) == 0
        error = capsys.readouterr().err
        assert f"careful: {task} (--task) has changed since {tmp_path / 'a/config.toml'}" in error
        (tmp_path / "other.jsonl").write_text(kept, encoding="utf-8")
        assert main(["sweep", str(tmp_path / "other.jsonl"), *line, "--overwrite"]) == 0
        assert not capsys.readouterr().err, "another file is no changed one"
    finally:
        task.write_text(kept, encoding="utf-8")


def test_a_metric_of_ones_own_is_found_again(small, tmp_path):
    """In a process of its own: a module is imported once, and its directory stays known."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = """
import sys
import icl_locate.cli.writing
icl_locate.cli.writing.write_pngs = lambda *_: "not drawn"
from icl_locate.cli import main
sys.exit(main(sys.argv[1:]))
"""

    def run(place, *line):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, line)],
            cwd=place, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert run(small, *LINE, "my_own:half", "--output", tmp_path / "a") == (0, "")
    again = ["--config", "a/config.toml", "--output", "b"]
    assert run(tmp_path, *again) == (0, "")
    assert icl.SweepResult.load(tmp_path / "b" / "result").scores.unique().tolist() == [0.5]


@pytest.mark.usefixtures("no_pictures")
def test_a_preset_stands_in_the_file_as_it_was_applied(small, tmp_path, monkeypatch, parsed):
    from icl_locate.cli.sweep import SweepConfig, _with_preset

    applied = _with_preset(SweepConfig(preset="sia2024-code", n_shots=3, output=tmp_path))
    path = write_config(applied)
    assert main(["sweep", "--config", str(path), "--run-code", "--quiet"]) == 0
    config = parsed.pop()
    assert config.task == "humaneval" and config.max_new_tokens == 256 and config.n_shots == 3
    again = dataclasses.replace(config, config=None, run_code=False, quiet=False)
    assert again == _with_preset(again) == applied


def test_only_what_names_files_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Translate", "mine.jsonl", "there.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "data").mkdir()
    kind = KINDS["sweep"]
    config = kind(
        instruction="Translate", task="mine.jsonl", data=Path("data"), output=Path("out"),
        conditions_file=Path("there.toml"), model="gpt2",
    )  # fmt: skip
    settled = settle_paths(config)
    assert settled.instruction == "Translate" and settled.model == "gpt2"
    assert settled.output == Path("out"), "where to write is the next run's to say"
    assert settled.task == str(tmp_path / "mine.jsonl") and settled.data == tmp_path / "data"
    assert settled.conditions_file == tmp_path / "there.toml"
    found = KINDS["compare"](sweeps=(Path("data"), Path("none")))
    assert settle_paths(found).sweeps == (tmp_path / "data", Path("none"))


def test_a_path_that_is_no_unicode_survives(tmp_path):
    odd = Path(os.fsdecode(b"\xff"))
    path = write_config(KINDS["sweep"](output=tmp_path, data=odd))
    assert options_of(read_config_file(path), KINDS["sweep"]).data == odd


def test_options_of_refuses_what_is_not_the_command_s(tmp_path, capsys):
    path = text_of(tmp_path, 'command = "nothing"')
    with pytest.raises(IclLocateError, match="is of the command 'nothing': expected one of 'demo'"):
        options_of(read_config_file(path), KINDS["demo"])
    assert main(["--config", str(path)]) == 2
    assert "'nothing': expected one of demo, sweep, " in capsys.readouterr().err
