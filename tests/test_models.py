"""Loading models."""

import pytest
import tiny
import torch
from transformer_lens.model_bridge import TransformerBridge

import icl_locate as icl
from icl_locate.errors import ModelError


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_local_directory(architecture, tmp_path):
    directory = tiny.save(tiny.build(architecture), tmp_path / "model")
    model = icl.load_model(directory, device="cpu", dtype="bfloat16")
    assert isinstance(model, TransformerBridge) and not model.training
    assert next(model.original_model.parameters()).dtype == torch.bfloat16
    prompts = icl.build_prompts(model, [icl.Example("sort", "zimo")], n_shots=0)
    assert icl.score_targets(model, prompts).isfinite().all()


def test_the_embedded_model(embedded):
    assert embedded.cfg.n_layers >= 8 and not embedded.training
    assert icl.load_model("embedded", device="cpu").cfg.d_model == embedded.cfg.d_model


def test_a_bridge_is_returned_as_it_is():
    model = tiny.boot("llama")
    assert icl.load_model(model) is model


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("/no/such/directory", {}, "there is no model directory"),
        ("./neither", {}, "there is no model directory"),
        ("no-such-user/no-such-model", {}, "could not be loaded: it is not on this machine"),
        ("gpt2 ", {}, "model is 'gpt2 ': expected 'embedded', a local directory"),
        ("a/b/c", {}, "model is 'a/b/c': expected 'embedded', a local directory"),
        ("embedded", {"revision": "main"}, "revision is 'main', but the model is the directory"),
        ("embedded", {"device": "quantum"}, "device is 'quantum': expected one of this machine"),
        ("embedded", {"dtype": "int8"}, "dtype is 'int8': expected float32"),
        ("embedded", {"dtype": "float33"}, "dtype is 'float33'"),
    ],
)
def test_bad_names_and_dtypes(name, options, message):
    with pytest.raises(ModelError, match=message):
        icl.load_model(name, **{"device": "cpu"} | options)


def test_a_truncated_model(tmp_path):
    directory = tiny.save(tiny.build("llama"), tmp_path / "model")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="could not be loaded"):
        icl.load_model(directory, device="cpu")


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="could not be loaded"):
        icl.load_model(tmp_path, device="cpu")
