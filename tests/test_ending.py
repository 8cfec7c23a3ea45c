"""How commands end: in words and with a status; and what they do not replace."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import icl_locate as icl
from icl_locate import cli
from icl_locate.cli import ending, main
from icl_locate.cli.command import COMMANDS
from icl_locate.cli.earlier import settings_of
from icl_locate.errors import IclLocateError
from icl_locate.records.files import replace_file

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", [*COMMANDS])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; files that were written before are whole"),
        (IclLocateError("no such thing"), 2, "no such thing"),
        (OSError(28, "No space left on device", "runs/a.csv"), 2,
         "No space left on device (runs/a.csv)"),
        (PermissionError(13, "Permission denied", "x"), 2, "Permission denied (x)"),
        (BrokenPipeError(32, "Broken pipe"), 2, "nobody reads its output any more"),
        (OSError("a hub's long tale\nin two lines"), 2, "a hub's long tale"),
    ],
)  # fmt: skip
def test_whatever_stops_a_command_is_said_in_a_line(
    command, error, status, said, monkeypatch, capsys
):
    def stop(config):
        raise error

    table = {name: (config, stop) for name, (config, _) in COMMANDS.items()}
    monkeypatch.setattr("icl_locate.cli.command.COMMANDS", table)
    monkeypatch.setattr("icl_locate.cli.command.start", lambda *_: None)  # what it says first
    assert main([command]) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("icl-locate: ")
    assert said in captured.err and not captured.out


def start(*arguments, **options):
    """The command line as a process of its own, in a group of its own."""
    command = [sys.executable, "-m", "icl_locate", *arguments]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, start_new_session=True, **piped)


def said_by(process):
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, error


def test_ctrl_c_while_modules_are_loaded_and_while_it_runs(tmp_path):
    """Several processes at several moments, each ended by the signal that Ctrl-C sends."""
    demo = "demo", "--output", str(tmp_path / "demo"), "--quiet", "--n-queries", "500"
    waits = (0.4, 1.5, 6.0)
    processes = [start(*demo) for _ in waits]
    begun = time.monotonic()
    try:
        for wait, process in zip(waits, processes, strict=True):
            time.sleep(max(0.0, begun + wait - time.monotonic()))
            os.kill(process.pid, signal.SIGINT)
            assert said_by(process) == (
                130, "icl-locate: stopped; files that were written before are whole\n",
            )  # fmt: skip
    finally:
        for process in processes:
            process.kill()
    assert not (tmp_path / "demo").exists(), "nothing is left behind"


def test_words_are_ready_before_anything_else_is_loaded():
    """What the commands need, the parser above all, comes when Ctrl-C is already in good hands."""
    code = "import sys, icl_locate.__main__; print({'tyro', 'numpy', 'torch'} & {*sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "set()\n"


def test_ctrl_c_within_code_that_is_text(tmp_path):
    """CPython remembers such an interrupt, and would end a module by the signal."""
    (tmp_path / "module.py").write_text(
        "import sys; from icl_locate.cli.ending import in_words\n"
        "sys.exit(in_words(lambda: exec('raise KeyboardInterrupt')))"
    )
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    found = subprocess.run(
        [sys.executable, "-m", "module"], env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    assert found.returncode == 130


def test_output_that_nobody_reads():
    process = start("demo", "--help", stdout=subprocess.PIPE)
    process.stdout.close()
    process.stdout = None
    status, error = said_by(process)
    assert (status, error) == (
        2, "icl-locate: stopped, since nobody reads its output any more (broken pipe)\n",
    )  # fmt: skip
    with Path("/dev/full").open("w") as full:
        assert said_by(start("demo", "--help", stdout=full)) == (
            2, "icl-locate: No space left on device\n",
        )  # fmt: skip


def test_a_closed_error_stream_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert ending.in_words(lambda: 1 // 1 - 1) == 0
    assert ending.in_words(lambda: (_ for _ in ()).throw(KeyboardInterrupt)) == 130


# Results that stand there already.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small")
    tiny.save(tiny.build("llama"), directory / "model")
    tiny.save(tiny.build("llama", seed=1), directory / "other")
    lines = [{"source": f"sort {w}", "target": "zimo"} for w in ("thin", "one", "zero", "count")]
    (directory / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return directory


def sweep_command(small, output, *more):
    return [
        "sweep", f"{small}/mine.jsonl", "--model", f"{small}/model", "--output", str(output),
        "--metric", "log_prob", "--n-shots", "1", "--seeds", "0", "--quiet", "--conditions",
        "examples", *more,
    ]  # fmt: skip


def test_a_result_of_another_recipe_is_not_replaced_unasked(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("icl_locate.cli.writing.write_pngs", lambda *_: "not drawn")
    output = tmp_path / "out"
    path = output / "result.safetensors"
    command = sweep_command(small, output)
    assert main(command) == 0
    first = path.read_bytes()
    recipe = icl.SweepResult.load(path).provenance
    assert recipe["settings"]["command"] == "sweep" and recipe["settings"]["n_shots"] == 1
    beside = json.loads((output / "scores.recipe.json").read_text("utf-8"))
    assert beside == recipe and len(recipe["fingerprint"]) == 64
    assert main([*command, "--confidence", "0.9"]) == 0, "the same recipe may be run again"
    assert path.read_bytes() == first, "and gives the same"

    def refused(arguments, differs):
        capsys.readouterr()
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert f"{path} is in the way, a result of another recipe (other {differs})" in error
        assert "choose another --output, or add --overwrite to replace it" in error
        assert path.read_bytes() == first

    with monkeypatch.context() as patch:
        patch.setattr("icl_locate.load_model", lambda *a, **o: pytest.fail("it ran"))
        refused([*command, "--n-shots", "2", "--seeds", "0", "1"], "n_shots, seeds")
        task = small / "mine.jsonl"
        text = task.read_text("utf-8")
        more = text.replace("thin", "double").splitlines()[0]
        task.write_text(f"{text.rstrip()}\n{more}\n", encoding="utf-8")
        refused(command, "task_sha256")
        task.write_text(text, encoding="utf-8")
    weights = small / "model" / "model.safetensors"
    kept = weights.read_bytes()
    replace_file(weights, [(small / "other" / "model.safetensors").read_bytes()])
    with monkeypatch.context() as patch:
        patch.setattr("icl_locate.sweep", lambda *a, **o: pytest.fail("it ran"))
        refused(command, "weights")
    replace_file(weights, [kept])
    assert main([*command, "--n-shots", "2", "--overwrite"]) == 0
    assert icl.SweepResult.load(path).provenance["n_shots"] == 2


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("sweep", "result.safetensors"),
        ("sweep --shots 1 2", "shots_2/result.safetensors"),
        ("induction", "ablation.safetensors"),
        ("gates", "gates.safetensors"),
        ("vectors", "vectors.safetensors"),
        ("circuit", "cuts.safetensors"),
        ("triangulate", "agreement.safetensors"),
        ("savings --measure", "savings.safetensors"),
        ("demo", "result.safetensors"),
    ],
)
def test_what_no_command_made_is_not_replaced_unasked(command, name, tmp_path, capsys, monkeypatch):
    from test_locate import result_of

    monkeypatch.setattr("icl_locate.load_model", lambda *a, **o: pytest.fail("it ran"))
    for content in (b"anything", None):
        path = tmp_path / name
        replace_file(path, [content]) if content else result_of([[0, 1.0]]).save(path)
        before = path.read_bytes()
        assert main([*command.split(), "--output", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"{path} is in the way" in error
        assert ("--overwrite" in error) == (command != "demo")
        assert path.read_bytes() == before


def test_settings_know_what_options_did_not_exist_yet(small):
    config = cli.SweepConfig(task=f"{small}/mine.jsonl")
    settings = settings_of(config)
    assert settings["command"] == "sweep" and len(settings["task_sha256"]) == 64
    assert not {"output", "quiet", "overwrite", "confidence"} & set(settings)
    assert json.loads(json.dumps(settings)) == settings


# Scripts that measure for long.

SCRIPTS = [
    *sorted((ROOT / "tests" / "benchmarks").glob("[ils]*.py")),
    *sorted((ROOT / "docs").glob("*_figures.py")),
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_try_their_output_before_they_measure(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(script.parent))
    spec = importlib.util.spec_from_file_location(f"script_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "new"
    for name in ("build", "icl"):  # what makes or loads a model
        if hasattr(module, name):
            monkeypatch.setattr(module, name, None)
    given = module.Config(output=output) if hasattr(module, "Config") else output
    with pytest.raises(IclLocateError, match="nothing can be written to .*file is in the way"):
        module.main(given)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
