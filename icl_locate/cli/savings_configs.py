"""The options of the command that says what is saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SavingsConfig:
    """What dropping the context from a layer on saves: estimated from sizes, or measured.

    Prints a row for each layer: the published formula, exact floating-point operations, cache. With
    --measure the model is loaded and generates; writes savings.safetensors, savings.csv with
    savings.recipe.json, and savings.png.
    """

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory; only its configuration is
    read unless --measure."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    layers: tuple[int, ...] = ()
    """Layers from which to drop the context. Default: all."""

    n_shots: int = 5
    """Examples in a prompt."""

    shot_tokens: int = 50
    """Tokens of an example."""

    query_tokens: int = 50
    """Tokens of the query."""

    instruction_tokens: int = 0
    """Tokens of the instruction."""

    max_new_tokens: int = 50
    """New tokens."""

    measure: bool = False
    """Generate answers to a task, and measure time, memory and score. The task says how long its
    prompts are."""

    task: str = "pseudo-translation"
    """The task to measure on, as for `icl-locate sweep`."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    metric: str | None = None
    """As for `icl-locate sweep`. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    n_queries: int = 32
    """Queries to answer."""

    repeats: int = 3
    """Runs whose times are kept."""

    batch_size: int = 32
    """Prompts that run at once."""

    output: Path = Path("runs/savings")
    """Directory for what is measured; made if it is not there."""

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. Default: it is refused."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights and cache."""
