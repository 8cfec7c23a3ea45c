"""Tuning every layer by itself, in one call that can be interrupted."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig

from icl_locate.checks.arguments import check_counts, check_seeds, refuse
from icl_locate.checks.signatures import anything, checked
from icl_locate.engine.decoding import check_targets, cut_at_stop
from icl_locate.errors import ModelError, PromptError, TaskError
from icl_locate.lora.config import PRESETS, LoraConfig
from icl_locate.lora.data import encode, tokenize_prompt
from icl_locate.lora.projections import output_projections
from icl_locate.lora.result import LoraResult
from icl_locate.lora.train import train_adapter
from icl_locate.metrics import (
    Metric,
    TextScore,
    is_known,
    is_mean,
    judged,
    require_answers,
    score_totals,
)
from icl_locate.metrics.base import check_columns, item_statistics
from icl_locate.models.fingerprint import weights_digest
from icl_locate.models.loading import (
    EMBEDDED,
    loading_error,
    quiet_loading,
    resolve_device,
    resolve_dtype,
)
from icl_locate.models.names import find_model
from icl_locate.models.trust import NO_CODE, check_weights
from icl_locate.prompts.template import Example
from icl_locate.studies.recipe import describe_weights, digest, versions
from icl_locate.studies.setting import choose_metric
from icl_locate.tasks.task import Task


@checked(TaskError, layers=anything, metric=anything)
def lora_by_layer(
    model: str | Path | None,
    task: Task,
    output: str | Path,
    config: LoraConfig | str | None = None,
    *,
    layers: Iterable[int] | None = None,
    seeds: int | Iterable[int] = (0, 1),
    n_queries: int = 64,
    metric: str | Metric | TextScore | None = None,
    max_new_tokens: int = 50,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    progress: bool = False,
) -> LoraResult:
    """Tune the attention output projection of each layer by itself, and score each tuned model.

    Prompts hold neither instruction nor examples: a tuned layer has to do what the context did.
    Adapters are written as peft writes them (``output/seed_S/layer_L``) and load with
    ``PeftModel.from_pretrained``; the state of each training is written after every epoch, and a
    call with the same output goes on where the last one ended, to the same weights.

    Args:
        model: a name on the Hub or a local directory; ``None`` or "embedded" for the embedded one.
        task: pairs to learn from (``task.train``) and to be scored on (``task.test``).
        output: directory of the adapters and checkpoints.
        config: a `LoraConfig`, or "sia2024" or "sia2024-v1"; ``None`` means the first.
        layers: which; ``None`` means all.
        seeds: each initialises adapters and orders pairs anew.
        n_queries, metric, max_new_tokens: as in `sweep`.
        device, dtype, revision: where and how the model is loaded, as `load_model` says.
        progress: whether to show a progress bar over layers and seeds.

    Raises:
        TaskError: too few pairs or queries, an unknown preset, a metric without answers.
        ModelError: if the model cannot be loaded, or has no such layers or projections.
        ResultError: if the output holds another training's checkpoints.
        NumericalError: if a loss is not a number.
    """
    chosen = _choose_config(config)
    scored = choose_metric(task, metric, n_queries)
    drawn, queries = check_seeds(seeds, error=TaskError), task.queries(n_queries)
    template = task.template_for(instruction=False)
    _check(task, chosen, scored)
    check_targets([query.target for query in queries], template.stops, scored)
    base, tokenizer = _load(model, device, dtype, revision)
    names = output_projections(base)
    wanted = _choose_layers(layers, len(names))
    train = encode(tokenizer, template, task.train[: chosen.n_train], chosen.loss)
    dev_pairs = task.train[chosen.n_train :][: chosen.n_dev]
    dev = encode(tokenizer, template, dev_pairs, chosen.loss)

    def answer(some: Any) -> Any:
        texts = _generate(some, tokenizer, template, queries, max_new_tokens, chosen)
        return item_statistics(scored, texts, [query.target for query in queries])

    recipe = {
        **describe_weights(EMBEDDED if model is None else str(model), base, tokenizer),
        "architecture": type(base).__name__,
        "fingerprint": weights_digest(base),
        "pairs_sha256": digest([str(train), str(dev)]),
        "prompts_sha256": digest(
            str(tokenize_prompt(tokenizer, template, query.source).tokens) for query in queries
        ),
    }
    identity = f"{task.name}, {recipe['fingerprint']}, {recipe['pairs_sha256']}"
    untuned = float(scored.score(answer(base).sum(axis=0)))
    runs: dict[tuple[int, int], tuple[Any, Any]] = {}
    with tqdm(
        total=len(wanted) * len(drawn), unit="adapter", desc=task.name, disable=not progress
    ) as bar:
        for seed in drawn:
            for layer in wanted:
                place = Path(output) / f"seed_{seed}" / f"layer_{layer}"
                tuned = _add_adapter(base, names[layer], chosen, seed)
                state = train_adapter(
                    tuned,
                    train,
                    dev,
                    int(tokenizer.pad_token_id),
                    chosen,
                    seed=seed,
                    checkpoint=place / "checkpoint",
                    identity=identity,
                )
                tuned.save_pretrained(place)
                runs[layer, seed] = state, answer(tuned)
                base = tuned.unload()
                vars(base).pop("peft_config", None)  # earlier versions of peft leave it there
                bar.update()
    check_columns(scored, [table for _, table in runs.values()])
    statistics = np.stack([np.stack([runs[j, s][1] for s in drawn]) for j in wanted])
    states = [[runs[j, s][0] for s in drawn] for j in wanted]
    return LoraResult(
        layers=wanted,
        seeds=drawn,
        statistics=torch.from_numpy(statistics),
        scores=torch.from_numpy(score_totals(scored, statistics.sum(axis=-2))),
        dev_losses=torch.tensor([[state.best for state in row] for row in states]),
        n_epochs=torch.tensor([[state.epoch for state in row] for row in states]),
        untuned=untuned,
        metric=scored.name,
        provenance={
            **recipe,
            "projections": names,
            "task": task.name,
            "template": asdict(template),
            "config": asdict(chosen),
            "layers": list(wanted),
            "seeds": list(drawn),
            "n_queries": n_queries,
            "max_new_tokens": max_new_tokens,
            "signature": scored.signature,
            **judged(scored),
            "metric_is_mean": is_mean(scored),
            "versions": versions("peft"),
        },
        custom_metric=None if is_known(scored.name) else scored,
    )


def _choose_config(config: LoraConfig | str | None) -> LoraConfig:
    if isinstance(config, LoraConfig):
        return config
    name = "sia2024" if config is None else config
    if name not in PRESETS:
        expected = f"a LoraConfig or one of {', '.join(map(repr, PRESETS))}"
        refuse("config", name, expected, TaskError)
    return PRESETS[name]


def _choose_layers(layers: Iterable[int] | None, n_layers: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(n_layers))
    return tuple(
        sorted(check_counts("layers", layers, least=0, most=n_layers - 1, error=ModelError))
    )


def _check(task: Task, config: LoraConfig, metric: Metric) -> None:
    if config.n_train + config.n_dev > len(task.train):
        raise TaskError(
            f"n_train is {config.n_train}, n_dev {config.n_dev}: the task {task.name!r} has only "
            f"{len(task.train)} pairs to learn from"
        )
    require_answers(metric)


def _load(
    model: str | Path | None,
    device: str | torch.device | None,
    dtype: torch.dtype | str,
    revision: str | None,
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, floats = find_model(model, revision), resolve_dtype(dtype)
    check_weights(where, revision)
    safe: Any = NO_CODE | {"use_safetensors": True}
    try:
        with quiet_loading():
            base = AutoModelForCausalLM.from_pretrained(
                where, dtype=floats, revision=revision, **safe
            )
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, **NO_CODE)
    except Exception as error:  # a damaged directory makes its readers raise anything
        raise loading_error(str(model or EMBEDDED), error) from error
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return base.to(resolve_device(device)).eval(), tokenizer


def _add_adapter(base: Any, name: str, config: LoraConfig, seed: int) -> Any:
    import peft
    from transformers.pytorch_utils import Conv1D

    adapter = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name],
        fan_in_fan_out=isinstance(base.get_submodule(name), Conv1D),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws initial weights from the global generator
        torch.default_generator.manual_seed(seed)
        return peft.get_peft_model(base, adapter)


@torch.no_grad()
def _generate(
    model: Any,
    tokenizer: Any,
    template: Any,
    queries: Sequence[Example],
    max_new_tokens: int,
    config: LoraConfig,
) -> list[str]:
    """Greedy answers, by transformers' own generation, without what a model's config adds to it."""
    ends = {tokenizer.eos_token_id}
    known = getattr(model.generation_config, "eos_token_id", None)
    ends |= set(known if isinstance(known, list) else [] if known is None else [known])
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted(ends),
    )
    answers: list[str] = []
    rows = [tokenize_prompt(tokenizer, template, query.source).tokens for query in queries]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, rows))
    if limit is not None and longest + max_new_tokens > limit:
        raise PromptError(
            f"a prompt of {longest} tokens with {max_new_tokens} new ones exceeds the model's "
            f"context of {limit}: lower max_new_tokens"
        )
    for start in range(0, len(rows), config.batch_size):
        some = {"input_ids": rows[start : start + config.batch_size]}
        batch = tokenizer.pad(some, return_tensors="pt", padding_side="left")
        tokens = batch["input_ids"].to(model.device)
        found = model.generate(
            input_ids=tokens,
            attention_mask=batch["attention_mask"].to(model.device),
            generation_config=greedy,
        )
        written = tokenizer.batch_decode(found[:, tokens.shape[1] :], skip_special_tokens=True)
        answers += [cut_at_stop(text, template.stops).strip() for text in written]
    return answers
