"""Looking after a store: what commands say of it, and what they copy and remove."""

import os
import re
import shutil
import time
from dataclasses import replace

import pytest
import tiny

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.errors import ResultError
from icl_locate.records.runs import RunRecord, read_run, run_files
from icl_locate.records.store import Store
from icl_locate.records.upkeep import find_damage, find_waste, kept_units, merge

TASK = replace(icl.load_task("pseudo-translation"), metric="log_prob")


def sweep(store, seeds=0, **changes):
    options = {"n_shots": 1, "n_queries": 2, "layers": [1], "conditions": "examples"} | changes
    return icl.sweep(tiny.boot("llama"), TASK, seeds=seeds, store=store, **options)


def files_of(place):
    return sorted(path for path in place.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path):
    """A store of two runs that have a unit in common."""
    sweep(tmp_path / "store", 0)
    sweep(tmp_path / "store", [0, 1])
    return tmp_path / "store"


def names(place):
    return [path.stem for path in run_files(Store(place))]


def test_list_and_show(place, capsys):
    assert main(["runs", "list", str(place)]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines()[2:4]]
    assert [row[0] for row in rows] == names(place)
    assert {row[1] for row in rows} == {"done"} and [row[-1] for row in rows] == ["1/1", "2/2"]
    assert "2 runs, 2 units" in said
    next(iter((place / "units").rglob("*.safetensors"))).unlink()
    assert main(["runs", "show", str(place), names(place)[1]]) == 0
    said = capsys.readouterr().out
    assert re.search(r"units +1 of 2 are kept", said) and f'task: "{TASK.name}"' in said
    assert main(["runs", "show", str(place), "none"]) == 2
    assert "is not there" in capsys.readouterr().err
    assert main(["runs", "list", str(place / "units")]) == 2
    assert "is no store" in capsys.readouterr().err


def test_a_run_that_was_killed_is_told_from_one_that_runs(tmp_path, capsys):
    store = Store.at(tmp_path)
    mine, dead = RunRecord.new("sweep", {}), RunRecord.new("sweep", {})
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    dead.process = gone
    for record in (mine, dead):
        record.write(store)
    main(["runs", "list", str(tmp_path)])
    said = capsys.readouterr().out
    assert re.search(rf"{mine.name} +running", said) and re.search(rf"{dead.name} +killed", said)


def test_what_a_terminal_would_act_on_is_not_printed(tmp_path, capsys):
    record = RunRecord.new("sweep\x1b[2J", {"task": "\x1b]0;title\x07"})
    record.recipe = {"task": "a\x1b[31mb", "model": "m\r\n"}
    record.write(Store.at(tmp_path))
    main(["runs", "list", str(tmp_path)])
    main(["runs", "show", str(tmp_path)])
    assert "\x1b" not in (said := capsys.readouterr().out) and "\x07" not in said


def test_verify_names_what_is_damaged(place, capsys):
    assert main(["runs", "verify", str(place)]) == 0
    assert capsys.readouterr().out.startswith("0 damaged files among 2 units")
    first, second = (place / "units").rglob("*.safetensors")
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    record = run_files(Store(place))[0]
    record.write_bytes(record.read_bytes()[:-1])
    assert main(["runs", "verify", str(place)]) == 1
    said = capsys.readouterr().out
    assert first.name in said and record.name in said and second.name not in said
    renamed = second.with_name(f"{'0' * 32}.safetensors")
    second.rename(renamed)
    assert renamed in {damage.path for damage in find_damage(Store(place))}, "another's answers"


def test_merge_copies_what_is_whole_and_replaces_nothing(place, tmp_path, capsys):
    other, into = tmp_path / "other", tmp_path / "into"
    sweep(other, 7)
    shutil.copytree(place, tmp_path / "copy")
    damaged = next(iter((other / "units").rglob("*.safetensors")))
    before = {path.name: path.read_bytes() for path in files_of(place)}
    assert main(["runs", "merge", str(into), str(place), str(other)]) == 0
    assert "6 files copied" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in files_of(place)} == before
    for source in (place, other):
        for path in files_of(source):
            assert (into / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert merge(Store(into), [Store(place)]) == {"copied": 0, "there": 4, "damaged": 0}
    broken = into / damaged.relative_to(other)
    broken.write_bytes(b"")
    assert merge(Store(into), [Store(other)]) == {"copied": 1, "there": 1, "damaged": 0}
    damaged.write_bytes(b"x")
    broken.unlink()
    assert main(["runs", "merge", str(into), str(other)]) == 1
    assert "1 are damaged" in capsys.readouterr().out and not broken.exists()


def test_prune_removes_what_no_run_takes_when_told_to(place, capsys):
    store, (first, second) = Store(place), names(place)
    assert not find_waste(store).paths
    half = place / "units" / ".icl_locate-0123456789abcdef.part"
    half.write_bytes(b"half")
    assert not find_waste(store).paths, "somebody may be writing it now"
    os.utime(half, (time.time() - 7200,) * 2)
    assert find_waste(store).leftovers == (half,)
    assert not find_waste(store, [first]).unused, "the other run takes its unit, too"
    assert len(find_waste(store, [second]).unused) == 1
    assert main(["runs", "prune", str(place), "--runs", second]) == 0
    assert "add --yes" in capsys.readouterr().out and half.exists()
    assert main(["runs", "prune", str(place), "--runs", second, "--yes"]) == 0
    assert names(place) == [first] and len(kept_units(store)) == 1 and not half.exists()
    assert main(["runs", "prune", str(place), "--runs", second]) == 2
    assert "there is no run" in capsys.readouterr().err


def test_prune_spares_what_may_be_needed(place):
    store, (first, _) = Store(place), names(place)
    running = RunRecord.new("sweep", {})
    running.write(store)
    with pytest.raises(ResultError, match="still going on"):
        find_waste(store, [running.name])
    path = store.runs / f"{first}.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    waste = find_waste(store)
    assert not waste.paths, "nobody knows what it takes"


def test_the_command_line_keeps_and_records_its_options(tmp_path, capsys, no_pictures):
    store = tmp_path / "store"
    words = ["sweep", "f_a_f_p/4", "--n-queries", "4", "--seeds", "0", "--quiet",
             "--conditions", "examples", "--store", str(store), "--output"]  # fmt: skip
    for output in ("one", "two"):
        assert main([*words, str(tmp_path / output)]) == 0
    one, two = (icl.SweepResult.load(tmp_path / name / "result") for name in ("one", "two"))
    assert one.statistics.equal(two.statistics)
    records = [read_run(path) for path in run_files(Store(store))]
    assert [record.study for record in records] == ["sweep", "sweep"]
    assert records[0].settings["n_queries"] == 4 and records[0].units == records[1].units
    assert main([*words[:-1], "--ray", "0", "--output", str(tmp_path / "three")]) == 2
    assert "n_workers is 0" in capsys.readouterr().err
