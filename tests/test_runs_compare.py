"""What sets two runs apart: planted differences, each found, named and weighed."""

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from saved_kinds import SAVE, sweep_result

from icl_locate.cli import main
from icl_locate.errors import ResultError
from icl_locate.records.checkpoint import save_tensors
from icl_locate.records.difference import UNSAID, compare_files, leaves_of
from icl_locate.studies import compare_runs

RECIPE = {
    "model": "m",
    "fingerprint": "f" * 64,
    "vocabulary_sha256": "v" * 64,
    "versions": {"torch": "2.12.0", "python": "3.11.7"},
    "commit": "c0ffee",
    "hardware": {"cpu": "A", "gpus": [], "threads": 1},
    "task": "t",
    "n_shots": 5,
    "prompts_sha256": "p" * 64,
    "engine": "shared",
    "judged_seen": 3,
    "settings": {"command": "sweep", "task": "a/t.jsonl", "task_sha256": "d", "n_shots": 5},
}


def made(path, tensors=None, texts=None, **recipe):
    """A sweep with changes, which are given by their paths in the recipe."""
    provenance = copy.deepcopy(RECIPE)
    for name, value in recipe.items():
        *outer, last = name.split("__")
        place = provenance
        for key in outer:
            place = place[key]
        if value is UNSAID:
            del place[last]
        else:
            place[last] = value
    result = sweep_result(provenance=provenance)
    if tensors:
        table = result.statistics.clone()
        table[0, 0, 0, 0, 0] += tensors
        scores = table[..., 0].mean(-1)
        result = replace(result, statistics=table, item_scores=table[..., 0], scores=scores)
    if texts:
        rows = json.loads(json.dumps(result.texts))
        rows[0][1][0][2] = texts
        result = replace(result, texts=rows)
    return result.save(path)


def only(found):
    ((_, one),) = found.items()
    return one


VERDICTS = [
    ({}, "equal bit for bit", True),
    ({"versions__torch": "2.13.0"}, "equal bit for bit, with other torch", True),
    ({"commit": "beef+changes"}, "equal bit for bit, with other commit of icl_locate", True),
    ({"hardware__cpu": "B"}, "equal bit for bit, with other cpu", True),
    ({"judged_seen": 4}, "equal bit for bit", True),
    ({"settings__task": "b/t.jsonl"}, "equal bit for bit", True),
    ({"model": "./elsewhere/m"}, "equal bit for bit", True),
    ({"commit": UNSAID, "hardware": UNSAID}, "equal bit for bit", True),
    ({"n_shots": UNSAID}, "equal bit for bit", True),
    (
        {"n_shots": 4, "settings__n_shots": 4},
        "other questions: n_shots, with answers that are equal bit for bit",
        False,
    ),
    ({"n_shots": 4, "tensors": 1e-3}, "other questions: n_shots", False),
    ({"prompts_sha256": "q", "tensors": 0.5}, "other questions: prompts", False),
    (
        {"settings__task_sha256": "e", "settings__task": "b/t.jsonl", "tensors": 0.5},
        "other questions: task, task_sha256",
        False,
    ),
    (
        {"versions__torch": "2.13.0", "tensors": 4e-7},
        "same question, scores differ by at most 1e-07: other torch",
        False,
    ),
    (
        {"hardware__cpu": "B", "engine": "hooks", "texts": "no", "tensors": 0.5},
        "same question, scores differ by at most 0.12 and 1 of 48 texts differ: other engine, cpu",
        False,
    ),
    (
        {"texts": "no"},
        "same question, 1 of 48 texts differ: nothing that is recorded says why",
        False,
    ),
    (
        {"fingerprint": "g", "tensors": 2.0},
        "same question to another model, scores differ by at most 0.5: other weights",
        False,
    ),
    (
        {"vocabulary_sha256": "w", "prompts_sha256": "q", "tensors": 2.0},
        "same question, scores differ by at most 0.5: other tokenizer, prompts",
        False,
    ),
]


@pytest.mark.parametrize(("change", "verdict", "equal"), VERDICTS)
def test_the_verdict_names_what_differs(change, verdict, equal, tmp_path, capsys):
    first, second = made(tmp_path / "a"), made(tmp_path / "b", **change)
    found = only(compare_runs(first, second))
    assert found.verdict == verdict and found.is_equal is equal
    assert main(["runs", "compare", str(first), str(second)]) == (0 if equal else 1)
    assert capsys.readouterr().out.splitlines()[-1] == verdict
    back = only(compare_runs(second, first))
    assert back.is_equal is equal and back.tensors == found.tensors
    if len(verdict.split(": ")) == 1:
        assert back.verdict == verdict


def test_groups_name_both_values(tmp_path):
    change = {
        "versions__torch": "2.13.0",
        "hardware__gpus": ["H"],
        "n_shots": 4,
        "fingerprint": "g",
    }
    first, second = made(tmp_path / "a"), made(tmp_path / "b", **change)
    groups = only(compare_runs(first, second)).groups
    assert groups == {
        "what was asked": {"n_shots": (5, 4)},
        "the model": {"fingerprint": ("f" * 64, "g")},
        "what ran it": {"versions.torch": ("2.12.0", "2.13.0")},
        "the machine": {"hardware.gpus": ([], UNSAID), "hardware.gpus.0": (UNSAID, "H")},
        "what was found": {},
    }


def saved(path, **tensors):
    return save_tensors(path, "x/1", {name: torch.tensor(t) for name, t in tensors.items()}, {})


