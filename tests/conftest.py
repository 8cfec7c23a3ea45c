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
    max_examples=25,
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
