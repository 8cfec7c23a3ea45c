"""The share of generated programs that pass their tests, each run in the sandbox."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import ClassVar

from jaxtyping import Float
from numpy import ndarray

from icl_locate.checks.reprs import short_repr
from icl_locate.checks.signatures import check_fields, checked, number, one_of
from icl_locate.errors import TaskError
from icl_locate.metrics.base import Statistics, mean_of, mean_statistics, pair_texts
from icl_locate.metrics.traits import Asked
from icl_locate.prompts.programs import CodeCheck, pass_at_k
from icl_locate.prompts.template import Example
from icl_locate.sandbox import SandboxResult, run_python
from icl_locate.sandbox.run import LONGEST, WALLS

_AT_ONCE = 2
_WHERE = {
    "auto": "tests in another process unless they use objects of the program",
    "sealed": "tests in another process",
    "shared": "tests in the program's process",
}


@short_repr("name", "timeout", "wall", "checks")
@dataclass(frozen=True)
class PassRate:
    """pass@1 with greedy answers: the share of programs that pass (Chen et al. 2021).

    Attributes:
        checks: for each target, what an answer must pass; bound by `bound_to`.
        timeout: seconds for each program and its tests.
        wall: what judges a program, as `run_python` takes it: "auto" keeps program and tests apart,
            but for tests that use a program's objects; results say how many these were (`judged`).
    """

    checks: Mapping[str, CodeCheck] = field(default_factory=dict, repr=False)
    timeout: float = 5.0
    name: str = "pass@1"
    wall: str = "auto"
    n_columns: ClassVar[int] = 2
    is_mean: ClassVar[bool] = True
    compares_targets: ClassVar[bool] = False
    runs_programs: ClassVar[bool] = True
    _verdicts: dict[tuple[str, str], SandboxResult | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        timeout, wall = number(above=0, below=LONGEST), one_of(*WALLS)
        check_fields(self, TaskError, timeout=timeout, wall=wall)

    @property
    def signature(self) -> str:
        """What it takes to compute the same number again."""
        return f"pass@1|greedy|timeout:{self.timeout:g}s|wall:{self.wall}|{_WHERE[self.wall]}"

    @checked(TaskError)
    def for_task(self, task: Asked, n_queries: int) -> "PassRate":
        """This metric for a task's first queries, unless it has some already.

        Raises:
            TaskError: as `bound_to` does, or if the task has fewer queries.
        """
        return self if self.checks else self.bound_to(task.queries(n_queries))

    @checked(TaskError)
    def bound_to(self, examples: Sequence[Example]) -> "PassRate":
        """This metric for some queries.

        Raises:
            TaskError: if a query has no check, or two have one target but different checks.
        """
        checks: dict[str, CodeCheck] = {}
        for example in examples:
            if example.check is None:
                raise TaskError(
                    f"pass@1 asks for tests, but the query {example.source[:60]!r} has none: "
                    "choose another metric, or give its Example a CodeCheck"
                )
            if checks.setdefault(example.target, example.check) != example.check:
                raise TaskError(
                    f"two queries have the target {example.target[:60]!r} but different tests"
                )
        return replace(self, checks=checks, _verdicts={})

    def statistics(self, answers: Sequence[str], targets: Sequence[str]) -> Statistics:
        """Columns: 1 if the item's program passed, and 1 to count it. Runs the programs."""
        passed = self._passed(pair_texts(answers, targets))
        return mean_statistics([float(one) for one in passed])

    def judged(self) -> dict[str, int]:
        """How many programs it ran so far, with their tests in one process, and without a verdict.

        Equal ones with equal tests count once. A result's provenance holds these numbers.
        """
        found = [verdict for verdict in self._verdicts.values() if verdict is not None]
        return {
            "judged": len(found),
            "judged_shared": sum(verdict.wall == "shared" for verdict in found),
            "unjudged": sum(verdict.status == "unjudged" for verdict in found),
        }

    def score(self, totals: Float[ndarray, "stat"]) -> float:
        """The share that passed."""
        return mean_of(totals)

    @checked(TaskError)
    def at_k(self, samples: Sequence[Sequence[str]], targets: Sequence[str], k: int) -> float:
        """pass@k of several sampled answers to each query, averaged over queries.

        Args:
            samples: ``samples[query]`` are the answers to one query.

        Raises:
            TaskError: if ``k`` exceeds a query's number of samples, or there are no queries.
        """
        if not samples:
            raise TaskError("there are no samples: expected some for each query")
        for some in samples:
            pass_at_k(len(some), 0, k)  # refuses before anything runs
        if len(samples) != len(targets):
            raise TaskError(
                f"there are samples for {len(samples)} queries, and {len(targets)} targets: "
                "expected as many of both"
            )
        pairs = [(a, target) for some, target in zip(samples, targets, strict=True) for a in some]
        passed = iter(self._passed(pairs))
        counts = [(len(some), sum(next(passed) for _ in some)) for some in samples]
        return sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)

    def _passed(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each (answer, target) passes; equal ones run once."""
        unknown = next((target for _, target in pairs if target not in self.checks), None)
        if unknown is not None:
            raise TaskError(
                f"the targets hold {unknown[:60]!r}, for which pass@1 knows no tests: bind it "
                "to the queries first, by bound_to"
            )
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._verdicts]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self._verdicts.update(zip(new, pool.map(self._judge, new), strict=True))
        verdicts = [self._verdicts[pair] for pair in pairs]
        return [verdict is not None and verdict.passed for verdict in verdicts]

    def _judge(self, pair: tuple[str, str]) -> SandboxResult | None:
        """The verdict on an answer; none where there is no answer."""
        answer, target = pair
        check = self.checks[target]
        if not answer.strip():
            return None
        return run_python(
            check.program(answer),
            tests=check.tests,
            timeout=self.timeout,
            entry_point=check.entry_point,
            wall=self.wall,
        )
