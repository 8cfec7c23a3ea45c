"""Stores that others look after, write to, or mean ill: what is removed, copied and read."""

import json
import os
import signal
import struct
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from icl_locate.errors import ResultError
from icl_locate.records import sealed, upkeep
from icl_locate.records import units as records_units
from icl_locate.records.checkpoint import save_tensors
from icl_locate.records.runs import RUN, RunRecord, read_run
from icl_locate.records.store import Entry, Store, read_entry
from icl_locate.records.units import read_unit, write_unit
from icl_locate.studies.kept import Slot
from icl_locate.studies.place import using

CONTEXT = "c" * 32


def name(number):
    return f"{number:032x}"


def put(store, number, cells=None):
    """A unit, on the disk."""
    entry = Entry.of(store, CONTEXT, cells or [name(number)], [name(number + 1000)])
    write_unit(entry, {"numbers": torch.full((len(entry.cells), 1), float(number))}, {})
    return entry


def record(store, *entries, state="done"):
    run = RunRecord.new("sweep", {})
    run.take(entry.label for entry in entries)
    run.state = state
    run.write(store)
    return store.runs / f"{run.name}.safetensors"


def test_what_no_run_takes_goes_and_all_else_stays(tmp_path):
    store = Store(tmp_path)
    taken, unused, broken = (put(store, number) for number in range(3))
    record(store, taken, broken)
    broken.path.write_bytes(b"x")
    waste = upkeep.find_waste(store)
    assert (waste.unused, waste.damaged) == ((unused.path,), (broken.path,))
    waste.remove()
    assert taken.path.exists() and not unused.path.exists() and not broken.path.exists()


def test_a_run_that_begins_while_a_store_is_read_loses_nothing(tmp_path, monkeypatch):
    store, find = Store(tmp_path), upkeep.find_damage
    record(store, put(store, 0))
    written = []

    def find_slowly(there):
        yield from find(there)
        written.append(put(store, 1))
        record(store, written[0], state="running")

    monkeypatch.setattr(upkeep, "find_damage", find_slowly)
    upkeep.find_waste(store).remove()
    read_unit(written[0].path)


def test_what_runs_took_or_mended_since_is_not_removed(tmp_path):
    store = Store(tmp_path)
    kept, unused, broken = (put(store, number) for number in range(3))
    record(store, kept)
    whole = broken.path.read_bytes()
    broken.path.write_bytes(b"x")
    waste = upkeep.find_waste(store)
    broken.path.write_bytes(whole)
    record(store, unused, broken, state="running")
    waste.remove()
    for entry in (kept, unused, broken):
        read_unit(entry.path)


def test_the_damaged_record_of_a_run_keeps_its_units_until_it_is_named(tmp_path):
    store = Store(tmp_path)
    entry = put(store, 0)
    run = record(store, entry)
    run.write_bytes(run.read_bytes()[:-3])
    for _ in range(2):
        upkeep.find_waste(store).remove()
        assert run.exists() and entry.path.exists()
    upkeep.find_waste(store, [run.stem]).remove()
    assert not run.exists() and not entry.path.exists()


def test_a_directory_in_the_place_of_a_file_is_left_alone(tmp_path):
    store = Store(tmp_path)
    record(store, put(store, 0))
    place = store.path(CONTEXT, name(7))
    place.mkdir()
    upkeep.find_waste(store).remove()
    assert place.is_dir()


def test_a_run_that_went_on_is_copied_again(tmp_path):
    """Else what it took later would seem to be of no use."""
    source, into = Store(tmp_path / "source"), Store(tmp_path / "into")
    path = record(source, put(source, 0), state="running")
    upkeep.merge(into, [source])
    run = read_run(path)
    run.take([put(source, 1).label])
    run.state = "done"
    run.write(source)
    assert upkeep.merge(into, [source]) == {"copied": 2, "there": 1, "damaged": 0}
    assert read_run(into.runs / path.name) == run
    assert not upkeep.find_waste(into).paths
    run.state, run.units = "running", {}
    run.write(source)
    assert upkeep.merge(into, [source])["copied"] == 0, "what says less replaces nothing"


