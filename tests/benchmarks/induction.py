"""Benchmark of head scores, ablation and knockout: ``python tests/benchmarks/induction.py``.

A random Llama of about GPT-2's size and vocabulary, and a small one of 8 layers. Scoring
every head is timed as it is. A study's runs are timed in three ways on the same inputs, in turn in
one run: batched; one prompt at a time; and one prompt and label at a time, as evaluation harnesses
score labels. Their outputs are compared, ratios are of medians. Writes numbers and a table into
``docs/``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import tyro
from random_llama import Shape, build
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast
from turns import DOCS, in_turn, machine, timed

import icl_locate as icl
from icl_locate import induction
from icl_locate.interventions.base import Intervention
from icl_locate.prompts.tokens import Prompts
from icl_locate.records.files import check_output, replace_file
from icl_locate.tasks import PATTERN_TASKS, pattern_task

SMALL = Shape(n_layers=8, d_model=128, d_mlp=256, d_head=16, n_kv_heads=8)  # a small model's


@dataclass(frozen=True)
class Config:
    """Time scores, ablation and knockout."""

    shape: Shape = field(default_factory=Shape)
    """Of the random model."""
    d_vocab: int = 50_257
    """Its vocabulary."""
    task: str = "f_a_f_p/4"
    """A pattern task."""
    n_shots: int = 10
    """Examples in a prompt."""
    n_prompts: int = 32
    """Prompts."""
    repeats: int = 5
    """Alternating runs, of which medians are taken."""
    device: str = "cpu"
    """cpu, cuda, ..."""
    output: Path = DOCS
    """Directory for induction_benchmark.json and induction_table.md."""


def give_tokenizer(model: TransformerBridge) -> None:
    """One token for each word, label and delimiter of the pattern tasks, as large models have."""
    splitter = pre_tokenizers.Split(Regex(r"\n\n|\w+|[^\w\s]"), "removed", invert=True)
    words = ["<pad>", "<s>", "</s>"]
    for name in PATTERN_TASKS:
        task = pattern_task(name)
        texts = [task.template.instruction or "", ":\n\n"]
        texts += [text for e in task.train for text in (e.source, e.target)]
        words += [word for text in texts for word, _ in splitter.pre_tokenize_str(text)]
    ids = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(ids, unk_token="</s>"))
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    built = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        padding_side="left",
    )  # fmt: skip
    with TemporaryDirectory() as directory:  # TransformerLens loads it from there once more
        built.save_pretrained(directory)
        model.tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)


def one_at_a_time(
    model: TransformerBridge, prompts: Prompts, labels: Sequence[str], act: Intervention
) -> Tensor:
    """All labels of one prompt after the other."""
    singles = [prompts[i : i + 1] for i in range(len(prompts))]
    return torch.cat([icl.score_labels(model, single, labels, act) for single in singles])


def each_label(
    model: TransformerBridge, prompts: Prompts, labels: Sequence[str], act: Intervention
) -> Tensor:
    """Each label of each prompt by a run of its own."""
    singles = [prompts[i : i + 1] for i in range(len(prompts))]
    return torch.stack(
        [
            torch.cat([icl.score_labels(model, single, [label], act)[0] for label in labels])
            for single in singles
        ]
    )


def compare(
    model: TransformerBridge,
    prompts: Prompts,
    labels: Sequence[str],
    act: Intervention,
    config: Config,
) -> dict[str, Any]:
    """One row: median seconds of each way, ratios, and the largest difference."""
    ways = {
        "batched": lambda: icl.score_labels(model, prompts, labels, act),
        "one at a time": lambda: one_at_a_time(model, prompts, labels, act),
        "each label": lambda: each_label(model, prompts, labels, act),
    }
    medians, found = in_turn(ways, config.repeats, ours="batched")
    return {
        "seconds": medians,
        "over_one_at_a_time": medians["one at a time"] / medians["batched"],
        "over_each_label": medians["each label"] / medians["batched"],
        "difference": max(
            (found["batched"] - found[way]).abs().max().item() for way in list(ways)[1:]
        ),
    }


def measure(name: str, model: TransformerBridge, config: Config) -> dict[str, Any]:
    """Everything for one model."""
    task = pattern_task(config.task)
    labels = tuple(dict.fromkeys(example.target for example in task.train))
    prompts = icl.build_prompts(
        model, task.test[: config.n_prompts], examples=task.train, n_shots=config.n_shots,
        template=task.template, choice=task.choice,
    )  # fmt: skip
    scoring, scores = timed(lambda: induction.head_scores(model))
    heads = induction.select_heads(scores.induction, 0.03)
    reference = induction.head_reference(model, prompts)
    acts = {
        "mean ablation": induction.HeadAblation(heads, "mean_z", reference),
        "knockout": induction.knockout(heads),
    }
    return {
        "model": name,
        "n_tokens": prompts.tokens.shape[1],
        "n_labels": len(labels),
        "scoring_seconds": scoring,
        "rows": {kind: compare(model, prompts, labels, act, config) for kind, act in acts.items()},
    }


def table(found: Sequence[dict[str, Any]], config: Config) -> str:
    """The table of the docs."""
    lines = [
        "| model | scoring every head | | batched | over one prompt at a time "
        "| over one prompt and label at a time |",
        "|---|---|---|---|---|---|",
    ]
    for some in found:
        for kind, row in some["rows"].items():
            lines.append(
                f"| {some['model']} | {some['scoring_seconds']:.1f} s | {kind} "
                f"| {row['seconds']['batched']:.2f} s | {row['over_one_at_a_time']:.1f}x "
                f"| {row['over_each_label']:.1f}x |"
            )
    return "\n".join(lines) + "\n"


def main(config: Config) -> None:
    """Measure a model of GPT-2's size and a small one, and write what was found."""
    check_output(config.output, ("induction_benchmark.json", "induction_table.md"))
    found = []
    for name, shape in (("12 layers, d=768", config.shape), ("8 layers, d=128", SMALL)):
        model, _ = build(shape, config.device, n_ctx=1024, d_vocab=config.d_vocab)
        give_tokenizer(model)
        found.append(measure(name, model, config))
    record = {"machine": machine(config.device), "torch": torch.__version__}
    record |= {"repeats": config.repeats, "task": config.task}
    record |= {"n_prompts": config.n_prompts, "found": found}
    text = json.dumps(record, indent=1)
    replace_file(config.output / "induction_benchmark.json", [f"{text}\n".encode()])
    text = table(found, config)
    replace_file(config.output / "induction_table.md", [text.encode()])
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Annotated[Config, tyro.conf.OmitArgPrefixes]))
