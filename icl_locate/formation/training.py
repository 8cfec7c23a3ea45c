"""One training run: deterministic by its seed, and resumable after each of its points."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from icl_locate.checks.arguments import check_count
from icl_locate.checks.contents import check_table
from icl_locate.errors import NumericalError, ResultError
from icl_locate.formation.config import FormationConfig
from icl_locate.formation.measures import MEASURES, measure
from icl_locate.formation.model import FormationModel
from icl_locate.formation.result import FormationRun
from icl_locate.formation.task import SETS, answers_of
from icl_locate.records.checkpoint import load_checkpoint, save_checkpoint
from icl_locate.studies.machine import describe_run

_FORM = "icl_locate.FormationCheckpoint/1"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_CURVES = ("accuracies", "set_losses", "strengths", "previous_token", "only_head", "progress")


def run(
    config: FormationConfig, checkpoint: str | Path | None, tell: Callable[[int], object]
) -> FormationRun:
    """Train to the end, going on from the checkpoint if there is one.

    Args:
        tell: takes how many sequences more were seen, now and then.

    Raises:
        ResultError: if the checkpoint is another training's, or cannot be written.
        NumericalError: if the loss is not a number.
    """
    training = Training(config)
    if checkpoint is not None and training.load(checkpoint):
        tell(training.step * config.batch_size)
    while len(training.points) < len(config.points):
        training.reach(config.points[len(training.points)], tell)
        training.note()
        if checkpoint is not None:
            training.save(checkpoint)
    return training.result()


class Training:
    """Where a run stands: the model, the optimizer, the step, and what was measured so far."""

    def __init__(self, config: FormationConfig) -> None:
        self.config = config
        self.model = FormationModel(config.task, config.shape, config.seed)
        self.weights = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.weights, lr=config.learning_rate, fused=True)
        self.step = 0
        self.points: list[Mapping[str, Tensor]] = []
        self._probes = {name: config.task.sequences(name, config.n_evaluated) for name in SETS}

    def reach(self, step: int, tell: Callable[[int], object]) -> None:
        """Train up to a step."""
        config = self.config
        while self.step < step:
            block = config.task.batches(config.seed, self.step, config.batch_size)
            for tokens in block[: step - self.step]:
                self._learn(tokens)
                tell(config.batch_size)

    def _learn(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """One step of training."""
        loss = F.cross_entropy(self.model(tokens, self.config.settled), answers_of(tokens))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1

    def note(self) -> None:
        """Measure the model as it is."""
        found = [measure(self.model, probe, self.config.settled) for probe in self._probes.values()]
        point = {
            "accuracies": torch.stack([one.accuracy for one in found]),
            "set_losses": torch.stack([one.loss for one in found]),
            "progress": found[0].progress,
        }
        for name in ("strengths", "previous_token", "only_head"):
            point[name] = getattr(found[0], name)
        if not all(bool(values.isfinite().all()) for values in point.values()):
            raise NumericalError(
                f"the loss is {point['set_losses'][0].item()} after {self.step} steps: lower "
                "learning_rate"
            )
        self.points.append(point)

    def result(self) -> FormationRun:
        """The run, at its end."""
        config, curves = self.config, self._curves()
        steps = torch.tensor(config.points[: len(self.points)])
        return FormationRun(
            sequences=steps * config.batch_size,
            losses=curves["set_losses"][:, 0].clone(),
            accuracies=curves["accuracies"].T.contiguous(),
            set_losses=curves["set_losses"].T.contiguous(),
            strengths=curves["strengths"],
            previous_token=curves["previous_token"],
            only_head=curves["only_head"],
            progress=curves["progress"].T.contiguous(),
            weights=self.model.weights,
            sets=SETS,
            measures=MEASURES,
            clamps=config.clamp_names,
            provenance={**config.describe(), **describe_run(["cpu"])},
        )

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, in place of the last one at once."""
        state = self.optimizer.state
        tensors = {"weights": self.model.weights, **self._curves()}
        for name in _MOMENTS if self.step else ():
            tensors[name] = torch.cat(
                [  # a weight that a clamp cuts off has no gradient, and nothing to remember
                    state[weight].get(name, torch.zeros_like(weight)).flatten()
                    for weight in self.weights
                ]
            )
        save_checkpoint(path, _FORM, tensors, {"step": self.step}, self.config.describe())

    def load(self, path: str | Path) -> bool:
        """Go on from a checkpoint; returns whether there was one.

        Raises:
            ResultError: if it is damaged, or another training's.
        """
        found = load_checkpoint(
            path, _FORM, self.config.describe(), ("weights", *_CURVES), ["step"]
        )
        if found is None:
            return False
        tensors, rest = found
        step = check_count("step", rest["step"], least=0, error=ResultError)
        if step not in self.config.points:
            raise ResultError(f"the checkpoint {path} is damaged: it ends at no point of this run")
        n_points = self.config.points.index(step) + 1
        for name in ("weights", *(_MOMENTS if step else ())):
            check_table(name, tensors.get(name), (len(self.model.weights),))
        for name in _CURVES:
            check_table(name, tensors[name], (n_points, None))
        self.step = step
        self.points = [{name: tensors[name][i] for name in _CURVES} for i in range(n_points)]
        self.model.fill(tensors["weights"])
        if step:
            self._set_moments({name: tensors[name] for name in _MOMENTS})
        return True

    def _set_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Give the optimizer what it remembers."""
        sizes = [weight.numel() for weight in self.weights]
        parts = {name: torch.split(vector, sizes) for name, vector in moments.items()}
        for i, weight in enumerate(self.weights):
            self.optimizer.state[weight] = {
                "step": torch.tensor(float(self.step)),
                **{name: parts[name][i].view_as(weight).clone() for name in _MOMENTS},
            }

    def _curves(self) -> dict[str, Tensor]:
        """What was measured, a row a point."""
        return {name: torch.stack([point[name] for point in self.points]) for name in _CURVES}