def test_a_unit_that_is_replaced_while_it_is_read_is_read_as_one(tmp_path, monkeypatch):
    """Another process may write the same answers in another order of cells, under the same name."""
    store, cells = Store(tmp_path), [name(1), name(2)]
    entry = Entry.of(store, CONTEXT, cells, [name(9)])
    write_unit(entry, {"numbers": torch.tensor([[1.0], [2.0]])}, {})
    turned = replace(entry, cells=tuple(reversed(cells)))
    real = records_units.unpack

    def unpack(*args):
        found = real(*args)
        write_unit(turned, {"numbers": torch.tensor([[2.0], [1.0]])}, {})
        return found

    monkeypatch.setattr(records_units, "unpack", unpack)
    found, tensors, _ = read_unit(entry.path)
    assert dict(zip(found.cells, tensors["numbers"][:, 0].tolist(), strict=True)) == {
        cells[0]: 1.0, cells[1]: 2.0,
    }  # fmt: skip


def test_a_slot_takes_no_other_file_for_its_own(tmp_path, caplog):
    with using(tmp_path):
        slots = [Slot.of({"a": 1}, {"b": number}, [name(1)]) for number in range(2)]
        slots[0].keep({"found": torch.tensor(1)}, {})
        slots[0].entry.path.rename(slots[1].entry.path)
        assert slots[1].find() is None
    assert "answers something else than its name says" in caplog.text


def test_a_pipe_is_no_unit(tmp_path):
    store = Store(tmp_path)
    put(store, 0)
    pipe = store.path(CONTEXT, name(7))
    os.mkfifo(pipe)
    signal.alarm(20)
    try:
        assert len([*store.entries(CONTEXT)]) == 1
        assert [damage.path for damage in upkeep.find_damage(store)] == [pipe]
        assert not sealed.is_sealed(pipe)
    finally:
        signal.alarm(0)


def test_a_file_that_is_longer_than_it_says_is_not_read(tmp_path, monkeypatch):
    """A hole of a hundred gigabytes takes no room on the disk; in memory it does."""
    entry = put(Store(tmp_path), 0)
    monkeypatch.setattr(sealed.hashlib, "sha256", None)
    with entry.path.open("r+b") as file:
        file.truncate(100 * 2**30)
    read_entry(entry.path)
    with pytest.raises(ResultError, match="of another length than its header says"):
        read_unit(entry.path)


@pytest.mark.parametrize("rest", [
    {"process": 10**400}, {"process": 10**30}, {"process": -1}, {"units": [[]]}, {"units": "x"},
    {"units": {}}, {"state": []}, {"recipe": None}, {"name": "../x"}, {"why": 1}, {"began": None},
])  # fmt: skip
def test_a_record_that_says_what_none_would_is_damaged_or_read(tmp_path, rest):
    store = Store(tmp_path)
    path = record(store, put(store, 0), state="running")
    said = json.loads(json.dumps(sealed.read_rest(path))) | {"host": os.uname().nodename}
    save_tensors(path, RUN, {}, said | rest)
    for run in upkeep.read_runs(store).values():
        assert run is None or upkeep.state_of(run) == "running"


@pytest.mark.parametrize("header", [
    b"{}", b"[" * 100_000, b'{"json":' * 5000, b'{"json":{"data_offsets":[0,1e999]}}',
    b'{"json":{"data_offsets":[-5,"x"]}}', b'{"json":{"data_offsets":[0,' + b"9" * 5000 + b"]}}",
    b'{"json":1}', b"\xff\xfe",
])  # fmt: skip
def test_headers_that_mean_ill_are_damage(tmp_path, header):
    stamp = json.dumps({"__metadata__": sealed.stamp("x", {})}, separators=(",", ":")).encode()
    for text in (header, header[:-1] + b"," + stamp[1:], stamp + header):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(ResultError):
            sealed.read_rest(path)
        with suppress(ResultError):  # of the rest of the file a summary says nothing
            assert sealed.read_summary(path, "x") == {}


def test_a_program_that_goes_elsewhere_finds_its_store(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with using("store"):
        slot = Slot.of({"a": 1}, {"b": 1}, [name(1)])
        monkeypatch.chdir(tmp_path / "elsewhere")
        slot.keep({"found": torch.tensor(1)}, {})
    assert slot.entry.path.is_relative_to(tmp_path / "store") and slot.find() is not None
    assert not any((tmp_path / "elsewhere").iterdir())
    (run,) = upkeep.read_runs(Store(tmp_path / "store")).values()
    assert run.state == "done"


def test_an_end_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch, caplog):
    def work():
        with using(tmp_path):
            monkeypatch.setattr(RunRecord, "write", fail)
            return 42

    def fail(*args):
        raise ResultError("No space left on device")

    assert work() == 42
    assert "how the run ended is not in the store: No space left" in caplog.text
