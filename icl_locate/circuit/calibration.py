"""Calibration queries of a probe: drawn among examples that are not tested."""

from random import Random

from icl_locate.checks.arguments import LAST_SEED
from icl_locate.circuit.inputs import CircuitSetting
from icl_locate.errors import TaskError
from icl_locate.prompts.template import Example, choose_examples


def draw_calibration(
    setting: CircuitSetting, seed: int, n_calibration: int
) -> list[tuple[Example, list[Example]]]:
    """Queries that are no test queries, and examples for each, which never hold it.

    Raises:
        TaskError: if no example of some class is among the queries.
        PromptError: if there are too few examples.
    """
    asked = setting.setting
    bank = asked.unasked
    chance = Random(f"calibration/{seed}")
    queries: list[Example] = []
    while bank and len(queries) < n_calibration:
        queries += chance.sample(bank, len(bank))[: n_calibration - len(queries)]
    known = {query.target for query in queries}
    missing = [label for label in setting.labels if label not in known]
    if missing:
        remedy = "raise n_calibration, or give more examples of each class"
        if missing[0] not in {example.target for example in bank}:
            remedy = "ask for fewer queries (n_queries), or give the task other examples than these"
        raise TaskError(
            f"no calibration query has the label {missing[0]!r}: {n_calibration} are drawn from "
            f"{len(bank)} examples of the task {asked.task.name!r} that are no test queries; "
            f"{remedy}"
        )
    return [
        (
            query,
            choose_examples(
                query, bank, asked.n_shots, seed=chance.randint(0, LAST_SEED),
                choice=str(asked.choice),
            ),
        )
        for query in queries
    ]  # fmt: skip
