"""Units on a Ray cluster: workers that load the model once, and may die one by one."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from icl_locate.checks.arguments import check_count, check_number, check_text, refuse
from icl_locate.errors import ExecutionError, IclLocateError, ModelError
from icl_locate.metrics import Answers
from icl_locate.models.bridge import Model
from icl_locate.models.fingerprint import fingerprint
from icl_locate.models.loading import first_line, load_model
from icl_locate.studies.units import Unit

_log = logging.getLogger(__name__)
_PATIENCE = 60.0  # seconds after which a wait for the first worker is told
Taken = Callable[[Unit, Sequence[Answers]], None]


@dataclass(frozen=True)
class RayExecutor:
    """Runs what is missing on a Ray cluster; for ``executor=`` of every study.

    A worker is an actor that loads the model once and then runs one unit after the other. A worker
    that dies costs its unit, which runs elsewhere; one whose model does not load, nothing. A unit
    that fails everywhere does not stop the others: the error comes when they are done and kept.

    This process builds the prompts and chooses the engine, and so holds the model, too: on a
    machine whose GPUs the workers take, load it with ``device="cpu"``.

    Attributes:
        n_workers: ``None``: as many as the cluster has room for when the run begins.
        num_gpus: for each worker, a part of one too; ``None``: 1 where the cluster has any.
        num_cpus: for each worker.
        retries: how often a unit, or a worker that dies while it loads, is tried again.
        load: gives a worker its model, such as ``functools.partial(icl_locate.load_model, NAME,
            device_map="auto")``; ``None`` loads the one of this process by its name, in its dtype.
            Its weights must be those of this process.
        address: of a cluster, such as "auto" or "ray://HOST:10001"; ``None``: the one that is
            connected, or that RAY_ADDRESS names, or else one of this machine's cores alone.

    Raises:
        IclLocateError: if Ray is not there, or an argument is out of range.
    """

    n_workers: int | None = None
    num_gpus: int | float | None = None
    num_cpus: int | float = 1
    retries: int = 2
    load: Callable[[], Model] | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.n_workers is not None:
            check_count("n_workers", self.n_workers, least=1)
        if self.num_gpus is not None:
            check_number("num_gpus", self.num_gpus, least=0)
        check_number("num_cpus", self.num_cpus, least=0)
        check_count("retries", self.retries, least=0)
        if self.load is not None and not callable(self.load):
            refuse("load", self.load, "a function without arguments that gives a model", ModelError)
        if self.address is not None:
            check_text("address", self.address)
        _ray()

    def run(self, model: Model, units: Sequence[Unit], on_answer: Taken) -> None:
        """Run every unit, and hand on its answers as they come.

        Raises:
            ModelError: if no worker could load the model; the message says why.
            ExecutionError: if units failed on every worker that tried them; the others are done.
        """
        ray = _ray()
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, logging_level="warning")
        n_gpus = self._gpus(ray)
        make = partial(
            ray.remote(_Worker).options(num_cpus=self.num_cpus, num_gpus=n_gpus).remote,
            self.load or _loader_of(model),
            fingerprint(model),
        )
        n_workers = min(len(units), self.n_workers or self._room(ray, n_gpus))
        crew = _Crew(ray, make, deque(units), self.retries, on_answer)
        try:
            crew.work(n_workers)
        finally:
            crew.dismiss()

    def _gpus(self, ray: Any) -> int | float:
        if self.num_gpus is not None:
            return self.num_gpus
        return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0

    def _room(self, ray: Any, n_gpus: int | float) -> int:
        """How many workers find room in the cluster."""
        total = ray.cluster_resources()
        wanted = {"GPU": n_gpus, "CPU": self.num_cpus}
        rooms = [total.get(name, 0) / each for name, each in wanted.items() if each]
        return max(1, int(min(rooms, default=1)))


def _ray() -> Any:
    """The module, if it is there.

    Raises:
        IclLocateError: saying how to install it.
    """
    try:
        import ray
    except ImportError as error:
        raise IclLocateError(
            "a RayExecutor takes Ray, which is not installed: pip install 'icl-locate[ray]', or "
            "leave executor out, and units run in this process"
        ) from error
    return ray


def _loader_of(model: Model) -> Callable[[], Model]:
    """What loads the same model in another process."""
    name = str(getattr(model.cfg, "model_name", ""))
    dtype = str(next(model.original_model.parameters()).dtype).removeprefix("torch.")
    revision = getattr(model.original_model.config, "_commit_hash", None)
    return partial(load_model, name, dtype=dtype, revision=revision)


class _Worker:
    """What runs in a process of its own, as an actor."""

    def __init__(self, load: Callable[[], Model], wanted: str) -> None:
        self._load, self._wanted = load, wanted
        self._model: Model | None = None

    def ready(self) -> None:
        """Load the model.

        Raises:
            ModelError: if its weights are others.
        """
        self._model = self._load()
        if fingerprint(self._model) != self._wanted:
            raise ModelError(
                "its weights are not those of the process that asked (edited there, another dtype, "
                "or another revision): save the model and load both from there, or give "
                "RayExecutor(load=...), a function that makes the same model"
            )

    def answer(self, unit: Unit) -> list[Answers]:
        """Run a unit."""
        if self._model is None:
            raise ModelError("the model is not loaded: ready() comes first")
        return unit.answer(self._model)


@dataclass
class _Crew:
    """Workers and what is left for them to do.

    Attributes:
        left: units that wait.
        free: workers that do.
        waiting: by the reference that is waited for, its worker, and its unit (``None``: it loads).
        tries: how often a unit was begun in vain.
        unable: why workers could not load the model.
        failed: why units failed for the last time.
    """

    ray: Any
    make: Callable[[], Any]
    left: deque[Unit]
    retries: int
    on_answer: Taken
    free: deque[Any] = field(default_factory=deque)
    waiting: dict[Any, tuple[Any, Unit | None]] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    unable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    n_died_loading: int = 0

    def work(self, n_workers: int) -> None:
        """Have all units run.

        Raises:
            ModelError, ExecutionError: as `RayExecutor.run` says.
        """
        total = len(self.left)
        for _ in range(n_workers):
            self._hire()
        while self.left or any(unit is not None for _, unit in self.waiting.values()):
            if not self.waiting:
                why = "; ".join(dict.fromkeys(self.unable))
                raise ModelError(
                    f"no worker could load the model, and {len(self.left)} units wait: {why}"
                )
            done, _ = self.ray.wait([*self.waiting], num_returns=1, timeout=_PATIENCE)
            if not done and all(unit is None for _, unit in self.waiting.values()):
                _log.warning("workers still wait for room in the cluster, or load the model")
            for one in done:
                self._meet(one, *self.waiting.pop(one))
                self._hand_out()
        if self.failed:
            raise ExecutionError(
                f"{len(self.failed)} of {total} units failed wherever they were tried, the others "
                f"are done: {self.failed[0]}"
            )

    def _hire(self) -> None:
        worker = self.make()
        self.waiting[worker.ready.remote()] = worker, None

    def _hand_out(self) -> None:
        """Give those who are free something to do; who has been so longest comes first."""
        while self.left and self.free:
            worker, unit = self.free.popleft(), self.left.popleft()
            self.waiting[worker.answer.remote(unit)] = worker, unit

    def _meet(self, done: Any, worker: Any, unit: Unit | None) -> None:
        """See what a worker did."""
        errors = self.ray.exceptions
        try:
            found = self.ray.get(done)
        except errors.RayTaskError as error:  # its own code raised
            if unit is None:
                self._give_up(worker, _reason(error))
            else:
                self._try_again(unit, _reason(error))
                self.free.append(worker)
        except errors.RayError as error:  # the worker is gone
            _log.warning("a worker died: %s", first_line(error))
            self._replace(unit, f"a worker died: {first_line(error)}")
        else:
            self.free.append(worker)
            if unit is not None:
                self.on_answer(unit, found)

    def _give_up(self, worker: Any, why: str) -> None:
        """Do without a worker that cannot load the model."""
        _log.warning("a worker could not load the model: %s", why)
        self.unable.append(why)
        self.ray.kill(worker)

    def _try_again(self, unit: Unit, why: str) -> None:
        """Put a unit back, unless it failed too often."""
        self.tries[id(unit)] = self.tries.get(id(unit), 0) + 1
        if self.tries[id(unit)] > self.retries:
            self.failed.append(why)
        else:
            _log.warning("a unit is tried again: %s", why)
            self.left.append(unit)

    def _replace(self, unit: Unit | None, why: str) -> None:
        """Hire another worker in the place of one that died."""
        if unit is not None:
            self._try_again(unit, why)
        else:
            self.unable.append(why)
            self.n_died_loading += 1
            if self.n_died_loading > self.retries:
                return
        if self.left:
            self._hire()

    def dismiss(self) -> None:
        """Let all workers go."""
        for worker in (*self.free, *(worker for worker, _ in self.waiting.values())):
            self.ray.kill(worker)


def _reason(error: Any) -> str:
    """What a worker's own code raised."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {first_line(cause)}"
