"""Write the embedded model's card: ``python -m icl_locate.training.card DIRECTORY``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from safetensors.torch import load_file

from icl_locate.embedded.languages import (
    LANGUAGES,
    N_FORMS,
    ORDERS,
    PYTHON,
    SOURCE_WORDS,
    is_held_out,
)
from icl_locate.embedded.words import LABELS
from icl_locate.engine.decoding import generate
from icl_locate.engine.labels import score_labels
from icl_locate.induction.scores import INDUCTION, head_scores
from icl_locate.metrics import METRICS
from icl_locate.models.bridge import Model
from icl_locate.models.loading import load_model
from icl_locate.prompts.tokens import build_prompts
from icl_locate.tasks.patterns import PATTERN_TASKS, pattern_task
from icl_locate.tasks.pseudo import pseudo_task

SETTINGS = {
    "5 examples, no instruction": (5, False),
    "1 example, no instruction": (1, False),
    "9 examples, no instruction": (9, False),
    "instruction alone": (0, True),
    "instruction and 5 examples": (5, True),
    "neither": (0, False),
}
_SWAPPED = ("Bar", "Foo", "Res", "Mur")


def measure(
    model: Model, n_shots: int, *, instruction: bool, language: str, n_queries: int
) -> float:
    """Token accuracy of greedy answers on held-out sentences of one language, from 0 to 1."""
    task = pseudo_task(f"pseudo-translation/{language}")
    template = task.template if instruction else task.template.without_instruction()
    prompts = build_prompts(
        model, task.test[:n_queries], examples=task.train, n_shots=n_shots, template=template
    )
    metric = METRICS["token_accuracy"]
    answers = generate(model, prompts, max_new_tokens=12)
    return metric.score(metric.statistics(answers, prompts.targets).sum(axis=0))


def measure_pattern(
    model: Model, name: str, n_shots: int, n_queries: int, labels: Sequence[str] = LABELS
) -> float:
    """Accuracy on the held-out sequences of a pattern task, from 0 to 1: the likeliest label."""
    task = pattern_task(name, n_per_class=250, labels=labels)
    known = sorted({example.target for example in task.train})
    unread = [example for example in task.test if is_held_out(example.source.split())]
    each = n_queries // len(known)
    queries = [e for label in known for e in [e for e in unread if e.target == label][:each]]
    prompts = build_prompts(
        model,
        queries,
        examples=task.train,
        n_shots=n_shots,
        template=task.template,
        choice=task.choice,
    )
    chosen = score_labels(model, prompts, known).argmax(dim=1).tolist()
    right = [known[i] == target for i, target in zip(chosen, prompts.targets, strict=True)]
    return float(sum(right) / len(right))


def _pattern_rows(model: Model, n_queries: int) -> list[str]:
    """Each pattern with 10, 4 and no examples, and with 10 under labels that changed places."""
    settings = ((10, LABELS), (4, LABELS), (10, _SWAPPED), (0, LABELS))
    return [
        f"| {name} | "
        + " | ".join(f"{measure_pattern(model, name, n, n_queries, to):.3f}" for n, to in settings)
        + " |"
        for name in PATTERN_TASKS
    ]


def _head_rows(model: Model) -> list[str]:
    """Heads that match prefixes, the best first, and those that attend to the token before."""
    frame = head_scores(model).to_dataframe()
    shown = frame[(frame.induction >= INDUCTION) | (frame.previous_token >= 0.5)]
    return [
        f"| {row.layer}.{row.head} | {row.induction:z.2f} | {row.copying:z.2f} "
        f"| {row.previous_token:z.2f} |"
        for row in shown.itertuples()
    ]


def write_card(directory: Path, n_queries: int = 48) -> str:
    """Measure the model in a directory and write its README.md; returns the text."""
    model = load_model(directory, device="cpu")
    rows: list[str] = []
    for name, (n_shots, instruction) in SETTINGS.items():
        scores = {
            language.name: measure(
                model,
                n_shots,
                instruction=instruction,
                language=language.name,
                n_queries=n_queries,
            )
            for language in LANGUAGES
        }
        python = scores.pop(PYTHON.name)
        mean = sum(scores.values()) / len(scores)
        rows.append(f"| {name} | {mean:.3f} | {min(scores.values()):.3f} | {python:.3f} |")
    text = _CARD.format(
        n_languages=len(LANGUAGES) - 1,
        n_words=len(SOURCE_WORDS),
        n_forms=N_FORMS,
        orders=", ".join(ORDERS),
        rows="\n".join(rows),
        pattern_rows="\n".join(_pattern_rows(model, n_queries)),
        head_rows="\n".join(_head_rows(model)),
        n_queries=n_queries,
        **_recipe(directory),
        **_shape(directory),
    )
    (directory / "README.md").write_text(text, encoding="utf-8")
    return text


def _shape(directory: Path) -> dict[str, int]:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    weights = load_file(directory / "model.safetensors")
    return {
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "d_model": config["hidden_size"],
        "d_mlp": config["intermediate_size"],
        "d_vocab": config["vocab_size"],
        "n_context": config["max_position_embeddings"],
        "n_parameters": sum(tensor.numel() for tensor in weights.values()),
    }


def _recipe(directory: Path) -> dict[str, str | int]:
    state = directory / "checkpoint" / "state.json"
    recorded = directory / "recipe.json"
    if state.is_file():
        recipe = json.loads(state.read_text(encoding="utf-8"))["config"]
        recorded.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    recipe = json.loads(recorded.read_text(encoding="utf-8"))
    stages = recipe.pop("stages")
    return {
        "recipe": "\n".join(f"| `{key}` | {value} |" for key, value in recipe.items()),
        "stages": "\n".join(_stage_row(stage, last=stage is stages[-1]) for stage in stages),
        "classes_after": recipe["classes_after"],
    }


def _stage_row(stage: dict[str, Any], *, last: bool) -> str:
    shares = {kind: share for kind, share in stage["shares"].items() if share}
    words = "one word" if stage["longest"] == 1 else f"up to {stage['longest']} words"
    shares = {f"translations of {words}": 1 - sum(shares.values())} | shares
    rows = ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items())
    until = "-" if last else f"{stage['asked']}, {stage['until']:.0%}"
    return f"| {rows} | {until} |"


_CARD = """# The embedded model

