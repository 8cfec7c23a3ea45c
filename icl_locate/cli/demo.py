"""``icl-locate demo``."""

from icl_locate.cli.configs import DemoConfig
from icl_locate.cli.earlier import check_earlier
from icl_locate.cli.writing import WRITTEN, write_result
from icl_locate.records.files import check_output


def run_demo(config: DemoConfig) -> None:
    """Run the main job on the embedded model."""
    import icl_locate as icl
    from icl_locate import plots

    check_output(config.output, WRITTEN)
    check_earlier(config, config.output / "result.safetensors")
    task = icl.load_task("pseudo-translation")
    model = icl.load_model(device="cpu")
    result = icl.sweep(
        model,
        task,
        n_queries=config.n_queries,
        seeds=config.seeds,
        max_new_tokens=12,
        progress=not config.quiet,
    )
    prompts = icl.build_prompts(model, task.test[:1], examples=task.train, template=task.template)
    shown = {"prompt_segments": plots.prompt_segments(model, prompts)}
    write_result(result, config, config.output, 0.95, shown)
