"""Files under attack: flipped bits, kills, full disks, several writers, other formats."""

import json
import os
import random
import resource
import signal
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors
from saved_kinds import LOAD, SAVE, VALUES, sweep_result

import icl_locate as icl
from icl_locate.errors import IclLocateError, ResultError
from icl_locate.records.files import check_output, describe, replace_file

KINDS = sorted(SAVE)


def in_child(act):
    """Fork, act, and end at once; returns the child's process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        act()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files_in(directory):
    return sorted(path.name for path in directory.iterdir())


def of_size(n, fill):
    """A result of about ``n`` times 80 bytes, all alike."""
    table = torch.full((1, 2, 1, n, 2), float(fill), dtype=torch.float64)
    table[..., 1] = 1.0
    texts = [[[[str(fill)] * n], [[str(fill)] * n]]]
    return sweep_result(
        conditions=("c",), layers=(0, 1), seeds=(0,), statistics=table,
        item_scores=table[..., 0], scores=table[..., 0].mean(-1), texts=texts,
        sources=(str(fill),) * n, targets=(str(fill),) * n,
    )  # fmt: skip


def fill_of(result):
    """What a whole one of these is filled with."""
    found = {*result.statistics[..., 0].flatten().tolist(), *map(float, result.sources)}
    assert len(found) == 1, "parts of two results"
    return found.pop()


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_what_is_saved_comes_back(kind, tmp_path):
    value = VALUES[kind]
    path = value.save(tmp_path / "deep" / "run.v1")
    assert files_in(path.parent) == ["run.v1.safetensors"], "one file, and nothing left beside it"
    for name in ("run.v1", "run.v1.safetensors"):
        again = type(value).load(path.parent / name)
        assert repr(again) == repr(value)
        for field in value._tensors:
            torch.testing.assert_close(
                getattr(again, field), getattr(value, field), rtol=0, atol=0, equal_nan=True
            )
        for field in value._labels:
            assert getattr(again, field) == getattr(value, field)
    assert value.save(tmp_path / "again").read_bytes() == path.read_bytes(), "the same bytes"


def test_files_have_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        path = VALUES["gates"].save(tmp_path / "gates")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_noticed(kind, tmp_path):
    path = SAVE[kind](tmp_path / "run")
    whole, draw = path.read_bytes(), random.Random(kind)
    for place in draw.sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ResultError):
            LOAD[kind](path)
    path.write_bytes(whole)
    LOAD[kind](path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind, tmp_path):
    path = SAVE[kind](tmp_path / "run")
    whole, draw = path.read_bytes(), random.Random(kind)
    header = 8 + int.from_bytes(whole[:8], "little")
    ends = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1}
    for end in ends | set(draw.sample(range(len(whole)), 40)):
        path.write_bytes(whole[:end])
        with pytest.raises(ResultError):
            LOAD[kind](path)
    for more in (b"\0", whole):
        path.write_bytes(whole + more)
        with pytest.raises(ResultError):
            LOAD[kind](path)


def test_one_kind_is_not_taken_for_another(tmp_path):
    for kind in KINDS:
        SAVE[kind](tmp_path / kind)
    for kind in KINDS:
        for other in set(KINDS) - {kind}:
            with pytest.raises(ResultError, match="is not a result of this kind: it holds"):
                LOAD[kind](tmp_path / other)


def test_foreign_files_are_refused_in_words(tmp_path):
    path = tmp_path / "run.safetensors"
    tensors = {"scores": torch.rand(3)}
    with pytest.raises(ResultError, match="there is no .*run.safetensors"):
        icl.SweepResult.load(path)
    path.write_bytes(save_safetensors(tensors, metadata={"json_sha256": "0" * 64}))
    with pytest.raises(ResultError, match="of the first format, which had a .json beside it"):
        icl.SweepResult.load(path)
    for content in (save_safetensors(tensors), b"", b"\xff" * 100, b"PK\x03\x04" * 9):
        path.write_bytes(content)
        with pytest.raises(ResultError, match="damaged, or none of our files"):
            icl.SweepResult.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ResultError, match="there is no"):
        icl.SweepResult.load(path)
    with pytest.raises(ResultError, match="cannot be written: Is a directory"):
        VALUES["sweep"].save(path)
    assert files_in(tmp_path) == ["run.safetensors"], "nothing is left beside it"


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300, "/proc/result", "/dev/null/result"])
def test_paths_that_cannot_be(path):
    with pytest.raises(ResultError):
        VALUES["gates"].save(path)
    with pytest.raises(ResultError):
        type(VALUES["gates"]).load(path)


def test_a_full_disk_leaves_the_old_result(tmp_path):
    """The room ends at many places of the new file; the old one is whole after each."""
    small, large = of_size(3, 1), of_size(2000, 2)
    path = small.save(tmp_path / "run")
    old = path.read_bytes()
    size = large.save(tmp_path / "large").stat().st_size

    def write_with(limit):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(ResultError, match="run.safetensors cannot be written: File too large"):
            large.save(path)

    for limit in (0, 1, 8, 100, 4096, size // 2, size - 1):
        assert status_of(in_child(lambda limit=limit: write_with(limit))) == 0, limit
        assert path.read_bytes() == old
        assert files_in(tmp_path) == ["large.safetensors", "run.safetensors"]


def test_a_killed_writer_leaves_a_whole_result(tmp_path):
    """kill -9 at any moment: the file is the old one or the new one."""
    path, draw = tmp_path / "run", random.Random(0)
    results = [of_size(1500, fill) for fill in (1, 2)]
    results[0].save(path)
    begun = time.perf_counter()
    results[0].save(path)
    lasts = time.perf_counter() - begun

    def write():
        while True:
            for result in results:
                result.save(path)

    found = set()
    for _ in range(20):
        child = in_child(write)
        time.sleep(draw.uniform(0.5, 3) * lasts)
        os.kill(child, signal.SIGKILL)
        status_of(child)
        found.add(fill_of(icl.SweepResult.load(path)))
    assert found <= {1.0, 2.0}


def test_readers_beside_two_writers(tmp_path):
    """Whatever they do at the same time, a reader gets one of the whole versions."""
    path = tmp_path / "run"
    of_size(50, 1).save(path)

    def write(fill):
        end = time.monotonic() + 1.5
        result = of_size(50 * fill, fill)
        while time.monotonic() < end:
            result.save(path)

    writers = [in_child(lambda fill=fill: write(fill)) for fill in (1, 2)]
    found, end = set(), time.monotonic() + 1.5
    while time.monotonic() < end:
        found.add(fill_of(icl.SweepResult.load(path)))
    assert [status_of(writer) for writer in writers] == [0, 0]
    assert found == {1.0, 2.0}
    assert files_in(tmp_path) == ["run.safetensors"]


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    path = replace_file(tmp_path / "a", [b"old"])
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, [b"new"])
    assert path.read_bytes() == b"old" and files_in(tmp_path) == ["a"]


# What stands in a file whose digest is right: anybody can compute one.

DEEP = "[" * 100_000 + "]" * 100_000


def write_json(path, form, text, tensors):
    """A file of ours with JSON of one's own, its digest right."""
    from icl_locate.records.sealed import JSON, seal, stamp

    held = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    held[JSON] = torch.tensor(list(text), dtype=torch.uint8)
    return replace_file(path, seal(save_safetensors(held, metadata=stamp(form))))


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"metric": NaN}', '{"a": 1' + "0" * 5000 + "}", "[]", "7", "", "{", '{"a": Infinity}',
     "\ufeff{}", '{"seeds": 1e999}', "{}"],
)  # fmt: skip
def test_json_of_any_kind_is_refused_in_words(text, tmp_path):
    path = write_json(tmp_path / "run.safetensors", "icl_locate.SweepResult/2", text.encode(), {})
    with pytest.raises(ResultError, match="damaged"):
        icl.SweepResult.load(path)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), b"x"])