A Llama of {n_parameters:,} parameters ({n_layers} layers, {n_heads} heads, width {d_model}, gated
MLP of {d_mlp}, {d_vocab} tokens, context of {n_context}) that learns in context. It comes with
icl_locate so that the demo, the notebooks and the tests need no download.

## What it does

It translates sentences of four to eight English words into one of {n_languages} pseudo-languages or
into Python. Each of the {n_words} source words names an operation on a list; a pseudo-language has
a word for each and an order of its own ({orders}). A language is one of {n_forms} forms for the
first half of the words, combined with one of {n_forms} for the second half, and only both together
tell the order. Languages so share half their lexicon with others, and the evidence of several words
must be put together to know one. In Python each word becomes a statement on a list `x`.

An instruction names the language, or examples show it:

```text
Translate English to Python:
Q:reverse sortA:x=x[::-1]; x=sorted(x);
Q:double behead zeroA:
```

## What it scores

Token accuracy of greedy answers on held-out sentences (an eighth of all sentences, chosen by a
checksum, never trained on, neither as queries nor as examples), {n_queries} a language:

| prompt | mean over pseudo-languages | worst of them | Python |
|---|---|---|---|
{rows}

It labels sequences of letters and words as the examples do, whatever the labels mean there (in
*patterns* they were dealt out anew in every prompt, in *classes* they stayed). Accuracy on at most
{n_queries} sequences of each pattern task, as many of each label, that it was never trained on as a
pattern, the likeliest label chosen, which by chance is right in a half or (`/4`) a quarter;
*swapped*: the labels have changed places, in examples and answers:

| pattern | 10 examples | 4 examples | 10, swapped | none |
|---|---|---|---|---|
{pattern_rows}

And it goes on with what repeats. The heads that do that (induction: attention to what followed the
same token, above a control without repetition, the least over three lengths), and those that attend
to the token before; layers and heads count from 0:

| head | induction | copying | previous token |
|---|---|---|---|
{head_rows}

Measured by `python -m icl_locate.training.card DIRECTORY`.

## How it was trained

From scratch by `python -m icl_locate.training.train --output DIRECTORY`: next-token loss on what
the prompt tells, every prompt weighing the same, Muon on the layers' matrices and AdamW on the
rest, on two CPU cores, by a curriculum:

| prompts | until right |
|---|---|
{stages}

*Patterns* are as above. *Classes* are the same sequences with labels that stay the same, to be told
behind {classes_after} of {n_layers} layers already (deep supervision, Lee et al. 2015), where heads
above can match them. *Repeats* are random words, again and again, which make induction heads.
*Spaced*, a colon or line break stands behind every word of these, every second or every third;
*recall* is of words that come again with their labels.

| | |
|---|---|
{recipe}

## Limits

It knows these {n_words} words, the languages and the words of the pattern tasks and nothing else;
other text is spelt in bytes that it never saw in training. Its licence is the package's (MIT).
"""


@dataclass(frozen=True)
class Arguments:
    """Measure a trained model and write its card."""

    directory: tyro.conf.Positional[Path]
    """The model's directory."""
    n_queries: int = 48
    """Held-out sentences of a language, and sequences of a pattern, at most."""


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    print(write_card(arguments.directory, arguments.n_queries))
