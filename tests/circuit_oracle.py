"""States of Hugging Face's own models, of prompts written as text: no code of the package's."""

import numpy as np
import torch


def hf_states(model, ids, *, normed):
    """The hidden states [layer, pos, d] of one prompt alone; the last before the final norm."""
    blocks = next(
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and name.split(".")[-1] in ("layers", "h")
    )
    last = []
    handle = blocks[-1].register_forward_hook(
        lambda module, given, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    rows = [*found[:-1], found[-1] if normed else last[0]]
    return np.stack([row.detach().double().reshape(len(ids), -1).numpy() for row in rows])


def token_at(tokenizer, text, character):
    """Which token of a text, BOS in front of it, covers a character."""
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = offsets["offset_mapping"]
    return 1 + next(i for i, (start, end) in enumerate(spans) if start <= character < end)


def type_states(model, tokenizer, template, shown, query, label, *, normed=False):
    """The states [layer, d] of the query's x, s and y, where y is the last token of a label."""
    blocks = [
        f"{template.source_prefix}{one.source}{template.target_prefix}{one.target}"
        f"{template.separator}"
        for one in shown
    ]
    front = "".join(blocks) + template.source_prefix + query.source
    text = front + template.target_prefix
    ids = [1, *tokenizer(text + label, add_special_tokens=False).input_ids]
    states = hf_states(model, ids, normed=normed)
    x, s = (token_at(tokenizer, text, len(part) - 1) for part in (front, text))
    return {"x": states[:, x], "s": states[:, s], "y": states[:, -1]}


def alone(model, tokenizer, label, *, normed=False):
    """The states [layer, d] of a label's last token behind BOS alone."""
    ids = [1, *tokenizer(label, add_special_tokens=False).input_ids]
    return hf_states(model, ids, normed=normed)[:, -1]