def test_what_json_cannot_hold_is_refused_on_saving(value, tmp_path):
    with pytest.raises(ResultError, match="cannot be saved as JSON"):
        sweep_result(provenance={"x": value}).save(tmp_path / "run")
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ResultError, match="cannot be saved as JSON"):
        sweep_result(provenance={"x": deep}).save(tmp_path / "run")
    assert not files_in(tmp_path)


def test_half_a_character_comes_back(tmp_path):
    odd = sweep_result(sources=("\ud800", "é", "日本", "𝄞"))
    again = icl.SweepResult.load(odd.save(tmp_path / "run"))
    assert again.sources == odd.sources


HOSTILE = [
    None, True, 7, -1, 10**30, 0.5, "x", "\ud800", [], {}, [[]], [None], [True], ["a", "a"], ["0"],
    [1, 0], [-1], [0.5], [[0, 1, 2]], {"a": 1}, [{"a": 1}], [[["a"]]], "",
]  # fmt: skip


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_wrong_types_under_a_right_digest(kind, tmp_path):
    """Each field is replaced in turn: a result comes out that can be used, or words."""
    value = VALUES[kind]
    tensors = {name: getattr(value, name) for name in value._tensors}
    path = value.save(tmp_path / "whole")
    from icl_locate.records.sealed import read_rest

    rest = read_rest(path)
    for field in value._labels:
        for hostile in HOSTILE:
            text = json.dumps({**rest, field: hostile}).encode()
            write_json(path, value._form, text, tensors)
            with suppress(IclLocateError):
                use(type(value).load(path))


