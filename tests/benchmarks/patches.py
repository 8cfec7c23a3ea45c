"""Patches of a Llama, one to a run: as values, as a loop of plain Hugging Face runs, as edits."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from random_llama import Shape, of_targets
from torch import Tensor
from transformers import LlamaForCausalLM

import icl_locate as icl
from icl_locate.engine.grid import run_grid
from icl_locate.interventions.base import Intervention
from icl_locate.metrics import get_metric
from icl_locate.models.bridge import Model

Readout = Callable[[Tensor], Tensor]  # logits [prompt, pos, d_vocab] -> [prompt]


@dataclass(frozen=True)
class Patch:
    """One value put in the place of another.

    Attributes:
        layer: the block.
        value: what is put there.
        head: whose output is replaced, before the output projection; ``None``: the state after the
            block.
        last: at the last token alone, else at all.
    """

    layer: int
    value: Tensor
    head: int | None = None
    last: bool = True

    def put(self, states: Tensor) -> Tensor:
        """A copy of states ``[prompt, pos, width]``, patched."""
        patched, value = states.clone(), self.value.to(states)
        width = len(value)
        first = (self.head or 0) * width
        patched[:, slice(-1, None) if self.last else slice(None), first : first + width] = value
        return patched

    def edit(self) -> Intervention:
        """The same in our own terms."""
        point = "resid_post" if self.head is None else "z"
        at = "last" if self.last else "all"
        return icl.StateEdit("replace", self.value, self.layer, at, point=point, head=self.head)


def pairs(n_rows: int, n_columns: int, step: int = 1) -> list[tuple[int, int]]:
    """All pairs, or every so many of them, evenly over rows and columns."""
    every = itertools.product(range(n_rows), range(n_columns))
    return [(row, column) for row, column in every if (row + column) % step == 0]


def first_tokens(prompts: icl.Prompts, logits: Tensor) -> Tensor:
    """The probability of each target's first token behind the last row."""
    wanted = torch.tensor([tokens[0] for tokens in prompts.target_tokens], device=logits.device)
    return logits[:, -1].float().softmax(-1).gather(1, wanted[:, None])[:, 0].cpu()


def with_targets(prompts: icl.Prompts) -> Tensor:
    """The prompts' tokens, and their targets' behind them."""
    return torch.cat([prompts.tokens, torch.tensor(prompts.target_tokens)], dim=1)


def target_log_probs(prompts: icl.Prompts, logits: Tensor) -> Tensor:
    """Each target's log-probability, where it was run behind its prompt."""
    return of_targets(logits, torch.tensor(prompts.target_tokens))


@torch.no_grad()
def patched_one_by_one(
    plain: LlamaForCausalLM, tokens: Tensor, patches: Iterable[Patch], read: Readout, n_logits: int
) -> Tensor:
    """What is read under each patch, by one run of all prompts for each ``[patch, prompt]``."""
    found: list[Tensor] = []
    for patch in patches:
        block = plain.model.layers[patch.layer]
        if patch.head is None:
            handle = block.register_forward_hook(partial(_after, patch))
        else:
            handle = block.self_attn.o_proj.register_forward_pre_hook(partial(_before, patch))
        output = plain(tokens.to(plain.device), use_cache=False, logits_to_keep=n_logits)
        handle.remove()
        found.append(read(output.logits))
    return torch.stack(found)


def _after(patch: Patch, module: object, args: object, output: Tensor) -> Tensor:
    return patch.put(output)


def _before(patch: Patch, module: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (patch.put(args[0]), *args[1:])


def ablation(shape: Shape, layer: int, head: int) -> Patch:
    """A head's output made zero everywhere."""
    return Patch(layer, torch.zeros(shape.d_head), head, last=False)


def in_grid(
    model: Model, prompts: icl.Prompts, runs: Sequence[Intervention], metric: str, engine: str
) -> Tensor:
    """What a metric says of each prompt under each run ``[run, prompt]``, by an engine of ours."""
    cells = run_grid(
        model, prompts, runs, get_metric(metric), engine=engine, max_new_tokens=1,
        batch_size=len(prompts),
    )  # fmt: skip
    return torch.stack([torch.as_tensor(cell.statistics[:, 0]) for cell in cells])


def edited(model: Model, prompts: icl.Prompts, patches: Sequence[Patch], engine: str) -> Tensor:
    """The probability of each target's first token under each patch ``[patch, prompt]``."""
    edits = [patch.edit() for patch in patches]
    return in_grid(model, prompts, edits, "first_token_prob", engine)


@torch.no_grad()
def clean_pass(bridge: Model, tokens: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """What is read of the model itself."""
    return read(bridge(tokens.to(bridge.cfg.device)))
