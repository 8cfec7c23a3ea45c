"""Edits of states on plain Hugging Face models, by forward hooks and loops over single rows.

Run in a process of its own, which never imports TransformerLens nor the package:
``python state_oracle.py JOB``; the job is a file of `torch.save`, the answers stand beside it.
"""

import inspect
import math
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PLACES = {
    "gpt2": ("transformer.h", "attn.c_proj", "attn.c_proj", "mlp"),
    "gpt_neo": ("transformer.h", "attn.attention.out_proj", "attn.attention.out_proj", "mlp"),
    "bloom": (
        "transformer.h",
        "self_attention.dense",
        "self_attention.dense",
        "mlp.dense_4h_to_h",
    ),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "attention.dense", "mlp"),
    "gptj": ("transformer.h", "attn.out_proj", "attn.out_proj", "mlp"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "self_attn.out_proj", "fc2"),
    "phi": ("model.layers", "self_attn.dense", "self_attn.dense", "mlp"),
    "gemma2": (
        "model.layers",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    ),
    "mixtral": ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp"),
}
"""The blocks; in each, the output projection, and what gives the sum of heads' and MLP's part."""
PLACES["gemma3"] = PLACES["gemma2"]
for name in ("llama", "llama_wide", "starcoder2", "qwen2", "mistral"):
    PLACES[name] = ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp")


def new_value(edit, x, v):
    """One row's new value."""
    weight = edit["weight"]
    if edit["method"] == "replace":
        return v
    if edit["method"] == "add":
        return x + v
    if edit["method"] == "scale":
        return x * v
    if edit["method"] == "interpolate":
        return (1 - weight) * x + weight * v
    length, size = math.sqrt(float((x * x).sum())), math.sqrt(float((v * v).sum()))
    against = max(0.0, -float((x * v).sum()) / (length * size))
    turned = x / length + weight * (1 + against) * v / size
    return length * turned / math.sqrt(float((turned * turned).sum()))


def edit_rows(edits, n_prompts, n_heads, seen, key, value):
    """The values of a point, edited row by row, and kept."""
    value, shape = value.clone(), value.shape
    if value.ndim == 2:  # OPT runs its MLP on one long row
        value = value.unflatten(0, (n_prompts, -1))
    for edit in edits:
        if (edit["layer"], edit["point"]) != key:
            continue
        for (prompt, position), given in zip(edit["rows"], edit["values"], strict=True):
            row = value[prompt, position]
            if edit["head"] is None:
                value[prompt, position] = new_value(edit, row, given)
            else:
                head = row.view(n_heads, -1)[edit["head"]]
                head.copy_(new_value(edit, head.clone(), given))
    seen[key] = value
    return value.reshape(shape)


def hooks(model, architecture, edits, n_prompts, seen):
    """(module, how the hook is registered, hook) of every point."""
    blocks, projection, attention, mlp = PLACES[architecture]
    edit = partial(edit_rows, edits, n_prompts, model.config.num_attention_heads, seen)

    def given(key, module, args, kwargs):
        if args:
            return (edit(key, args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": edit(key, kwargs["hidden_states"])}

    def gave(key, module, args, output):
        if isinstance(output, tuple):
            return (edit(key, output[0]), *output[1:])
        return edit(key, output)

    for layer, block in enumerate(model.get_submodule(blocks)):
        before = {"resid_pre": block, "z": block.get_submodule(projection)}
        after = {
            "attn_out": block.get_submodule(attention),
            "mlp_out": block.get_submodule(mlp),
            "resid_post": block,
        }
        for point, module in before.items():
            hook = partial(given, (layer, point))
            yield module.register_forward_pre_hook(hook, with_kwargs=True)
        for point, module in after.items():
            yield module.register_forward_hook(partial(gave, (layer, point)))


@torch.no_grad()
def run(model, architecture, tokens, real, edits):
    """Logits, hidden states as the model gives them, and the values at every point."""
    seen = {}
    extra = {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        extra["position_ids"] = (real.long().cumsum(-1) - 1).clamp(min=0)
    with ExitStack() as stack:
        for handle in hooks(model, architecture, edits, len(tokens), seen):
            stack.callback(handle.remove)
        found = model(
            tokens, attention_mask=real.long(), use_cache=False, output_hidden_states=True, **extra
        )
    return found.logits, found.hidden_states, seen


def follow(model, architecture, tokens, real, edits, n_new):
    """Greedy tokens, the whole text run anew for each: edits touch generated rows, too."""
    width = tokens.shape[1]
    for n in range(n_new):
        grown = [
            edit
            | {
                "rows": edit["rows"] + [(i, width + k) for k in range(n) for i in range(len(real))],
                "values": [*edit["values"], *[v for _ in range(n) for v in edit["generated"]]],
            }
            for edit in edits
        ]
        logits = run(model, architecture, tokens, real, grown)[0]
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        real = torch.nn.functional.pad(real, (0, 1), value=True)
    return tokens[:, width:]


def main(job):
    """Answer every run of every model."""
    answers = {}
    for architecture, asked in torch.load(job).items():
        path = asked["path"]
        model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
        tokens, real = asked["tokens"], asked["real"]
        logits, hidden, seen = run(model, architecture, tokens, real, [])
        answers[architecture] = {
            "clean": logits,
            "hidden": list(hidden),
            "seen": {f"{layer} {point}": value for (layer, point), value in seen.items()},
            "runs": [run(model, architecture, tokens, real, e)[0] for e in asked["runs"]],
            "follow": [
                follow(model, architecture, tokens, real, e, asked["n_new"])
                for e in asked["follow"]
            ],
        }
    assert not {"transformer_lens", "icl_locate"} & set(sys.modules), "a process of its own"
    torch.save(answers, job.with_suffix(".answers"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