def use(value):
    """What one does with a result."""
    value.to_dataframe() if hasattr(value, "to_dataframe") else None
    repr(value)
    if isinstance(value, icl.SweepResult):
        value.to_xarray()
        icl.locate(value, n_resamples=2)
    for name in ("interval", "compare"):
        if callable(getattr(value, name, None)):
            getattr(value, name)()


@pytest.mark.parametrize("kind", sorted(VALUES))
@pytest.mark.parametrize("how", ["bfloat16", "longer", "flat", "nan", "int8", "missing", "empty"])
def test_wrong_tensors_under_a_right_digest(kind, how, tmp_path):
    value = VALUES[kind]
    tensors = {name: getattr(value, name) for name in value._tensors}
    path = value.save(tmp_path / "whole")
    from icl_locate.records.sealed import read_rest

    text = json.dumps(read_rest(path)).encode()
    for name, tensor in tensors.items():
        changed = {
            "bfloat16": tensor.bfloat16(),
            "longer": torch.cat([tensor, tensor[:1], tensor[:1]]),
            "flat": tensor.flatten()[None, None, None, None, None],
            "nan": torch.full(tensor.shape, torch.nan),
            "int8": tensor.nan_to_num().to(torch.int8),
            "missing": None,
            "empty": tensor[:0],
        }[how]
        held = {**tensors, name: changed} if changed is not None else {}
        write_json(path, value._form, text, held)
        if (kind, name, how) in LEGAL:
            use(type(value).load(path))
            continue
        with pytest.raises(ResultError):
            type(value).load(path)


LEGAL = {
    ("savings", "interval", "nan"),  # of a single item
    ("gates", "alpha", "longer"),  # a curve may end early
    ("layer measure", "chance", "nan"),  # known from a control alone
}


@pytest.mark.parametrize(
    ("metric", "n_columns"),
    [("bleu", 9), ("bleu", 2), ("chrf", 10), ("exact_match", 10), ("log_prob", 3)],
)
def test_columns_must_be_the_metrics(metric, n_columns):
    """BLEU of statistics with other columns scored 0.0."""
    table = torch.ones(2, 3, 2, 4, n_columns, dtype=torch.float64)
    with pytest.raises(ResultError, match=f"statistics has {n_columns} columns: expected the"):
        sweep_result(metric=metric, statistics=table)


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0**60])
def test_counts_must_be_counts(value):
    table = torch.full((2, 3, 2, 4, 10), value, dtype=torch.float64)
    with pytest.raises(ResultError, match="no count of 'bleu'"):
        sweep_result(metric="bleu", statistics=table)
    table = sweep_result().statistics.clone()
    table[..., 1] = 0 if value == 0.5 else value
    if value != 2.0**60:
        with pytest.raises(ResultError, match="no count of 'exact_match'"):
            sweep_result(statistics=table)


