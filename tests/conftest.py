"""Shapes and dtypes of every annotated function are checked while the tests run.

Not so for ``tests/untyped``, which passes wrong types on purpose or runs what the pages print, in a
process of its own with ICL_LOCATE_UNTYPED=1.
"""

import os
import signal

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it behind an ``&``
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of ours inherit it

from jaxtyping import install_import_hook

UNTYPED = os.environ.get("ICL_LOCATE_UNTYPED") == "1"
collect_ignore = ["former", *([] if UNTYPED else ["untyped"])]
if not UNTYPED:
    install_import_hook("icl_locate", "beartype.beartype")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(
    "default",
    deadline=None,
    max_examples=int(os.environ.get("ICL_LOCATE_EXAMPLES", "12")),
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


@pytest.fixture(scope="session")
def embedded():
    """The embedded model."""
    from icl_locate import load_model

    return load_model(device="cpu")


@pytest.fixture
def no_pictures(monkeypatch):
    """Commands write no PNG: a browser draws each, in seconds, and other tests look at some."""
    monkeypatch.setattr("icl_locate.report.page.write_png", lambda *_, **__: "not drawn")


SLOW = {
    "test_advice.py": ("test_more_items_and", "test_what_seeds_do"),
    "test_agreement_layers.py": ("test_the_interval_of_a_difference_holds",),
    "test_benchmarks.py": ("test_every_way_gives_the_same",),
    "test_browser.py": ("test_every_kind_of_page_opens_on_a_phone",),
    "test_comparison.py": ("test_intervals_cover_what_is_true",),
    "test_config_file.py": ("test_a_metric_of_ones_own_is_found_again",),
    "test_device_map.py": tuple(
        f"test_two_devices_give_what_one_gives[{name}" for name in ("gpt2", "opt")
    ),
    "test_experiments.py": tuple(
        f"test_the_presets_run_end_to_end_on_local_files[{name}"
        for name in ("starcoder2", "gpt_neo", "bloom")
    ),
    "test_formation.py": ("test_loss_falls_in_the_papers_order",),
    "test_function_vector.py": tuple(
        f"test_effects_and_vector_equal_a_loop_over_the_plain_model[{name}"
        for name in ("gpt2", "gpt_neox")
    ),
    "test_gates.py": (
        "test_pruning_leaves_what_is_needed[1", "test_breaking_closes_what_is_needed[1",
    ),
    "test_in_context.py": tuple(
        f"test_vectors_and_steering_equal_a_loop_over_the_plain_model[{name}"
        for name in ("gpt2", "gpt_neox")
    ),
    "test_memory.py": ("test_memory_that_really_runs_out",),
    "test_names.py": ("test_no_order_of_sets_is_part_of_a_name",),
    "test_on_device.py": ("test_studies_give_what_the_cpu_gives",),
    "test_ray.py": (
        "test_a_unit_that_fails_everywhere", "test_a_model_has_its_name", "test_other_weights",
        "test_no_worker_that_loads",
    ),
    "test_task_vectors.py": ("test_other_metrics",),
}  # fmt: skip
"""Tests that say at length, or of one architecture more, what quicker ones say: `make thorough`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the slow ones, which are left out unless ``-m slow`` asks for them."""
    for item in items:
        if item.name.startswith(SLOW.get(item.path.name, ("nothing",))):
            item.add_marker(pytest.mark.slow)
