"""A model in a local Hugging Face directory, a task of one's own in a JSONL file.

``python examples/own_task.py MODEL_DIRECTORY TASK.jsonl`` scores the targets' log-probability with
the examples hidden from each layer on. Without arguments it writes both itself, in the same
formats: a tiny GPT-2 with random weights, and a sentiment task of twelve lines.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

import icl_locate as icl

REVIEWS = {
    "positive": ["a joy", "warm and funny", "I loved it", "superb", "great cast", "moving"],
    "negative": ["a bore", "cold and flat", "I left early", "dreadful", "poor plot", "noisy"],
}


def write_task(path: Path) -> Path:
    """Write a task file: one object a line, with a source and a target."""
    lines = [
        json.dumps({"source": review, "target": label})
        for label, reviews in REVIEWS.items()
        for review in reviews
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_model(directory: Path) -> Path:
    """Write a tiny GPT-2 with a byte-level tokenizer, as ``save_pretrained`` lays it out."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: i for i, token in enumerate(["<eos>", *sorted(alphabet)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", bos_token="<eos>", pad_token="<eos>"
    )
    tokenizer.save_pretrained(directory)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_layer=3,
        n_embd=32,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():  # the same weights each time, and nobody else's generator moved
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


def main(arguments: list[str]) -> None:
    """Sweep, locate and print."""
    with tempfile.TemporaryDirectory() as scratch:
        if arguments:
            model_path, task_path = map(Path, arguments)
        else:
            model_path = write_model(Path(scratch) / "model")
            task_path = write_task(Path(scratch) / "reviews.jsonl")
        template = icl.PromptTemplate(
            source_prefix="Review: ", target_prefix="\nSentiment: ", separator="\n\n"
        )
        task = icl.load_task(task_path, template=template)
        model = icl.load_model(model_path)
        result = icl.sweep(
            model,
            task,
            n_shots=4,
            seeds=[0, 1],
            choice="balanced",
            metric="log_prob",
        )
    print(result.to_dataframe("cell").pivot(index="layer", columns="seed", values="score").round(2))
    for found in icl.locate(result):
        print(found)


if __name__ == "__main__":
    main(sys.argv[1:])
