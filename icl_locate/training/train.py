"""Train the embedded model: ``python -m icl_locate.training.train --output DIRECTORY``.

A small Llama first learns to translate into the pseudo-languages and Python, which an instruction
names or examples show, sentences growing from one word to eight as each length is mastered; then to
tell classes of patterns in its lower layers; to go on with random words that repeat, which gives it
induction heads; and to label patterns as examples do. Every batch is a function of the seed, the
step and the curriculum's stage, so a run that was stopped goes on from its last checkpoint to the
weights that it would have reached.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from icl_locate.checks.arguments import check_count
from icl_locate.embedded.tokenizer import CONTEXT_LENGTH, SPECIAL_TOKENS, save_tokenizer, vocabulary
from icl_locate.errors import ModelError
from icl_locate.training.batches import Batch, BatchSampler
from icl_locate.training.curriculum import CURRICULUM, KINDS, Stage
from icl_locate.training.rows import IGNORED

_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TrainConfig:
    """The recipe; its defaults made the weights that the package ships."""

    seed: int = 0
    """Of the initial weights and of all batches."""
    n_layers: int = 10
    """Layers of the model."""
    d_model: int = 128
    """Width of its residual stream."""
    n_heads: int = 4
    """Attention heads a layer."""
    d_mlp: int = 256
    """Width of its gated MLP."""
    batch_size: int = 64
    """Prompts a step."""
    n_steps: int = 1950
    """Steps in all."""
    warmup: int = 50
    """Steps over which the learning rates rise."""
    decay: int = 500
    """Last steps, over which they fall to zero."""
    matrix_rate: float = 0.02
    """Muon's learning rate, for the matrices of the layers."""
    vector_rate: float = 3e-3
    """AdamW's, for embeddings and norms."""
    weight_decay: float = 0.01
    """Of the matrices."""
    instructed: float = 0.15
    """Share of translations with an instruction."""
    classes_after: int = 2
    """Layers behind which the classes of patterns are to be told."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    stages: tyro.conf.Suppress[tuple[Stage, ...]] = CURRICULUM
    """What is learned in which order."""


@dataclass
class Progress:
    """What changes while training: the step, the curriculum's stage, running accuracies by kind."""

    step: int = 0
    stage: int = 0
    accuracies: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))