@pytest.mark.parametrize(
    ("first", "second", "largest", "n_different"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 1),
        ([1.0, math.nan], [1.0, math.nan], None, 0),
        ([1.0, math.nan], [1.0, 2.0], math.inf, 1),
        ([1.0, math.inf], [1.0, math.inf], None, 0),
        ([1.0, math.inf], [1.0, -math.inf], math.inf, 1),
        ([0.0, 1.0], [-0.0, 1.0], 0.0, 1),
        ([True, False], [True, True], 1.0, 1),
        ([3, 4], [5, 1], 3.0, 2),
        ([1.0], [1.0 + 2**-23], 2**-23, 1),
        (2.0, 3.0, 1.0, 1),
    ],
)
def test_tensors_are_compared_bit_by_bit(first, second, largest, n_different, tmp_path):
    a, b = saved(tmp_path / "a", t=first), saved(tmp_path / "b", t=second)
    found = compare_files(a, b)
    assert found.n_tensors == 1 and found.leaves == {}
    if not n_different:
        assert found.tensors == ()
    else:
        (one,) = found.tensors
        assert (one.largest, one.n_different) == (largest, n_different)


def test_other_shapes_kinds_and_names_are_no_numbers(tmp_path):
    a = saved(tmp_path / "a", t=[1.0], s=[1], only=[1.0])
    b = saved(tmp_path / "b", t=[1.0, 2.0], s=[1.0])
    found = {one.name: one for one in compare_files(a, b).tensors}
    assert found["t"].shapes == ("float32 [1]", "float32 [2]") and found["t"].largest is None
    assert found["s"].shapes == ("int64 [1]", "float32 [1]")
    assert found["only"].shapes == ("float32 [1]", UNSAID)
    one = only(compare_runs(a, b))
    assert not one.is_equal
    assert one.verdict.startswith("same question, tensors have other shapes")


def test_leaves_tell_types_apart(tmp_path):
    a = save_tensors(tmp_path / "a", "x/1", {}, {"n": 1, "flag": True, "deep": [{"x": []}]})
    b = save_tensors(tmp_path / "b", "x/1", {}, {"n": 1.0, "flag": 1, "deep": [{"x": {}}]})
    found = compare_files(a, b).leaves
    assert set(found) == {("n",), ("flag",), ("deep", "0", "x")}
    assert only(compare_runs(a, b)).verdict.startswith("same question, n, flag, deep.0.x differ")


def test_leaves_of_everything_are_all_of_it():
    value = {"a": [1, [2, {}]], "b": {"c": None, "d": "x"}, "e": []}
    assert dict(leaves_of(value)) == {
        ("a", "0"): 1, ("a", "1", "0"): 2, ("a", "1", "1"): {}, ("b", "c"): None, ("b", "d"): "x",
        ("e",): [],
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(SAVE))
def test_every_kind_of_file_equals_itself(kind, tmp_path):
    a, b = SAVE[kind](tmp_path / "a"), tmp_path / "b.safetensors"
    b.write_bytes(a.read_bytes())
    assert only(compare_runs(a, b)).verdict == "equal bit for bit"


def test_directories_are_compared_file_by_file(tmp_path, capsys):
    for name in "ab":
        made(tmp_path / name / "shots_1" / "result")
        made(tmp_path / name / "shots_2" / "result", tensors=0.5 if name == "b" else None)
    made(tmp_path / "b" / "shots_3" / "result")
    adapter = tmp_path / "a" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, adapter)
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    names = [f"shots_{i}/result.safetensors" for i in (1, 2, 3)]
    assert list(found) == names and found[names[2]] is None
    assert found[names[0]].is_equal and not found[names[1]].is_equal
    assert main(["runs", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == (
        "2 of 3 results differ: same question, scores differ by at most 0.12: nothing that is "
        "recorded says why; 1 in one directory alone"
    )
    assert any("scores: 1 of 12 differ, by at most 0.125" in line for line in printed)


def test_the_first_other_text_is_shown(tmp_path, capsys):
    first, second = made(tmp_path / "a"), made(tmp_path / "b", texts="no")
    assert main(["runs", "compare", str(first), str(second)]) == 1
    printed = capsys.readouterr().out
    assert "texts: 1 of 48 differ\n    texts.0.1.0.2: 'été 2' | 'no'\n" in printed


def test_other_kinds_are_no_two_of_one(tmp_path, capsys):
    a, b = saved(tmp_path / "a", t=[1.0]), made(tmp_path / "b")
    assert main(["runs", "compare", str(a), str(b)]) == 1
    assert "no two results of one kind: x/1 and icl_locate.Swe" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["nowhere", "empty", "damaged", "inside"])
def test_what_cannot_be_compared_is_an_error(which, tmp_path, capsys):
    good = made(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    (tmp_path / "inside").mkdir()
    raw = bytearray(good.read_bytes())
    raw[-20] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(raw)
    (tmp_path / "inside" / "x.safetensors").write_bytes(raw)
    with pytest.raises(ResultError, match="there is no|there are no results in|is damaged"):
        compare_runs(good, tmp_path / which)
    assert main(["runs", "compare", str(tmp_path / which), str(good)]) == 2
    assert capsys.readouterr().err.startswith("icl-locate: ")


def test_help_comes_without_torch():
    code = """
import sys
from icl_locate.cli import main
try:
    main(["runs", "compare", "--help"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "exit status is 0" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "icl_locate.cli", "--help"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert "runs" in done.stdout and "Look at what stands" in done.stdout