# Output directories, before anything runs.


def test_an_output_that_can_be_written_is_left_as_it_was(tmp_path):
    check_output(tmp_path / "a" / "b")
    assert not files_in(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    check_output(tmp_path / "a", ["old", "new"])
    assert files_in(tmp_path / "a") == ["old"]


def refused_outputs(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    (tmp_path / "taken" / "result.safetensors").mkdir(parents=True)
    return {
        "file": "file is in the way",
        "file/deep": "file is in the way",
        "link": "link is in the way",
        "link/deep": "link is in the way",
        "a\0b": "embedded null byte",
        "x" * 300: "File name too long",
        "/proc/self/runs": "No such file|not permitted",
        "/proc": "No such file|not permitted|denied",
        "/dev/full": "in the way",
        "taken": "result.safetensors is a directory",
    }


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    cases = refused_outputs(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for output, message in cases.items():
        with pytest.raises(IclLocateError, match=message):
            check_output(tmp_path / output, ["result.safetensors"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_noticed_before_the_run(tmp_path):
    def probe():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(IclLocateError, match="nothing can be written to .*: File too large"):
            check_output(tmp_path / "a" / "b")

    assert status_of(in_child(probe)) == 0
    assert not files_in(tmp_path)


def test_probes_do_not_disturb_each_other(tmp_path):
    """Each makes and removes the same directories, while results are written there."""
    value, path = VALUES["gates"], tmp_path / "a" / "b"

    def probe():
        for _ in range(150):
            check_output(path)

    probes = [in_child(probe) for _ in range(2)]
    for i in range(30):
        value.save(path / str(i))
    assert [status_of(child) for child in probes] == [0, 0]
    assert len(files_in(path)) == 30


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_directory_taken_away_while_it_is_made_is_made_again(tmp_path, monkeypatch, error):
    """``mkdir(exist_ok=True)`` finds it there, and then no more, if a probe removes it between."""
    mkdir, failures = Path.mkdir, iter([error(2, "gone")] * 6)

    def disturbed(self, *args, **kwargs):
        if (failure := next(failures, None)) is not None:
            raise failure
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", disturbed)
    check_output(tmp_path / "a" / "b")
    assert not files_in(tmp_path)


def test_errors_of_the_system_in_words():
    assert describe(OSError(28, "No space left on device")) == "No space left on device"
    assert describe(OSError("a line\nmore")) == "a line"
    assert describe(ValueError()) == "ValueError"


def test_a_result_may_be_changed_and_saved_again(tmp_path):
    changed = replace(VALUES["sweep"], seeds=(7, 8))
    assert icl.SweepResult.load(changed.save(tmp_path / "run")).seeds == (7, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": -1}, "epoch is -1"),
        ({"history": [0.5, 0.4]}, "history is"),
        ({"history": None}, "history is None"),
        ({"best": "low"}, "best is 'low'"),
        ({"alpha": torch.zeros(3, 2)}, "alpha has the shape"),
        ({"alpha": torch.full((2, 2), torch.nan)}, "alpha holds NaN"),
        ({"exp_avg": torch.zeros(2, 2).bfloat16()}, "exp_avg is of torch.bfloat16"),
    ],
)
def test_a_checkpoint_is_checked_as_results_are(change, message, tmp_path):
    from icl_locate.gates import train
    from icl_locate.records.checkpoint import save_checkpoint

    parts = {
        **{name: torch.zeros(2, 2) for name in train._TENSORS},
        "epoch": 1,
        "step": 2,
        "waited": 0,
        "best": 0.5,
        "history": [0.5],
    }
    for given, refused in ((parts, False), (parts | change, True)):
        tensors = {name: given[name] for name in train._TENSORS}
        rest = {name: value for name, value in given.items() if name not in tensors}
        path = save_checkpoint(tmp_path / "state", train._FORM, tensors, rest, {"seed": 0})
        if not refused:
            assert train.GateState.load(path, {"seed": 0}, (2, 2)).epoch == 1
            continue
        with pytest.raises(ResultError, match=message):
            train.GateState.load(path, {"seed": 0}, (2, 2))
