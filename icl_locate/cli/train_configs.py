"""The options of the commands that train: gates and lora."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class GatesConfig:
    """Learn a gate for each head of a frozen model: which heads can go, and which are needed?

    Writes into the output directory: gates.safetensors, gates.csv with gates.recipe.json,
    gate_map.png, pruning_curve.png, and checkpoint.safetensors, from which an interrupted run goes
    on.
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation"
    """Any task that `icl-locate sweep` takes."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    output: Path = Path("runs/gates")
    """Directory for what is written; made if it is not there."""

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. It begins anew, without the
    checkpoint. Default: it is refused."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    objective: Literal["prune", "break"] = "prune"
    """prune: close what can go; break: close what hurts most, and as little as possible."""

    penalty: float = 0.01
    """Weight of the expected number of gates, lambda."""

    learning_rate: float = 1e-3
    """Of Adam."""

    start: float = 2.5
    """The gates' first parameter: 2.4 and above is open."""

    max_epochs: int = 1000
    """At most so many passes over the prompts."""

    patience: int = 10
    """Epochs without improvement after which training ends."""

    n_shots: int = 5
    """Examples in each prompt."""

    instruction: bool = False
    """Whether prompts hold the task's instruction."""

    n_train: int = 200
    """Prompts to learn from."""

    n_dev: int = 64
    """Prompts to stop by."""

    n_queries: int = 64
    """Queries on which the model is scored with heads closed."""

    n_curve: int | None = None
    """Heads that the pruning curve closes. Default: all."""

    metric: str | None = None
    """As for `icl-locate sweep`. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    max_new_tokens: int = 50
    """Length at which an answer ends if no stop string ended it before."""

    batch_size: int = 32
    """Prompts that run at once."""

    seed: int = 0
    """Of the examples, the order of prompts, and the gates' noise."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights."""

    quiet: bool = False
    """No progress bar, no first prompt."""


@dataclass(frozen=True)
class LoraByLayerConfig:
    """Tune one layer at a time to a task by LoRA, and score each tuned model.

    Writes into the output directory: an adapter for each layer and seed as peft writes them,
    lora.safetensors, lora.csv with lora.recipe.json, and lora_layers.png. A run with the same
    output goes on where the last one ended; another training's checkpoints are refused.
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation/Novel"
    """Any task that `icl-locate sweep` takes. Default: a language that the embedded model was never
    taught."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    output: Path = Path("runs/lora")
    """Directory for what is written; made if it is not there."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    preset: Literal["sia2024", "sia2024-v1"] = "sia2024"
    """The recipe; what is given beside it goes before."""

    learning_rate: float | None = None
    """Of AdamW. Default: the preset's."""

    max_epochs: int | None = None
    """At most so many passes over the pairs. Default: the preset's."""

    n_train: int | None = None
    """Pairs to learn from. Default: the preset's."""

    n_dev: int | None = None
    """Pairs to stop by. Default: the preset's, or as many as the task has left."""

    loss: Literal["target", "sequence"] = "target"
    """What is learnt: the target and its end, or the source as well."""

    layers: tuple[int, ...] = ()
    """Layers to tune. Default: all."""

    seeds: tuple[int, ...] = (0, 1)
    """Each initialises adapters and orders pairs anew."""

    sweep: Path | None = None
    """A result.safetensors of `icl-locate sweep`, whose curve is drawn beside."""

    condition: str | None = None
    """Which curve of it. Default: the first."""

    n_queries: int = 64
    """Queries on which each tuned model is scored."""

    metric: str | None = None
    """As for `icl-locate sweep`. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    max_new_tokens: int = 50
    """Length at which an answer ends if no stop string ended it before."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights."""

    quiet: bool = False
    """No progress bar, no first prompt."""
