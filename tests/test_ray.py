"""Units on a real Ray cluster of two nodes: equal answers, whoever dies on the way."""

import logging
import os
import signal
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.errors import ExecutionError, IclLocateError, ModelError
from icl_locate.records.store import Store

ray = pytest.importorskip("ray")
TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
OPTIONS = {
    "n_shots": 2, "n_queries": 6, "seeds": [0, 5], "max_new_tokens": 4, "batch_size": 2,
    "conditions": ["examples", "query"],
}  # fmt: skip


@pytest.fixture(scope="module")
def _cluster():
    """Two nodes of a core each, on this machine; workers find the package as the tests do."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


pytestmark = [
    pytest.mark.usefixtures("_cluster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Directories of two models."""
    home = tmp_path_factory.mktemp("models")
    return {name: tiny.save(tiny.build(name), home / name) for name in ("llama", "gpt2")}


@pytest.fixture(scope="module")
def model(places):
    return icl.load_model(places["llama"])


@pytest.fixture(scope="module")
def wanted(model):
    return icl.sweep(model, TASK, **OPTIONS)


def noting(directory, folder, before=None):
    """A loader of a model that notes its process, as a file."""

    def load():
        import icl_locate as icl

        if before is not None:
            before()
        model = icl.load_model(directory)
        (Path(folder) / str(os.getpid())).touch()
        return model

    return load


def pids(folder):
    return [int(path.name) for path in Path(folder).iterdir() if path.name.isdigit()]


def same(one, other):
    return one.statistics.equal(other.statistics) and one.texts == other.texts


def test_two_workers_give_the_answers_of_none(places, model, wanted, tmp_path):
    load = noting(places["llama"], tmp_path)
    found = icl.sweep(model, TASK, executor=icl.RayExecutor(2, load=load), **OPTIONS)
    assert same(found, wanted) and found.provenance == wanted.provenance
    # One may have done everything before the other was ready.
    assert len(pids(tmp_path)) in (1, 2) and os.getpid() not in pids(tmp_path)


def test_a_model_has_its_name_and_what_is_kept_is_not_run(places, model, wanted, tmp_path):
    icl.sweep(model, TASK, store=tmp_path, **OPTIONS | {"seeds": 0})
    found = icl.sweep(model, TASK, store=tmp_path, executor=icl.RayExecutor(1), **OPTIONS)
    assert same(found, wanted)
    nobody = icl.RayExecutor(1, load=lambda: 1 / 0)
    assert same(icl.sweep(model, TASK, store=tmp_path, executor=nobody, **OPTIONS), wanted)


def test_a_worker_that_is_killed_costs_its_unit_alone(places, model, wanted, tmp_path, caplog):
    folder, store = tmp_path / "pids", tmp_path / "store"
    folder.mkdir()
    load = noting(places["llama"], folder)
    killed = []

    def kill():
        """The first worker that is ready, when some unit is kept."""
        while not (pids(folder) and any((store / "units").rglob("*.safetensors"))):
            time.sleep(0.001)
        killed.append(pids(folder)[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    options = OPTIONS | {"batch_size": 1}
    with caplog.at_level(logging.WARNING, logger="icl_locate"):
        executor = icl.RayExecutor(2, load=load)
        found = icl.sweep(model, TASK, store=store, executor=executor, **options)
    killer.join(timeout=60)
    assert same(found, wanted)
    assert sum(said.startswith("a worker died") for said in caplog.messages) == 1
    assert len(pids(folder)) in (2, 3), "another one came in its place, if there was work left"
    assert sum(said.startswith("a unit is tried again") for said in caplog.messages) <= 1


def test_a_worker_that_cannot_load_is_done_without(places, model, wanted, tmp_path, caplog):
    taken = tmp_path / "taken"

    def fail_once():
        try:
            taken.touch(exist_ok=False)
        except FileExistsError:
            return
        raise OSError("this node has no weights")

    load = noting(places["llama"], tmp_path, fail_once)
    with caplog.at_level(logging.WARNING, logger="icl_locate"):
        found = icl.sweep(model, TASK, executor=icl.RayExecutor(2, load=load), **OPTIONS)
    assert same(found, wanted) and len(pids(tmp_path)) == 1
    assert "could not load the model: OSError: this node has no weights" in caplog.text


def test_no_worker_that_loads_is_an_error_with_the_reason(places, model):
    def never():
        raise OSError("nowhere")

    executor = icl.RayExecutor(2, load=never)
    with pytest.raises(ModelError, match="^no worker could load the model, .* OSError: nowhere$"):
        icl.sweep(model, TASK, executor=executor, **OPTIONS)


def test_other_weights_are_refused(places, model):
    other = partial(icl.load_model, places["gpt2"])
    with pytest.raises(ModelError, match="weights are not those of the process that asked"):
        icl.sweep(model, TASK, executor=icl.RayExecutor(1, load=other), **OPTIONS)


def test_a_unit_that_fails_everywhere_does_not_stop_the_others(places, model, tmp_path):
    def poisoned():
        """The weights are the same, and it gives NaN for as long as a file is there."""
        import torch

        import icl_locate as icl

        model = icl.load_model(tiny_directory)
        head = model.original_model.lm_head

        def spoil(module, args, output):
            return torch.full_like(output, float("nan")) if bad.exists() else output

        head.register_forward_hook(spoil)
        return model

    tiny_directory, bad = places["llama"], tmp_path / "bad"
    options = OPTIONS | {"engine": "hooks", "metric": "log_prob"}
    icl.sweep(model, TASK, store=tmp_path / "s", **options | {"seeds": 0})
    n_before = sum(1 for _ in (tmp_path / "s" / "units").rglob("*.safetensors"))
    bad.touch()
    executor = icl.RayExecutor(2, load=poisoned, retries=1)
    with pytest.raises(ExecutionError, match="^6 of 6 units failed wherever they were tried"):
        icl.sweep(model, TASK, store=tmp_path / "s", executor=executor, **options)
    bad.unlink()
    found = icl.sweep(model, TASK, store=tmp_path / "s", executor=executor, **options)
    assert same(found, icl.sweep(model, TASK, **options))
    assert len([*Store.at(tmp_path / "s").contexts()]) == 1 and n_before == 6


def test_arguments_of_an_executor_are_checked():
    for wrong, message in (
        ({"n_workers": 0}, "n_workers is 0"),
        ({"num_gpus": -0.5}, "num_gpus is -0.5"),
        ({"retries": -1}, "retries is -1"),
    ):
        with pytest.raises(IclLocateError, match=message):
            icl.RayExecutor(**wrong)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(IclLocateError, match=r"pip install 'icl-locate\[ray\]'"):
        icl.RayExecutor()
    assert torch.get_num_threads()
