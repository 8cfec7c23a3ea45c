"""What the studies give on the CPU and on one other device, a line of JSON each.

``python tests/on_device.py DEVICE``: "spare:0" is a device in play, "cuda:0" a GPU. Run by
test_on_device, in a process of its own, since devices in play stay.
"""

import json
import sys
import traceback
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import devices
import tiny
import torch

import icl_locate as icl
from icl_locate import circuit, gates, induction, lora, savings, vectors

PSEUDO = icl.load_task("pseudo-translation")
WRITTEN = replace(PSEUDO, metric="token_accuracy")
LABELS = icl.load_task("f_a_f_p/4")
MASK = icl.ContextMask({icl.Segment.EXAMPLES}, icl.from_layer(1))
SMALL = {"n_shots": 1, "n_queries": 2, "seeds": 0}
SHOWN = {"n_shots": 4, "n_queries": 4}  # of every class one


def prompts_for(model, task=PSEUDO, n_shots=1):
    given = {"examples": task.train, "n_shots": n_shots, "template": task.template, "seed": 0}
    return icl.build_prompts(model, task.test[:3], **given)


def as_numbers(texts):
    return torch.tensor([[ord(letter) for letter in f"{text:<99}"] for text in texts])


def swept(task, engine, metric=None, **more):
    def run(model):
        given = SMALL | {"conditions": ["examples", "everything"], "max_new_tokens": 3} | more
        return icl.sweep(model, task, engine=engine, metric=metric, **given).statistics

    return run


def stored(model):
    """What a second process would read, and that it runs nothing."""
    with TemporaryDirectory() as store:
        swept(WRITTEN, "auto", store=store)(model)
        return swept(WRITTEN, "auto", store=store)(model)


def dropped(model):
    prompts = prompts_for(model)
    with icl.drop_context(model, prompts, 1):
        return model(
            prompts.tokens.to(model.cfg.device),
            attention_mask=prompts.attention_mask.long().to(model.cfg.device),
        )[:, -1]


