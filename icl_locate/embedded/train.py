"""Train the embedded model: ``python -m icl_locate.embedded.train --output DIRECTORY``.

A Llama of a few million parameters learns to translate into the pseudo-languages and Python, named
by an instruction or shown by examples. Sentences grow from one word to eight as it masters each
length. Every batch is a function of (seed, step) alone, so a run that was stopped goes on from its
last checkpoint to the same weights.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from icl_locate.embedded.languages import LANGUAGES, Language, sample_sentence
from icl_locate.embedded.tokenizer import CONTEXT_LENGTH, SPECIAL_TOKENS, save_tokenizer, vocabulary

IGNORED = -100


@dataclass(frozen=True)
class TrainConfig:
    """The recipe; the defaults are the ones that made the shipped weights."""

    seed: int = 0
    n_layers: int = 8
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 256
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup: int = 100
    n_steps: int = 9000
    decay: int = 2000
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
    advance_at: float = 0.85
    instructed: float = 0.15
    checkpoint_every: int = 250


@dataclass
class Progress:
    """What changes while training: the step, the curriculum's stage, and the running accuracy."""

    step: int = 0
    stage: int = 0
    accuracy: float = 0.0


def build_model(config: TrainConfig) -> LlamaForCausalLM:
    """A freshly initialised Llama of the recipe's shape, its initial weights drawn by the seed."""
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


class BatchSampler:
    """Draws batches of prompts with their answers; the batch depends on (seed, step, stage) only."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._ids = {token: i for i, token in enumerate(vocabulary())}

    def encode(self, words: Sequence[str]) -> list[int]:
        """Token ids of words that are all in the vocabulary, without BOS."""
        return [self._ids[f"▁{word}"] for word in words]

    def sample(self, step: int, stage: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, labels and the shot that each label belongs to; all ``Int[Tensor, "batch pos"]``.

        Labels stand at the position that predicts them; where there is none they are -100.
        """
        generator = random.Random(f"{self._config.seed}/{step}")
        final = stage == len(self._config.lengths) - 1
        most = 9 if final and generator.random() < 0.15 else 6
        n_shots = generator.randint(2, most)
        rows = [self._sample_row(generator, stage, n_shots) for _ in range(self._config.batch_size)]
        width = max(len(tokens) for tokens, _, _ in rows)
        padded = torch.zeros(3, len(rows), width, dtype=torch.long)
        padded[1] = IGNORED
        for i, row in enumerate(rows):
            for j, values in enumerate(row):
                padded[j, i, : len(values)] = torch.tensor(values)
        tokens, labels, shots = padded
        return tokens, labels, shots

    def _sample_row(
        self, generator: random.Random, stage: int, n_shots: int
    ) -> tuple[list[int], list[int], list[int]]:
        config = self._config
        language = generator.choice(LANGUAGES)
        if generator.random() < 0.05:
            language = LANGUAGES[-1]
        instructed = generator.random() < config.instructed
        final = stage == len(config.lengths) - 1
        longest = config.lengths[stage]
        shortest = 4 if final else max(1, longest - 1)
        tokens = [self._ids["<s>"]]
        if instructed:
            tokens += self.encode(["Translate", "English", "to", f"{language.name}:", "\n"])
        labels, shots = [IGNORED] * len(tokens), [0] * len(tokens)
        for shot in range(n_shots + 1):
            n_words = generator.randint(shortest, longest)
            source, target = self._sample_pair(generator, language, n_words)
            tokens += source + target
            labels += [IGNORED] * (len(source) - 1) + target + [IGNORED]
            shots += [shot + (config_shot := 100 if instructed else 0)] * (len(source) + len(target))
        return tokens, labels, shots

    def _sample_pair(
        self, generator: random.Random, language: Language, n_words: int
    ) -> tuple[list[int], list[int]]:
        words = sample_sentence(generator, n_words)
        source = self.encode(["Q:", *words, "A:"])
        return source, self.encode([*language.translate(words), "\n"])


def train(config: TrainConfig, output: Path, report_every: int = 50) -> LlamaForCausalLM:
    """Train to the end of the recipe, going on from the last checkpoint in ``output``."""
    model, sampler = build_model(config), BatchSampler(config)
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    opts = [torch.optim.Muon(hidden, lr=0.02, weight_decay=config.weight_decay), torch.optim.AdamW(rest, lr=0.003, betas=(0.9,0.98), weight_decay=0.0)]
    base = [0.02, 0.003]
    progress = Progress()
    model.train()
    start = time.time()
    stats = {}
    while progress.step < config.n_steps:
        tokens, labels, shots = sampler.sample(progress.step, progress.stage)
        for b, o in zip(base, opts):
            o.param_groups[0]["lr"] = b * learning_rate(config, progress.step)
        hidden = model.model(tokens).last_hidden_state
        chosen = labels != IGNORED
        logits = model.lm_head(hidden[chosen])
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad()
        hits = (logits.detach().argmax(-1) == labels[chosen]).float()
        s = shots[chosen]
        late = hits[(s >= 3) & (s < 100)]
        inst = hits[s == 100]
        if len(late): progress.accuracy = 0.95 * progress.accuracy + 0.05 * late.mean().item()
        stats["inst"] = 0.95 * stats.get("inst", 0) + 0.05 * (inst.mean().item() if len(inst) else stats.get("inst",0))
        if progress.accuracy >= config.advance_at and progress.stage < len(config.lengths) - 1:
            progress.stage += 1
            progress.accuracy = 0.0
            print("stage", progress.stage, "at", progress.step, flush=True)
        progress.step += 1
        if progress.step % report_every == 0:
            print(progress.step, progress.stage, f"loss {loss.item():.3f} acc {progress.accuracy:.3f} inst0 {stats['inst']:.3f} {time.time()-start:.0f}s", flush=True)
        if progress.step % config.checkpoint_every == 0:
            output.mkdir(exist_ok=True, parents=True)
            model.save_pretrained(output)
            save_tokenizer(output)
    return model


def learning_rate(config: TrainConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / config.warmup)
    cool = min(1.0, (config.n_steps - step) / config.decay)
    return min(warm, cool)


if __name__ == "__main__":
    import sys
    torch.set_num_threads(2)
    train(TrainConfig(**json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}), Path(sys.argv[1]))
