"""Models' files: safetensors alone, no code of a model's own, tokenizers that fit."""

import ast
import json
import shutil
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.errors import IclLocateError, ModelError, PromptError
from icl_locate.lora import LoraConfig, lora_by_layer
from icl_locate.models.trust import check_weights
from icl_locate.savings import estimate_savings

PACKAGE = Path(icl.__file__).parent
PICKLED = "holds no safetensors.*pytorch_model.bin.*are not loaded.*save_pretrained"


class Marked:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def directory(tmp_path):
    return tiny.save(tiny.build("llama"), tmp_path / "model")


def pickled(directory):
    """The same weights in pickle, with a program among them."""
    mark = directory.parent / "was run"
    weights = dict(tiny.build("llama").state_dict()) | {"more": Marked(mark)}
    (directory / "model.safetensors").unlink()
    torch.save(weights, directory / "pytorch_model.bin")
    return mark


def lora(directory):
    task, config = icl.load_task("pseudo-translation"), LoraConfig(n_train=2, n_dev=2)
    output = directory.parent / "out"
    return lora_by_layer(str(directory), task, output, config, n_queries=1, device="cpu")


LOADERS = [lambda directory: icl.load_model(directory, device="cpu"), lora]


@pytest.mark.parametrize("load", LOADERS)
def test_weights_in_pickle_are_refused(directory, load):
    mark = pickled(directory)
    with pytest.raises(ModelError, match=PICKLED):
        load(directory)
    assert not mark.exists()


@pytest.mark.parametrize("load", LOADERS)
def test_an_index_that_names_pickles_is_refused(directory, load):
    pickled(directory)
    names = {"weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps(names))
    with pytest.raises(ModelError, match=PICKLED):
        load(directory)
    for damaged in ("{", "[]", '{"weight_map": 3}', "[" * 100_000):
        index.write_text(damaged)
        with pytest.raises(ModelError, match="is no index of weights"):
            load(directory)


def test_safetensors_in_several_files_load(directory):
    shutil.rmtree(directory)
    directory.mkdir()
    tiny.build("llama").save_pretrained(directory, max_shard_size="20KB")
    assert (directory / "model.safetensors.index.json").exists()
    check_weights(str(directory))


def test_an_adapter_is_no_model(directory):
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "other"}')
    with pytest.raises(ModelError, match="holds an adapter.*merge_and_unload"):
        icl.load_model(directory, device="cpu")


@pytest.mark.parametrize("safe", [True, False])
def test_weights_of_the_hub_are_seen_before_they_are_loaded(directory, tmp_path, monkeypatch, safe):
    """In the local cache of the Hub, which is all that there is offline."""
    if not safe:
        pickled(directory)
    cached = tmp_path / "hub" / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(directory, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    if safe:
        check_weights("some/model")
    else:
        with pytest.raises(ModelError, match=PICKLED):
            check_weights("some/model")
    check_weights("some/other")  # is not there: whoever loads it says so


def with_code(directory, model_type):
    """A directory that names code of its own, which leaves a mark where it is run."""
    mark = directory.parent / "was run"
    code = (
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class C(LlamaConfig):\n    model_type = 'custom'\n"
        "class M(LlamaForCausalLM):\n    config_class = C\n"
        "class T(PreTrainedTokenizerFast): ...\n"
    )
    (directory / "code.py").write_text(code)
    maps = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    for file, more in (
        ("config.json", {"model_type": model_type, "auto_map": maps}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", "code.T"]}}),
    ):
        config = json.loads((directory / file).read_text())
        (directory / file).write_text(json.dumps(config | more))
    return mark


def test_code_of_a_models_own_is_never_run(directory):
    mark = with_code(directory, "custom")
    for load in (*LOADERS, lambda directory: estimate_savings(directory, 1)):
        with pytest.raises(ModelError, match="brings code of its own.*never run here"):
            load(directory)
        assert not mark.exists()


def test_code_of_a_known_architecture_is_not_run_either(directory):
    """transformers' own classes stand in for it."""
    mark = with_code(directory, "llama")
    model = icl.load_model(directory, device="cpu")
    assert model.cfg.architecture == "LlamaForCausalLM" and not mark.exists()


def test_code_of_a_models_own_on_the_command_line(directory, capsys):
    mark = with_code(directory, "custom")
    for options in ("", "--dry-run"):
        command = f"sweep --model {directory} --device cpu {options}"
        assert main([*command.split(), "--output", str(directory.parent / "o")])
        assert "brings code of its own" in capsys.readouterr().err
    assert not mark.exists()


def test_every_call_that_reads_a_models_files_says_that_its_code_is_not_run():
    """In the whole package, by its syntax trees."""
    readers = {"from_pretrained", "from_config", "boot_transformers"}
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in readers:
                given = [ast.unparse(keyword) for keyword in node.keywords]
                assert {"**NO_CODE", "**safe"} & set(given), f"{path}: {ast.unparse(node)}"
                found += 1
    assert found >= 5


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"model_type": 3}'),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
        ("config.json", '{"model_type": "llama", "num_attention_heads": 0}'),
        ("config.json", '{"model_type": "none"}'),
        ("model.safetensors", "x" * 100),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "\x00"),
    ],
)
def test_damaged_directories_are_refused_in_words(directory, file, text):
    (directory / file).write_text(text)
    with pytest.raises(
        ModelError, match="the model '.*' could not be loaded: expected a directory"
    ):
        icl.load_model(directory, device="cpu")


def test_a_tokenizer_with_tokens_beyond_the_models_vocabulary():
    model = tiny.boot_fresh("llama")
    pairs = [icl.Example("sort rano", "dode")]
    icl.build_prompts(model, pairs, n_shots=0)
    model.tokenizer.add_tokens(["rano dode"])
    n = tiny.VOCABULARY
    words = f"token {n} .*vocabulary of {n} tokens.*tokenizer has {n + 1}"
    icl.build_prompts(model, pairs, n_shots=0)  # which do not hold it
    for pair in (icl.Example("rano dode", "sort"), icl.Example("sort", "rano dode")):
        with pytest.raises(PromptError, match=words):
            icl.build_prompts(model, [pair], n_shots=0)
    prompts = icl.build_prompts(model, pairs, n_shots=0)
    with pytest.raises(PromptError, match=words):
        icl.score_labels(model, prompts, ["rano dode"])


def test_padding_beyond_the_models_vocabulary():
    model = tiny.boot_fresh("llama")
    model.tokenizer.add_special_tokens({"pad_token": "<new>"})
    alike = [icl.Example("sort rano", "dode"), icl.Example("rano sort", "dode")]
    icl.build_prompts(model, alike, n_shots=0)
    with pytest.raises(PromptError, match=r"token \d+ \('<new>'\)"):
        icl.build_prompts(model, [*alike, icl.Example("sort", "dode")], n_shots=0)


def test_errors_of_the_package_stay_its_own():
    with pytest.raises(IclLocateError):
        icl.load_model("", device="cpu")
