"""What a sweep will do, printed before it starts."""

from typing import Any

from icl_locate.cli.configs import SweepConfig


def announce(
    config: SweepConfig,
    task: Any,
    conditions: Any,
    n_queries: int,
    shots: tuple[int, ...],
    max_new_tokens: int,
) -> None:
    """Print what will run, and what it will take."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from icl_locate.interventions.conditions import get_condition
    from icl_locate.masking.estimate import Shape, estimate_sweep, measure_speed
    from icl_locate.metrics import generates
    from icl_locate.models.loading import loading_error, resolve_device
    from icl_locate.models.names import find_model
    from icl_locate.models.trust import NO_CODE

    where = find_model(config.model, config.revision)
    try:
        shape = Shape.of(AutoConfig.from_pretrained(where, revision=config.revision, **NO_CODE))
        tokenizer = AutoTokenizer.from_pretrained(where, revision=config.revision, **NO_CODE)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # as TransformerLens does
    except Exception as error:  # a damaged directory makes its readers raise anything
        raise loading_error(str(where), error) from error
    chosen = [get_condition(condition) for condition in conditions]
    metric = config.metric or task.metric
    print(f"model       {config.model}: {shape.n_layers} layers, d={shape.d_model}")
    print(f"task        {task.name}: {n_queries} queries, {len(task.train)} examples to draw from")
    print(f"conditions  {'; '.join(c.name for c in chosen)}; {config.scope} each layer")
    print(f"shots       {', '.join(map(str, shots))}; seeds {', '.join(map(str, config.seeds))}")
    print(f"metric      {metric}, at most {max_new_tokens} new tokens")
    print(f"output      {config.output}")
    device = resolve_device(config.device)
    speed = measure_speed(device, getattr(torch, config.dtype))
    for n_shots in shots:
        estimate = estimate_sweep(
            tokenizer,
            shape,
            task,
            chosen,
            n_shots=n_shots,
            n_queries=n_queries,
            n_seeds=len(config.seeds),
            max_new_tokens=max_new_tokens,
            generates=generates(metric),
            scope=config.scope,
            engine=config.engine,
            choice=config.choice or task.choice,
        )
        print(f"{n_shots} shots: {estimate.describe(speed)}")
