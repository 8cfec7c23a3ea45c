"""The options of the commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class SweepConfig:
    """Hide the context from each layer on, score the model, and locate the recognition layer.

    Writes into the output directory: result.safetensors with result.json, scores.csv, report.html
    and layer_curves.png (with another scope than "from": layer_importance.png).
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation"
    """pseudo-translation, pseudo-translation/LANGUAGE, pseudo-python, flores/SOURCE-TARGET,
    humaneval, a .csv file with the columns "text" and "label", or a .jsonl file whose lines have
    "source", "target" and optionally "split" (train or test)."""

    preset: Literal["sia2024-translation", "sia2024-code"] | None = None
    """Complete settings of a published experiment; what is given beside it goes before."""

    direction: str = "en-fr"
    """Languages of the translation preset: en-fr, en-pt, ..."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    output: Path = Path("runs/sweep")
    """Directory for what is written; made if it is not there."""

    conditions: tuple[str, ...] = ()
    """What to hide: any of "examples", "instructions+examples", "examples, instructions kept",
    "query", "everything", "all but self". Default: all that the task's prompts allow."""

    conditions_file: Path | None = None
    """Conditions of your own: a TOML file of tables [[condition]] with name, hide (a list of
    segments) and optionally instruction and keep_self."""

    scope: str = "from"
    """Where a mask that starts at a layer acts: from (it on), only (there), or window:W."""

    compat: Literal["sia2024"] | None = None
    """Hide exactly the columns that the code of Sia et al. hides."""

    shots: tuple[int, ...] = ()
    """Numbers of examples to sweep over, such as 1 3 5 7 9. Default: only --n-shots."""

    metric: str | None = None
    """bleu, bleu_lc (both with :TOKENISER or :first_sentence), chrf, exact_match, token_accuracy,
    log_prob, label_accuracy or pass@1. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    n_shots: int = 5
    """Examples in each prompt."""

    n_queries: int | None = None
    """Queries to answer: the first of the task's test set. Default: 64, or all that there are."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws other examples for the same queries."""

    choice: Literal["random", "balanced", "disjoint"] | None = None
    """How examples are drawn: at random; balanced over the targets; or so, and sharing no word with
    the query. Default: as the task does."""

    instruction: str | None = None
    """Instruction that opens the prompts of a .jsonl task. Default: none."""

    source_prefix: str | None = None
    """What stands before a source in the prompts of a .jsonl task. Default: "Q:"."""

    target_prefix: str | None = None
    """What stands before a target in the prompts of a .jsonl task. Default: "A:"."""

    separator: str | None = None
    """What stands after an example in the prompts of a .jsonl task. Default: a line break."""

    prepend_bos: bool | None = None
    """Whether prompts start with BOS. Default: as the model's tokenizer does."""

    max_new_tokens: int | None = None
    """Length at which an answer ends if no stop string ended it before. Default: 50."""

    batch_size: int = 64
    """Prompts that run at once."""

    token_budget: int | None = None
    """Most tokens that the shared engine holds at once. Default: what free memory allows."""

    engine: Literal["auto", "shared", "hooks"] = "auto"
    """shared: one pass for all start layers and conditions; hooks: one hooked run for each cell;
    auto: shared wherever it is exact."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights."""

    confidence: float = 0.95
    """Of the intervals."""

    dry_run: bool = False
    """Say what would run and what it would take, and stop; loads no weights."""

    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class DemoConfig:
    """Find the task-recognition layer of the embedded model, in under a minute.

    Hides the context of 5-shot translation prompts from every layer on, under the six conditions of
    Sia et al., and writes figures, a table and a self-contained page.
    """

    output: Path = Path("runs/demo")
    """Directory for what is written; made if it is not there."""

    n_queries: int = 32
    """Sentences to translate."""

    seeds: tuple[int, ...] = (0, 1)
    """Each draws other examples for the same sentences."""

    quiet: bool = False
    """No progress bar."""
