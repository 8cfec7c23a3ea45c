"""Vectors by loops over a plain Hugging Face model, in a process of its own.

It shares no code with the package, and imports neither it nor TransformerLens, which changes some
models' attention for a whole process. Prompts run one by one, without padding and without a cache;
outputs of heads are read and replaced in front of the output projection.

A line of JSON on its input says what to compute; a line of JSON on its output is the answer.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

BLOCKS = {
    "llama": ("model.layers", "self_attn.o_proj", "mlp"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp"),
}


def ask(**question: Any) -> Any:
    """The answer of a process of its own."""
    asked = json.dumps(question)
    done = subprocess.run(
        [sys.executable, __file__], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class Plain:
    """A model, and what is changed while it runs."""

    def __init__(self, directory: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            Path(directory), attn_implementation="eager"
        ).eval()
        blocks, projection, mlp = BLOCKS[self.model.config.model_type]
        self.blocks = self.model.get_submodule(blocks)
        self.projections = [block.get_submodule(projection) for block in self.blocks]
        self.mlps = [block.get_submodule(mlp) for block in self.blocks]
        self.n_heads = self.model.config.num_attention_heads

    def run(self, row: list[int]) -> torch.Tensor:
        """The probabilities of the next token."""
        with torch.no_grad():
            logits = self.model(torch.tensor([row]), use_cache=False).logits[0, -1]
        return logits.softmax(-1)

    def weights(self, layer: int) -> torch.Tensor:
        """The output projection as a matrix [d_in, d_model]."""
        module = self.projections[layer]
        transposed = type(module).__name__ == "Conv1D"
        return (module.weight if transposed else module.weight.T).detach()

    def head_outputs(self, row: list[int]) -> torch.Tensor:
        """What goes into each output projection at the last token, [layer, head, d_head]."""
        seen: list[torch.Tensor] = []
        with ExitStack() as stack:
            for projection in self.projections:
                hook = projection.register_forward_pre_hook(
                    lambda module, args: seen.append(args[0][0, -1].clone())
                )
                stack.callback(hook.remove)
            self.run(row)
        return torch.stack([one.view(self.n_heads, -1) for one in seen])

    def with_head(self, layer: int, head: int, value: torch.Tensor, row: list[int]):
        """The next token's probabilities with one head's output at the last token replaced."""

        def replace(module, args):
            new = args[0].clone()
            width = new.shape[-1] // self.n_heads
            new[0, -1, head * width : (head + 1) * width] = value
            return (new,)

        hook = self.projections[layer].register_forward_pre_hook(replace)
        try:
            return self.run(row)
        finally:
            hook.remove()

    def with_added(self, layer: int, vector: torch.Tensor, row: list[int]):
        """The same with a vector added to the last token's state after a block."""

        def add(module, args, output):
            new = (output[0] if isinstance(output, tuple) else output).clone()
            new[0, -1] += vector
            return (new, *output[1:]) if isinstance(output, tuple) else new

        hook = self.blocks[layer].register_forward_hook(add)
        try:
            return self.run(row)
        finally:
            hook.remove()

    def last_states(self, row: list[int]) -> torch.Tensor:
        """The last token's state after each block, [layer, d_model]."""
        seen: list[torch.Tensor] = []
        with ExitStack() as stack:
            for block in self.blocks:
                hook = block.register_forward_hook(
                    lambda module, args, output: seen.append(
                        (output[0] if isinstance(output, tuple) else output)[0, -1].clone()
                    )
                )
                stack.callback(hook.remove)
            self.run(row)
        return torch.stack(seen)

    def steered(self, vectors: torch.Tensor, weight: float, row: list[int]) -> torch.Tensor:
        """The next token's probabilities with what each MLP adds turned at every position."""

        def turn(vector):
            def change(module, args, output):
                new = output.clone()
                for i in range(output.shape[1]):
                    x = output[0, i]
                    cos = (x @ vector) / (x.norm() * vector.norm())
                    boost = 1 + max(0.0, -float(cos))
                    moved = x / x.norm() + weight * boost * vector / vector.norm()
                    new[0, i] = x.norm() * moved / moved.norm()
                return new

            return change

        with ExitStack() as stack:
            for mlp, vector in zip(self.mlps, vectors, strict=True):
                stack.callback(mlp.register_forward_hook(turn(vector)).remove)
            return self.run(row)


def effects(plain: Plain, known, shuffled, wanted, heads, added) -> dict[str, Any]:
    """Mean outputs, all heads' effects, the heads' vector, and what adding it gives by layer."""
    mean = torch.stack([plain.head_outputs(row) for row in known]).mean(0)
    n_layers, n_heads, width = mean.shape
    table = torch.zeros(n_layers, n_heads)
    for layer in range(n_layers):
        for head in range(n_heads):
            gains = [
                plain.with_head(layer, head, mean[layer, head], row)[token] - plain.run(row)[token]
                for row, token in zip(shuffled, wanted, strict=True)
            ]
            table[layer, head] = sum(gains) / len(gains)
    vector = torch.zeros(plain.weights(0).shape[1])
    for layer, head in heads:
        rows = plain.weights(layer)[head * width : (head + 1) * width]
        vector += mean[layer, head] @ rows
    probabilities = [
        [float(plain.with_added(layer, vector, row)[token]) for row, token in added]
        for layer in range(n_layers)
    ]
    return {
        "mean": mean.tolist(), "effects": table.tolist(), "vector": vector.tolist(),
        "added": probabilities,
    }  # fmt: skip


def directions(plain: Plain, sources, targets, steered, weight) -> dict[str, Any]:
    """States of sources and targets, and the next token's probabilities of steered rows."""
    found = {
        "sources": [plain.last_states(row).tolist() for row in sources],
        "targets": [plain.last_states(row).tolist() for row in targets],
    }
    if steered:
        vectors = torch.tensor(steered["vectors"])
        found["steered"] = [plain.steered(vectors, weight, row).tolist() for row in steered["rows"]]
    return found


if __name__ == "__main__":
    question = json.loads(sys.stdin.readline())
    answer = {"effects": effects, "directions": directions}[question.pop("what")]
    sys.stdout.write(json.dumps(answer(Plain(question.pop("directory")), **question)) + "\n")
    assert "transformer_lens" not in sys.modules and "icl_locate" not in sys.modules
