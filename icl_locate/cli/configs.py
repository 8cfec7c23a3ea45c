"""The options of the commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class SweepConfig:
    """Hide the context from each layer on, score the model, and locate the recognition layer.

    Writes into the output directory: result.safetensors, scores.csv with scores.recipe.json,
    report.html and layer_curves.png (with another scope than "from": layer_importance.png).
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation"
    """pseudo-translation, pseudo-translation/LANGUAGE, pseudo-python, flores/SOURCE-TARGET,
    humaneval, or a .csv or .jsonl file whose records have "source" and "target", or "text" and
    "label", and optionally "split" (train or test)."""

    preset: Literal["sia2024-translation", "sia2024-code"] | None = None
    """Complete settings of a published experiment; what is given beside it goes before."""

    direction: str = "en-fr"
    """Languages of the translation preset: en-fr, en-pt, ..."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    output: Path = Path("runs/sweep")
    """Directory for what is written; made if it is not there."""

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. Default: it is refused."""

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
    """Instruction that opens the prompts of a task in a file. Default: none."""

    source_prefix: str | None = None
    """What stands before a source in the prompts of a task in a file. Default: "Q: ", or "Input: "
    for a text with a label."""

    target_prefix: str | None = None
    """What stands before a target in the prompts of a task in a file; spaces at its end become the
    answer's. Default: a line break and "A: ", or "Label: " for a text with a label."""

    separator: str | None = None
    """What stands after an example in the prompts of a task in a file. Default: a blank line."""

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
    """No progress bar, no first prompt."""


@dataclass(frozen=True)
class InductionConfig:
    """Score every head, take the induction heads out, and compare with random heads.

    Writes into the output directory: heads.csv with heads.recipe.json, heads.safetensors,
    head_map.png, ablation.safetensors, ablation.csv with ablation.recipe.json, ablation_bars.png,
    fraction_curves.png, induction.html, effects.safetensors where single heads were ablated, and
    reference.safetensors where means were measured.
    """

    task: Annotated[str, tyro.conf.Positional] = "pseudo-translation"
    """repetition, recursion, centre-embedding, f_a_f_p/2, f_a_f_p/4, v_v_b_i/2, v_v_b_i/4, or any
    task that `icl-locate sweep` takes."""

    model: str = "embedded"
    """embedded, a name on the Hugging Face Hub, or a local directory."""

    revision: str | None = None
    """Commit, tag or branch of a model on the Hub. Default: the newest."""

    output: Path = Path("runs/induction")
    """Directory for what is written; made if it is not there."""

    overwrite: bool = False
    """Replace a result of another recipe in the output directory. Default: it is refused."""

    data: Path | None = None
    """Directory of FLORES's or HumanEval's files. Default: they come from the Hugging Face Hub."""

    lengths: tuple[int, ...] = ()
    """Lengths of the random sequences on which heads are scored. Default: 50 37 29, or three
    shorter ones where the model's context or vocabulary is small."""

    tokens: Literal["vocabulary", "task"] = "vocabulary"
    """What these sequences are drawn from: the vocabulary's tokens that ordinary texts hold, or the
    task's own tokens."""

    fractions: tuple[float, ...] = (0.01, 0.03)
    """Shares of all heads to take out, those of the highest induction scores."""

    interventions: tuple[Literal["zero", "mean_z", "mean_input", "resample", "knockout"], ...] = (
        "mean_z",
        "knockout",
    )
    """What is done to them."""

    controls: int = 3
    """Random selections of as many other heads in each layer."""

    shots: tuple[int, ...] = (5,)
    """Examples in each prompt; several numbers are compared."""

    n_queries: int = 64
    """Queries to answer: the first of the task's test set."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws other examples for the same queries."""

    n_effects: int = 32
    """Heads whose ablation alone is measured: those of the highest induction scores; 0: none."""

    reference: Path | None = None
    """A reference.safetensors of an earlier run, whose means are used again."""

    match: Literal["token", "word"] | None = None
    """What counts as an earlier occurrence when edges are knocked out. Default: word for the
    pattern tasks of words, token for all others."""

    metric: str | None = None
    """As for `icl-locate sweep`. Default: the task's."""

    run_code: bool = False
    """Run the programs that the model writes, in the sandbox: pass@1 asks for it."""

    max_new_tokens: int = 50
    """Length at which an answer ends if no stop string ended it before."""

    batch_size: int = 32
    """Prompts that run at once."""

    device: str | None = None
    """cpu, cuda, ... Default: a GPU if there is one."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model's weights."""

    confidence: float = 0.95
    """Of the intervals."""

    quiet: bool = False
    """No progress bar, no first prompt."""


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
