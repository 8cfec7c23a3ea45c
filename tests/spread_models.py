"""What a model gives on one device and over two, one line of JSON for each: run by test_device_map.

``python tests/spread_models.py ARCHITECTURE``; in a process of its own, since devices in play stay.
"""

import json
import sys
import warnings
from tempfile import TemporaryDirectory

import devices
import tiny
import torch
from accelerate import dispatch_model
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

import icl_locate as icl
from icl_locate import induction, vectors
from icl_locate.errors import ModelError
from icl_locate.interventions.edges import InductionEdges
from icl_locate.models.fingerprint import fingerprint

TASK = icl.load_task("pseudo-translation")
TOP = tiny.N_LAYERS - 1  # of the second device


def prompts_for(model):
    template = TASK.template
    return icl.build_prompts(
        model, TASK.test[:3], examples=TASK.train, n_shots=1, template=template, seed=0
    )


def scored(intervention):
    return lambda model: icl.score_targets(model, prompts_for(model), intervention)


def swept(metric):
    def run(model):
        sizes = {"n_shots": 1, "n_queries": 2, "seeds": [0], "max_new_tokens": 3}
        conditions = ["examples", "everything"]
        found = icl.sweep(
            model, TASK, conditions=conditions, metric=metric, engine="hooks", **sizes
        )
        return found.item_scores

    return run


def tokens_of(model):
    mask = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(1))
    told = icl.generate(model, prompts_for(model), mask, max_new_tokens=4)
    return torch.tensor([[ord(letter) for letter in f"{text:<80}"] for text in told])


MEASURES = {
    "clean": scored(icl.ContextMask(set(), icl.from_layer(0))),
    "masked": scored(icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(0))),
    "masked above": scored(icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(TOP))),
    "ablated": scored(icl.HeadAblation({(0, 1), (TOP, 1)}, "zero")),
    "scaled": scored(icl.HeadScale({(0, 1): 0.5, (TOP, 0): 2.0})),
    "edges": scored(icl.EdgeMask(InductionEdges(), icl.from_layer(0))),
    "edited": scored(icl.StateEdit("add", torch.ones(tiny.D_MODEL), layer=TOP, at="last")),
    "states": lambda model: icl.states(model, prompts_for(model), at="last"),
    "generated": tokens_of,
    "swept": swept("log_prob"),
    "swept, generated": swept("token_accuracy"),
    "heads": lambda model: induction.head_scores(model, lengths=(6, 4), n_sequences=2).induction,
    "copying": lambda model: induction.head_scores(model, lengths=(6, 4), n_sequences=2).copying,
    "mean ablation": lambda model: (
        induction.head_effects(model, prompts_for(model), {(0, 1), (TOP, 1)}, engine="hooks").losses
    ),
    "task vectors": lambda model: (
        vectors.task_vectors(
            model, TASK, n_shots=1, n_queries=2, seeds=[0], metric="log_prob"
        ).scores
    ),
}


def spread(architecture):
    """The same model, its last block and what stands behind it on another device."""
    with TemporaryDirectory() as directory:
        tiny.save(tiny.build(architecture), directory)
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
        model = dispatch_model(model, _cover(model), force_hooks=True)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        bridge = TransformerBridge.boot_transformers(directory, hf_model=model, tokenizer=tokenizer)
    return bridge.eval()


def _cover(module, name=""):
    """A place for every module: the last block and what stands behind it on another device."""
    found, blocks_seen = {}, False
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if isinstance(child, nn.ModuleList) and len(child) == tiny.N_LAYERS:
            found |= {f"{path}.{i}": f"spare:{int(i == TOP)}" for i in range(len(child))}
            blocks_seen = True
        elif any(isinstance(some, nn.ModuleList) for some in child.modules()):
            found |= _cover(child, path)
        else:
            found[path] = f"spare:{int(blocks_seen and 'rotary' not in key)}"
    if not name and module.config.tie_word_embeddings:
        head = next(path for path in found if path.endswith(("lm_head", "embed_out")))
        found[head] = "spare:0"
    return found


def main():
    warnings.simplefilter("ignore")
    architecture = sys.argv[1]
    plain = tiny.boot_fresh(architecture)
    with devices.in_play():
        over_two = spread(architecture)
        places = {str(weight.device) for weight in over_two.original_model.parameters()}
        said = {"devices": sorted(places), "n_devices": over_two.cfg.n_devices}
        said["fingerprint"] = fingerprint(over_two) == fingerprint(plain)
        try:
            icl.sweep(over_two, TASK, n_shots=1, n_queries=2, seeds=[0], engine="shared")
        except ModelError as error:
            said["shared"] = str(error)
        one = icl.sweep(over_two, TASK, n_shots=1, n_queries=2, seeds=[0], metric="log_prob")
        said["engine"] = one.provenance["engine"]
        said["hardware"] = one.provenance["hardware"]["devices"]
        print(json.dumps(said), flush=True)
        for name, measure in MEASURES.items():
            wanted = measure(plain).double()
            try:
                found = measure(over_two).cpu().double()
                size = float(wanted.abs().max())
                told = {"apart": float((wanted - found).abs().max()), "size": size}
            except Exception as error:
                told = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(json.dumps({"measure": name, **told}), flush=True)


if __name__ == "__main__":
    main()