def build_model(config: TrainConfig) -> LlamaForCausalLM:
    """A Llama of the recipe's shape, its initial weights drawn by the seed."""
    llama = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        bos_token_id=SPECIAL_TOKENS.index("<s>"),
        eos_token_id=SPECIAL_TOKENS.index("</s>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(llama)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The share of the full learning rates at a step: a rise, a plateau, a fall."""
    return min(1.0, (step + 1) / config.warmup, (config.n_steps - step) / config.decay)


class Trainer:
    """A training run: model, optimizers and progress, saved and resumed together."""

    def __init__(self, config: TrainConfig) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ModelError(
                f"torch is {torch.__version__}: training the embedded model asks for 2.9 or later, "
                "whose torch.optim has Muon; everything else runs with this one"
            )
        check_count(
            "classes_after", config.classes_after, most=config.n_layers - 1, error=ModelError
        )
        self.config = config
        self.progress = Progress()
        self.model = build_model(config)
        self._sampler = BatchSampler(config.seed, config.batch_size, config.instructed)
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in named if p.ndim != 2 or "embed" in name]
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(matrices, lr=1.0, weight_decay=config.weight_decay),
            "adamw": torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
        }

    def step(self) -> float:
        """One step of training; returns the loss."""
        config, progress = self.config, self.progress
        batch = self._sampler.sample(progress.step, config.stages[progress.stage])
        self.model.train()
        hidden = self._read(batch)
        chosen = batch.labels != IGNORED
        logits, labels = self.model.lm_head(hidden[chosen]), batch.labels[chosen]
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        # Every row weighs the same, so that a mixture's shares are those of the loss.
        shares = (chosen / chosen.sum(dim=1, keepdim=True))[chosen]
        loss: Tensor = (losses * shares).sum() / len(batch.tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = learning_rate(config, progress.step)
        rates = {"muon": config.matrix_rate, "adamw": config.vector_rate}
        for name, optimizer in self._optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name] * share
            optimizer.step()
            optimizer.zero_grad()
        right = torch.zeros_like(chosen)
        right[chosen] = logits.argmax(dim=-1) == labels
        self._advance(batch, right)
        return loss.item()

    def _read(self, batch: Batch) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads: the last layer; of `classes` that of ``classes_after``."""
        inner = self.model.model
        found = inner(batch.tokens, output_hidden_states=True)
        early: Tensor = inner.norm(found.hidden_states[self.config.classes_after])
        classes = batch.kinds == KINDS.index("classes")
        return torch.where(classes[:, None, None], early, found.last_hidden_state)

    def _advance(self, batch: Batch, right: Bool[Tensor, "batch pos"]) -> None:
        progress, config = self.progress, self.config
        progress.step += 1
        for number, kind in enumerate(KINDS):
            hits = right[batch.judged & (batch.kinds == number)[:, None]]
            if len(hits):
                change = hits.float().mean().item() - progress.accuracies[kind]
                progress.accuracies[kind] += 0.05 * change
        stage = config.stages[progress.stage]
        mastered = progress.accuracies[stage.asked] >= stage.until
        if mastered and progress.stage < len(config.stages) - 1:
            progress.stage += 1
            progress.accuracies[config.stages[progress.stage].asked] = 0.0

    def save(self, directory: Path) -> None:
        """Write the model as a Hugging Face directory, and beside it what resuming needs."""
        checkpoint = directory / _CHECKPOINT
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_model(self.model, directory)
        save_file(self._optimizer_tensors(), checkpoint / "optimizers.safetensors")
        save_file(
            dict(self.model.state_dict()) | {"lm_head.weight": torch.zeros(0)},
            checkpoint / "model.safetensors",
        )
        state = {"config": asdict(self.config), "progress": asdict(self.progress)}
        (checkpoint / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    def resume(self, directory: Path) -> bool:
        """Go on from a checkpoint; returns whether there was one.

        Raises:
            ModelError: if the checkpoint was made by another recipe.
        """
        checkpoint = directory / _CHECKPOINT
        if not (checkpoint / "state.json").is_file():
            return False
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        if state["config"] != json.loads(json.dumps(asdict(self.config))):
            raise ModelError(
                f"{checkpoint} was made by another recipe: choose another directory, or delete it"
            )
        tensors = load_file(checkpoint / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        self.model.load_state_dict(tensors)
        self._load_optimizer_tensors(load_file(checkpoint / "optimizers.safetensors"))
        self.progress = Progress(**state["progress"])
        return True

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/{index}/{key}": value.contiguous()
            for name, optimizer in self._optimizers.items()
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }

    def _load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self._optimizers}
        for path, value in tensors.items():
            name, index, key = path.split("/")
            states[name].setdefault(int(index), {})[key] = value
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states[name]})


def train(
    output: Path, config: TrainConfig | None = None, *, keep_every: int | None = None
) -> LlamaForCausalLM:
    """Train to the end of the recipe, going on from the last checkpoint in ``output``.

    Args:
        output: directory for the model and its checkpoint.
        config: the recipe.
        keep_every: steps between models that are kept for good, in ``output/steps/step00100``, the
            untrained one and the last among them; ``None`` keeps none.

    Raises:
        ModelError: if ``keep_every`` is no number of steps, the recipe's ``classes_after`` has no
            layer above it, or ``output`` holds a checkpoint of another recipe.
    """
    if keep_every is not None:
        check_count("keep_every", keep_every, error=ModelError)
    trainer = Trainer(config or TrainConfig())
    if trainer.resume(output):
        print(f"resumed at step {trainer.progress.step}", flush=True)
    start = time.time()
    while True:
        step = trainer.progress.step
        if keep_every is not None and (step % keep_every == 0 or step == trainer.config.n_steps):
            save_model(trainer.model, output / "steps" / f"step{step:05d}")
        if step == trainer.config.n_steps:
            break
        loss = trainer.step()
        if (step + 1) % 50 == 0:
            print(f"{_describe(trainer)}, loss {loss:.3f}, {time.time() - start:.0f} s", flush=True)
        if (step + 1) % trainer.config.checkpoint_every == 0:
            trainer.save(output)
    trainer.save(output)
    return trainer.model


def _describe(trainer: Trainer) -> str:
    progress = trainer.progress
    right = ", ".join(f"{kind} {value:.3f}" for kind, value in progress.accuracies.items())
    return f"step {progress.step}: stage {progress.stage}, {right}"


def save_model(model: LlamaForCausalLM, directory: Path) -> None:
    """Write a model as a Hugging Face directory, with its tokenizer."""
    model.save_pretrained(directory)
    save_tokenizer(directory)


@dataclass(frozen=True)
class Arguments:
    """Train the embedded model from scratch, or go on from its last checkpoint."""

    output: Path
    """Directory for the model and its checkpoint."""
    recipe: TrainConfig = TrainConfig()
    keep_every: int | None = None
    """Steps between models that are kept for good, in OUTPUT/steps."""


if __name__ == "__main__":
    arguments = tyro.cli(Arguments)
    train(arguments.output, arguments.recipe, keep_every=arguments.keep_every)
