"""Options that several commands share, each written once.

A command's dataclass inherits what it takes, adds its own, and may give another default. Bases are
named last to first, since dataclasses collect fields from the end of that list: what is named last
comes first in ``--help``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

TaskName = Annotated[str, tyro.conf.Positional]
"""The task as the command's only word; a command that gives ``str`` takes ``--task``."""


MODULES = frozenset({"metric", "alongside"})
"""Options that may name what a module of the user's holds, as MODULE:NAME."""


MADE = frozenset({"output", "store"})
"""Options that name directories which need not be there yet."""


@dataclass(frozen=True)
class Output:
    """Where a command writes: every command's options are these and others."""

    command: ClassVar[str]  # its name; each command's own options give it

    output: Path = Path("runs")
    """Directory for what is written; made if it is not there."""

    config: Path | None = None
    """A config.toml that this command wrote, or one like it: its values are the defaults, and what
    is given beside it goes before. Default: none."""

    @property
    def about(self) -> str:
        """What the first line says of a command that is about no model."""
        return ""

    def check(self) -> None:
        """Refuse what only this command knows to be wrong; comes before torch is loaded."""


@dataclass(frozen=True)
class Replacing(Output):
    """Where a command writes that does not replace every result unasked."""

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. Default: it is refused."""


@dataclass(frozen=True)
class Kept(Output):
    """Where answers are kept as they come, and who runs what is missing."""

    store: Path | None = None
    """Directory that keeps every answer as soon as it is there: what it holds is not run again,
    whoever wrote it; several commands may share one. Default: nothing is kept."""

    ray: int | None = None
    """Workers on a Ray cluster (the one that RAY_ADDRESS names, or else this machine's cores), each
    with a GPU where there is one. Default: this process runs everything."""

    @property
    def executor(self) -> Any:
        """Who runs what is missing; ``None``: this process."""
        if self.ray is None:
            return None
        from icl_locate.studies.ray_executor import RayExecutor

        return RayExecutor(self.ray)


@dataclass(frozen=True)
class Model:
    """Which model, and how it is loaded."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights and cache."""

    def find(self) -> None:
        """Refuse a model that is not there; comes before torch is loaded."""
        from icl_locate.models.names import find_model

        find_model(self.model, self.revision)


@dataclass(frozen=True)
class Batched(Model):
    """A model that runs several prompts at once."""

    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """How a model that takes several GPUs is spread over them. Default: it is on one device."""

    batch_size: int = 32
    """Prompts that run at once."""


@dataclass(frozen=True)
class Task:
    """What the model is asked, and what its answers are worth."""

    reads_answers: ClassVar[bool] = False  # whether the metric must be one of generated answers

    task: TaskName = "pseudo-translation"
    """pseudo-translation, pseudo-translation/LANGUAGE, pseudo-python, flores/SOURCE-TARGET,
    humaneval, or a .csv or .jsonl file whose records have "source" and "target", or "text" and
    "label", and optionally "split" (train or test)."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    metric: str | None = None
    """bleu, bleu_lc (both with :TOKENISER or :first_sentence), chrf, exact_match, token_accuracy,
    log_prob, label_accuracy, label_accuracy_contextual or label_accuracy_domain (both without the
    labels' bias), first_token_accuracy, first_token_prob or pass@1; or MODULE:NAME, a function of
    (answer, target) or a Metric of your own in MODULE.py. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    @property
    def scores(self) -> bool:
        """Whether the command asks its task at all."""
        return True

    @property
    def allows_code(self) -> bool:
        """Whether a metric that runs programs may be named."""
        return self.run_code


@dataclass(frozen=True)
class Answers(Task):
    """A task of which a number of queries is answered."""

    n_queries: int = 64
    """Queries to answer: the first of the task's test set."""

    max_new_tokens: int = 50
    """Length at which an answer ends if no stop string ended it before."""


@dataclass(frozen=True)
class Shots:
    """Prompts of one number of examples."""

    n_shots: int = 5
    """Examples in each prompt."""


@dataclass(frozen=True)
class Seeds:
    """Several draws."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws other examples for the same queries."""


@dataclass(frozen=True)
class Intervals(Seeds):
    """Several draws, and what is said of their spread."""

    confidence: float = 0.95
    """Of the intervals."""


@dataclass(frozen=True)
class Quiet:
    """How much is said."""

    quiet: bool = False
    """No progress bar, no first prompt."""
