"""Units on a Ray cluster: workers that load the model once, and may die one by one."""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from icl_locate.checks.arguments import check_count, check_number, check_text, refuse
from icl_locate.errors import ExecutionError, IclLocateError, ModelError
from icl_locate.models.bridge import Model
from icl_locate.models.loading import first_line
from icl_locate.studies.place import Done

_log = logging.getLogger(__name__)
_PATIENCE = 60.0  # seconds after which a wait for the first worker is told


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

    def run(self, load: Callable[[], Any], works: Sequence[Any], on_done: Done) -> None:
        """Do all work, and hand on what comes of it as it comes.

        Args:
            load: gives each worker, once, what the work is done with.

        Raises:
            ModelError: if no worker could load the model; the message says why.
            ExecutionError: if work failed on every worker that tried it; the rest is done.
        """
        ray = _ray()
        if not ray.is_initialized():
            with warnings.catch_warnings():  # of what later versions of Ray will do
                warnings.simplefilter("ignore", FutureWarning)
                ray.init(address=self.address, log_to_driver=False, logging_level="warning")
        n_gpus = self._gpus(ray)
        hire = ray.remote(_Worker).options(num_cpus=self.num_cpus, num_gpus=n_gpus).remote
        n_workers = min(len(works), self.n_workers or self._room(ray, n_gpus))
        crew = _Crew(ray, partial(hire, load), deque(works), self.retries, on_done)
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


class _Worker:
    """What runs in a process of its own, as an actor."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def ready(self) -> None:
        """Load what the work is done with."""
        self._loaded = self._load()

    def do(self, work: Any) -> Any:
        """Do a piece of work."""
        return work.run(self._loaded)


@dataclass
class _Crew:
    """Workers and what is left for them to do.

    Attributes:
        left: units that wait.
        free: workers that do.
        waiting: by the reference that is waited for, its worker, and its unit (``None``: it loads).
        tries: how often a unit was begun in vain.
        avoided: by the number of a unit, the workers on which it failed.
        unable: why workers could not load the model.
        failed: why units failed for the last time.
    """

    ray: Any
    make: Callable[[], Any]
    left: deque[Any]
    retries: int
    on_done: Done
    free: deque[Any] = field(default_factory=deque)
    waiting: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    avoided: dict[int, list[Any]] = field(default_factory=dict)
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
                self._hand_out(anyway=True)
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

    def _hand_out(self, *, anyway: bool = False) -> None:
        """Give those who are free something to do; who has been so longest comes first.

        Args:
            anyway: whether a worker gets a unit that failed on it, too: else one whose GPU broke
                would fail them all, and sooner than others come to them.
        """
        for worker in [*self.free]:
            fit = (i for i, unit in enumerate(self.left) if not self._failed_on(unit, worker))
            place = next(fit, 0 if anyway and self.left else None)
            if place is not None:
                unit = self.left[place]
                del self.left[place]
                self.free.remove(worker)
                self.waiting[worker.do.remote(unit)] = worker, unit
        if self.left and self.free and not self.waiting:
            self._hand_out(anyway=True)

    def _failed_on(self, unit: Any, worker: Any) -> bool:
        return any(worker is one for one in self.avoided.get(id(unit), ()))

    def _meet(self, done: Any, worker: Any, unit: Any) -> None:
        """See what a worker did."""
        errors = self.ray.exceptions
        try:
            found = self.ray.get(done)
        except errors.RayTaskError as error:  # its own code raised
            if unit is None:
                self._give_up(worker, _reason(error))
            else:
                self._try_again(unit, _reason(error))
                self.avoided.setdefault(id(unit), []).append(worker)
                self.free.append(worker)
        except errors.RayError as error:  # the worker is gone
            _log.warning("a worker died: %s", first_line(error))
            self._replace(unit, f"a worker died: {first_line(error)}")
        else:
            self.free.append(worker)
            if unit is not None:
                self.on_done(unit, found)

    def _give_up(self, worker: Any, why: str) -> None:
        """Do without a worker that cannot load the model."""
        _log.warning("a worker could not load the model: %s", why)
        self.unable.append(why)
        self.ray.kill(worker)

    def _try_again(self, unit: Any, why: str) -> None:
        """Put a unit back, unless it failed too often."""
        self.tries[id(unit)] = self.tries.get(id(unit), 0) + 1
        if self.tries[id(unit)] > self.retries:
            self.failed.append(why)
        else:
            _log.warning("a unit is tried again: %s", why)
            self.left.append(unit)

    def _replace(self, unit: Any, why: str) -> None:
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