def interrupted(module, name, run):
    """What a run gives that is stopped in its second epoch, and goes on from its checkpoint."""
    act, calls = getattr(module, name), []

    def stop(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return act(*given)

    setattr(module, name, stop)
    try:
        run()
    except KeyboardInterrupt:
        return run()
    finally:
        setattr(module, name, act)
    raise AssertionError("it was not stopped")


def gated(model):
    given = {"n_shots": 1, "n_train": 6, "n_dev": 3, "n_queries": 2, "n_curve": 2}
    config = gates.GateConfig(max_epochs=3, batch_size=4)
    with TemporaryDirectory() as folder:
        given |= {"checkpoint": Path(folder, "gates"), "metric": "log_prob"}
        run = partial(gates.train_gates, model, PSEUDO, config, **given)
        found = interrupted(gates.train, "_objective", run)
    return torch.cat([found.alpha.flatten(), found.curve])


def adapted(model):
    config = replace(lora.PRESETS["sia2024"], n_train=8, n_dev=4, max_epochs=3, dropout=0.0)
    given = {"seeds": 0, "n_queries": 2, "max_new_tokens": 2, "layers": [0, 1]}
    with TemporaryDirectory() as output:
        given |= {"device": str(model.cfg.device)}
        run = partial(lora.lora_by_layer, model.cfg.model_name, WRITTEN, output, config, **given)
        return interrupted(lora.train, "dev_loss", run).dev_losses


def ablated(model):
    given = {"controls": 1, "fractions": 0.2, "shots": 1, "seeds": 0, "n_queries": 2}
    scores = induction.head_scores(model, lengths=(6,), n_sequences=2)
    ways = ("mean_z", "resample", "knockout")
    return induction.ablation_study(
        model, WRITTEN, scores, interventions=ways, max_new_tokens=2, **given
    ).statistics


MEASURES = {
    **{f"{engine}, scored": swept(PSEUDO, engine, "log_prob") for engine in ("shared", "hooks")},
    **{f"{engine}, written": swept(WRITTEN, engine) for engine in ("shared", "hooks")},
    **{f"{engine}, labels": swept(LABELS, engine) for engine in ("shared", "hooks")},
    "calibrated": swept(LABELS, "auto", "label_accuracy_contextual"),
    "first token": swept(PSEUDO, "auto", "first_token_prob"),
    "ablated": swept(PSEUDO, "shared", "log_prob", alongside=icl.HeadAblation({(0, 1)})),
    "scaled": swept(PSEUDO, "shared", "log_prob", alongside=icl.HeadScale({(0, 1): 0.5})),
    "edited": swept(
        PSEUDO, "shared", "log_prob", alongside=icl.StateEdit("scale", 0.5, layer=1, at="last")
    ),
    "knocked out": swept(PSEUDO, "shared", "log_prob", alongside=induction.knockout(None)),
    "stored": stored,
    "generated": lambda model: as_numbers(
        icl.generate(model, prompts_for(model), MASK, max_new_tokens=3)
    ),
    "dropped": dropped,
    "states": lambda model: icl.states(model, prompts_for(model)),
    "z": lambda model: icl.states(model, prompts_for(model), "all", point="z"),
    "heads": lambda model: torch.stack(
        [
            getattr(induction.head_scores(model, lengths=(6, 4), n_sequences=2), name)
            for name in ("induction", "copying", "previous_token")
        ]
    ),
    "head effects": lambda model: induction.head_effects(model, prompts_for(model)).losses,
    "reference": lambda model: induction.head_reference(model, n_texts=3, length=12).mean_z,
    "ablation study": ablated,
    "context heads": lambda model: (
        icl.HeadStudy(model, PSEUDO, n_shots=1, n_queries=2, metric="log_prob").sweep().scores
    ),
    "task vectors": lambda model: (
        vectors.task_vectors(
            model, LABELS, **SHOWN, seeds=0, pairs=True, metric="first_token_prob"
        ).scores
    ),
    "patches": lambda model: (
        vectors.patch_states(model, LABELS, **SHOWN, seeds=0, metric="first_token_prob").scores
    ),
    "in-context vectors": lambda model: (
        vectors.in_context_vectors(model, LABELS, n_pairs=4).vectors
    ),
    "gates": gated,
    "lora": adapted,
    "savings": lambda model: (
        savings.measure_savings(
            model, WRITTEN, n_shots=1, n_queries=2, max_new_tokens=2, repeats=1
        ).cache_bytes
    ),
    "probe": lambda model: circuit.centroid_probe(model, LABELS, n_calibration=64, **SHOWN).scores,
    "cuts": lambda model: circuit.disconnect(model, LABELS, windows=2, **SHOWN).statistics,
    "forerunners": lambda model: circuit.forerunner_heads(model, LABELS, **SHOWN).scores,
    "similarity": lambda model: (
        circuit.forerunner_similarity(model, LABELS, ks=(0, 4), n_queries=2).scores
    ),
    "retrieval": lambda model: circuit.induction_heads(model, LABELS, **SHOWN).scores,
    "kernels": lambda model: circuit.kernel_alignment(model, LABELS, **SHOWN).scores,
    "labels": lambda model: circuit.label_alignment(model, LABELS, **SHOWN).scores,
    "assignment": lambda model: circuit.label_assignment(model, LABELS, **SHOWN).scores,
    "query and key": lambda model: circuit.query_key_view(model, LABELS, n_shots=4).points,
    "perplexity": lambda model: (
        circuit.perplexity_alignment(model, LABELS, n_shots=4, n_queries=5).alignments
    ),
}


def told(measure, here, there):
    """How far the two are apart, or what failed."""
    wanted = measure(here).double()
    try:
        found = measure(there)
    except Exception as error:
        traceback.print_exc(limit=-6)
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    same = found.isnan().cpu().equal(wanted.isnan().cpu())
    apart = (wanted - found.cpu().double()).nan_to_num().abs().max()
    size = float(wanted.nan_to_num().abs().max())
    return {"apart": float(apart), "size": size, "same_nans": same, "where": str(found.device)}


def main(device):
    warnings.simplefilter("ignore")
    play = devices.in_play() if device.startswith(devices.KIND) else nullcontext()
    with TemporaryDirectory() as directory:
        tiny.save(tiny.build("llama"), Path(directory))
        here = icl.load_model(directory, device="cpu")
        with play:
            there = icl.load_model(directory, device=device)
            places = sorted({str(weight.device) for weight in there.original_model.parameters()})
            print(json.dumps({"devices": places}), flush=True)
            for name, measure in MEASURES.items():
                print(json.dumps({"measure": name, **told(measure, here, there)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
