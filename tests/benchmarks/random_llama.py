"""A random Llama twice, random prompts, and the loop of eager Hugging Face runs to compare with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment
from icl_locate.embedded.tokenizer import vocabulary
from icl_locate.models.loading import embedded_directory


@dataclass(frozen=True)
class Shape:
    """Sizes of a random Llama, by default about GPT-2's."""

    n_layers: int = 12
    """Layers."""
    d_model: int = 768
    """Width of the residual stream."""
    d_mlp: int = 3072
    """Width of the MLP."""
    d_head: int = 64
    """Width of a head."""
    n_kv_heads: int = 12
    """Heads of keys and values."""

    @property
    def n_heads(self) -> int:
        """Heads."""
        return self.d_model // self.d_head


def build(
    shape: Shape,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    n_ctx: int = 4096,
    d_vocab: int = len(vocabulary()),
) -> tuple[TransformerBridge, LlamaForCausalLM]:
    """The same random Llama as a bridge and as a plain Hugging Face model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=d_vocab,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=n_ctx,
        attn_implementation="eager",
    )
    with torch.device(device):
        plain = LlamaForCausalLM(config).eval().to(dtype)
        copy = LlamaForCausalLM(config).eval().to(dtype)
    copy.load_state_dict(plain.state_dict())
    bridge = TransformerBridge.boot_transformers(
        "random-llama",
        hf_model=copy,
        tokenizer=AutoTokenizer.from_pretrained(embedded_directory()),
        device=device,
    )
    bridge.tokenizer.eos_token = bridge.tokenizer.pad_token  # random answers must not end
    bridge.original_model.generation_config.eos_token_id = None
    return bridge.eval(), plain


def random_prompts(
    n_prompts: int, n_tokens: int, n_examples: int, *, instruction: bool = True
) -> icl.Prompts:
    """Prompts of random tokens: BOS, instruction, examples, query; targets of eight tokens.

    Args:
        n_examples: how many of a prompt's tokens belong to examples.
        instruction: whether there is one, else the query is longer.
    """
    generator = torch.Generator().manual_seed(1)
    n_query = (n_tokens - n_examples) // 2
    n_instruction = n_tokens - n_examples - n_query - 1
    if not instruction:
        n_instruction, n_query = 0, n_query + n_instruction
    row = [Segment.BOS] + [Segment.INSTRUCTIONS] * n_instruction
    row += [Segment.EXAMPLES] * n_examples + [Segment.QUERY] * n_query
    segments = torch.tensor([row] * n_prompts, dtype=torch.int8)
    shape = n_prompts, n_tokens
    tokens = torch.randint(3, len(vocabulary()), shape, generator=generator)
    targets = torch.randint(3, len(vocabulary()), (n_prompts, 8), generator=generator)
    texts = [""] * n_prompts
    return icl.Prompts(
        tokens=tokens,
        attention_mask=segments != Segment.PAD,
        segments=segments,
        parts=torch.zeros_like(segments),
        shots=torch.zeros(shape, dtype=torch.long),
        words=torch.full(shape, -1),
        target_tokens=targets.tolist(),
        texts=texts,
        sources=texts,
        targets=texts,
        template=icl.PromptTemplate(),
    )


def with_generated(segments: Tensor, n_new: int) -> Tensor:
    """The segments, and those of new tokens behind them."""
    return torch.nn.functional.pad(segments, (0, n_new), value=int(Segment.GENERATED))


def hidden_cells(segments: Tensor, mask: icl.ContextMask) -> Tensor:
    """What a mask hides ``[prompt, row, key]``, above its start layer."""
    hidden = torch.isin(segments, torch.tensor([int(s) for s in mask.hide]))[:, None, :]
    own = torch.eye(segments.shape[1], dtype=torch.bool)
    return hidden & ~own if mask.keep_self else hidden.expand(-1, len(own), -1)


def of_targets(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' log-probabilities, from logits whose last rows stand at and before them."""
    targets = targets.to(logits.device)
    log_probs = logits[:, -targets.shape[1] - 1 : -1].float().log_softmax(-1)
    return log_probs.gather(-1, targets[..., None])[..., 0].sum(-1).cpu()


def _giver(mask: Tensor, span: Sequence[int]) -> Callable[..., Any]:
    """A forward pre-hook that gives attention the rows of a mask that are being run."""

    def give(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"attention_mask": mask[:, :, span[0] : span[1], : span[1]]}

    return give


@torch.no_grad()
def hugging_face_loop(
    plain: LlamaForCausalLM, prompts: icl.Prompts, masks: Sequence[icl.ContextMask]
) -> Tensor:
    """Log-probabilities by one eager run a mask, each layer given its own 4-D mask."""
    target = torch.tensor(prompts.target_tokens)
    tokens = torch.cat([prompts.tokens, target], dim=1).to(plain.device)
    total, width = tokens.shape[1], target.shape[1]
    segments = with_generated(prompts.segments, width)
    lowest = torch.finfo(plain.dtype).min
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    found: list[Tensor] = []
    for mask in masks:
        gone = hidden_cells(segments, mask)[:, None]
        base = torch.zeros(len(tokens), 1, total, total, dtype=plain.dtype)
        clean = base.masked_fill(~causal, lowest).to(plain.device)
        masked = base.masked_fill(~causal | gone, lowest).to(plain.device)
        handles = [
            layer.self_attn.register_forward_pre_hook(
                _giver(masked if i >= mask.layers.start else clean, (0, total)), with_kwargs=True
            )
            for i, layer in enumerate(plain.model.layers)
        ]
        logits = plain(tokens, use_cache=False, logits_to_keep=width + 1).logits
        for handle in handles:
            handle.remove()
        found.append(of_targets(logits, target))
    return torch.stack(found)


@torch.no_grad()
def hugging_face_answers(
    plain: LlamaForCausalLM, prompts: icl.Prompts, masks: Sequence[icl.ContextMask], n_new: int
) -> Tensor:
    """Greedy tokens by one eager, cached run a mask, each layer given its own 4-D mask."""
    lowest, n_prompt = torch.finfo(plain.dtype).min, prompts.tokens.shape[1]
    total = n_prompt + n_new
    segments = with_generated(prompts.segments, n_new)
    causal = torch.ones(total, total, dtype=torch.bool).tril()
    found: list[Tensor] = []
    for mask in masks:
        hidden = torch.isin(segments, torch.tensor([int(s) for s in mask.hide]))[:, None, None, :]
        base = torch.zeros(len(segments), 1, total, total, dtype=plain.dtype)
        clean = base.masked_fill(~causal, lowest).to(plain.device)
        masked = base.masked_fill(~causal | hidden, lowest).to(plain.device)
        span = [0, n_prompt]
        handles = [
            layer.self_attn.register_forward_pre_hook(
                _giver(masked if i >= mask.layers.start else clean, span), with_kwargs=True
            )
            for i, layer in enumerate(plain.model.layers)
        ]
        cache, step, chosen = DynamicCache(), prompts.tokens.to(plain.device), []
        for _ in range(n_new):
            output = plain(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            step = output.logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(step.cpu())
            span[:] = [span[1], span[1] + 1]
        for handle in handles:
            handle.remove()
        found.append(torch.cat(chosen, dim=1))
    return torch.stack(found)
