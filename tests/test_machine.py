"""What ran it: the package's commit, versions and the machine, told alike by equal runs."""

import json
import shutil
import subprocess
from importlib.metadata import version

import pytest
import torch

import icl_locate as icl
from icl_locate.studies import machine


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package in a repository of its own, whose commit is asked for anew."""
    home = tmp_path / "home"
    place = home / "icl_locate" / "studies"
    place.mkdir(parents=True)
    (place / "machine.py").write_text("# here\n")
    monkeypatch.setattr(machine, "__file__", str(place / "machine.py"))
    machine.commit.cache_clear()
    yield home
    machine.commit.cache_clear()


def git(home, *words):
    named = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *named, "-C", str(home), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def committed(checkout):
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "all")
    return checkout


def test_a_checkout_tells_its_commit(committed):
    assert machine.commit() == git(committed, "rev-parse", "HEAD")


def test_changes_are_told_and_others_not(committed):
    (committed / "notes.txt").write_text("of no code")
    head = git(committed, "rev-parse", "HEAD")
    assert machine.commit() == head
    (committed / "icl_locate" / "studies" / "machine.py").write_text("# changed\n")
    assert machine.commit() == head, "it is asked for once"
    machine.commit.cache_clear()
    assert machine.commit() == f"{head}+changes"


def test_the_environment_of_another_repository_changes_nothing(committed, tmp_path, monkeypatch):
    git(tmp_path, "init", "-q", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    found = machine.commit()
    monkeypatch.undo()
    assert found == git(committed, "rev-parse", "HEAD")


def test_it_never_fails_without_git(committed, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.commit() == f"none: release {version('icl_locate')}"
    machine.commit.cache_clear()
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/nowhere/git")
    assert machine.commit() == f"none: release {version('icl_locate')}"


def test_an_installed_package_tells_what_was_installed(checkout, monkeypatch):
    class Installed:
        said = json.dumps({"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}})

        def read_text(self, name):
            return self.said if name == "direct_url.json" else None

    monkeypatch.setattr(machine, "distribution", lambda name: Installed())
    assert machine.commit() == "c0ffee"
    for said in (None, "no json", json.dumps({"url": "file:///x", "dir_info": {}}), "[]"):
        machine.commit.cache_clear()
        Installed.said = said
        assert machine.commit() == f"none: release {version('icl_locate')}"


def test_equal_runs_are_told_alike_and_others_apart():
    asked = {"conditions": "examples", "n_queries": 1, "seeds": 0, "metric": "log_prob"}
    asked |= {"n_shots": 1, "layers": [0]}
    first, again = (icl.sweep(icl.load_model(device="cpu"), "repetition", **asked) for _ in "ab")
    assert dict(first.provenance) == dict(again.provenance)
    hardware = first.provenance["hardware"]
    assert hardware["devices"] == ["cpu"] and hardware["threads"] == torch.get_num_threads()
    assert hardware["cores"] >= 1 and hardware["cpu"] and isinstance(hardware["gpus"], list)
    assert first.provenance["versions"]["python"].count(".") == 2
    json.dumps(dict(first.provenance))
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads + 1)
        assert machine.hardware(["cpu"])["threads"] == n_threads + 1
    finally:
        torch.set_num_threads(n_threads)


def test_formation_tells_it_too():
    from icl_locate import formation

    found = formation.train(n_sequences=64, seed=0)
    assert found.provenance["hardware"]["devices"] == ["cpu"]
    assert found.provenance["commit"] == machine.commit()
