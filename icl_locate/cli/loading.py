"""What the commands load: the task with its metric, and the model."""

from pathlib import Path
from typing import Any

from icl_locate.cli.earlier import check_earlier
from icl_locate.cli.options import Batched, Model, Task
from icl_locate.cli.start import choose_metric, say


def load_scored_task(config: Task) -> tuple[Any, Any]:
    """The task of a command's options, and the metric that it is scored with."""
    import icl_locate as icl

    task = icl.load_task(config.task, data=config.data)
    return task, choose_metric(config, task)


def load_chosen_model(config: Batched, *results: Path) -> Any:
    """The model that a command's options name.

    Args:
        results: what the command would replace: refused where another model's weights made it.
    """
    import icl_locate as icl

    say(config, f"loading the model {config.model}")
    # Where workers run it, this process only builds prompts: its GPU is theirs.
    runs_here = getattr(config, "ray", None) is None
    device = config.device if runs_here or config.device_map else config.device or "cpu"
    model = icl.load_model(
        config.model,
        device=device,
        device_map=config.device_map,
        dtype=config.dtype,
        revision=config.revision,
    )
    check_earlier(config, *results, model=model)
    return model


def read_costs(config: Model) -> tuple[Any, Any]:
    """What a token costs in the model, and its tokenizer, without its weights."""
    from transformers import AutoTokenizer

    from icl_locate.models.costs import ModelCosts
    from icl_locate.models.loading import loading_error
    from icl_locate.models.names import find_model
    from icl_locate.models.trust import NO_CODE

    costs = ModelCosts.of(config.model, revision=config.revision, at_most=True)
    where = find_model(config.model, config.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=config.revision, **NO_CODE)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # as TransformerLens does
    except Exception as error:  # a damaged directory makes its readers raise anything
        raise loading_error(str(where), error) from error
    return costs, tokenizer
