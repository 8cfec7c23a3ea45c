"""Models over several devices: devices in play on any machine, and GPUs where there are some."""

import json
import subprocess
import sys
from pathlib import Path

import devices
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.cli import main
from icl_locate.errors import ModelError
from icl_locate.models import spread

SCRIPT = Path(__file__).with_name("spread_models.py")


@pytest.mark.skipif(not devices.CAN_PLAY, reason="this torch has no devices of Python's own")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_two_devices_give_what_one_gives(architecture):
    """Both routes, masks below and above the border, edits, generation, readouts, head scores."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), architecture], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said, *measured = map(json.loads, done.stdout.splitlines())
    assert said["devices"] == said["hardware"] == ["spare:0", "spare:1"] and said["n_devices"] == 2
    assert said["fingerprint"], "weights are the same wherever they lie"
    assert said["engine"] == "hooks", "auto takes the engine that runs there"
    assert "the model is spread over several devices; use engine='hooks'" in said["shared"]
    assert len(measured) == 15
    for one in measured:
        assert "failed" not in one, one
        assert one["apart"] <= 1e-5 * max(one["size"], 1.0), one
    assert {one["measure"] for one in measured if one["size"] == 0} <= {"swept, generated"}


def test_one_cpu_is_a_map_too(tmp_path):
    directory = tiny.save(tiny.build("llama"), tmp_path)
    plain = icl.load_model(directory, device="cpu")
    asked = {"conditions": "examples", "n_shots": 1, "n_queries": 2, "metric": "log_prob"}
    wanted = icl.sweep(plain, "pseudo-translation", **asked)
    for device_map in ({"": "cpu"}, {"model": torch.device("cpu"), "lm_head": "cpu"}):
        model = icl.load_model(directory, device_map=device_map)
        found = icl.sweep(model, "pseudo-translation", **asked)
        assert found.scores.equal(wanted.scores)
        assert found.provenance["fingerprint"] == wanted.provenance["fingerprint"]


WRONG = [
    ({"device_map": "far"}, "device_map is 'far': expected one of 'auto', 'balanced'"),
    ({"device_map": {}}, "device_map is {}: expected one of 'auto'"),
    ({"device_map": {"": True}}, "device_map has True for '': expected one of 'auto'"),
    ({"device_map": {"": "disk"}}, "device_map has 'disk' for '': weights that are offloaded"),
    ({"device_map": {"a": "cpu", "b": "meta"}}, "device_map has 'meta' for 'b': weights that are"),
    ({"device_map": {"a": "cuda:77"}}, "device_map has 'cuda:77' for 'a': expected a device of"),
    ({"device_map": {"a": 77}}, "device_map has 77 for 'a': expected a device of this machine"),
    ({"device_map": {"a": "nonsense"}}, "device_map has 'nonsense' for 'a': expected a device"),
    ({"device_map": "auto", "device": "cpu"}, "device is 'cpu' and device_map is 'auto': expected"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_a_map_may_not_say(given, message):
    with pytest.raises(ModelError) as caught:
        icl.load_model(**given)
    assert message in str(caught.value)


def test_a_bridge_is_where_it_is(embedded):
    with pytest.raises(ModelError, match="^device_map is 'auto', but the model is there already"):
        icl.load_model(embedded, device_map="auto")


def test_without_accelerate_it_is_named(monkeypatch):
    monkeypatch.setattr(spread, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="which takes the package accelerate: install it"):
        icl.load_model(device_map="auto")


def test_the_cpu_and_a_gpu_do_not_go_together(monkeypatch):
    monkeypatch.setattr(spread, "_check_place", lambda name, place: place)
    with pytest.raises(
        ModelError, match=r"devices of several kinds \(cpu, cuda\): expected GPUs al"
    ):
        icl.load_model(device_map={"a": "cpu", "b": "cuda:0"})


def test_what_transformers_says_of_a_map_is_told(monkeypatch):
    def fail(*given, **options):
        assert options["device_map"] == "auto" and "device" not in options
        raise ValueError("lm_head has no device\nmore")

    boot = "icl_locate.models.loading.TransformerBridge.boot_transformers"
    monkeypatch.setattr(boot, fail)
    with pytest.raises(ModelError) as caught:
        icl.load_model(device_map="auto")
    assert "could not be loaded with device_map='auto': expected a map of ev" in str(caught.value)
    assert str(caught.value).endswith("(ValueError: lm_head has no device)")


@pytest.mark.parametrize(
    "line",
    [
        "checkpoints --device-map auto",
        "triangulate --device-map auto --methods lora masking",
        "sweep --device-map auto --device cpu",
    ],
)
def test_commands_that_cannot_spread_say_so(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "--quiet"]) == 2
    assert "device-map is 'auto'" in capsys.readouterr().err.replace("device_map", "device-map")


@pytest.mark.usefixtures("no_pictures")
def test_a_command_spreads_its_model(tmp_path, monkeypatch):
    asked = []
    load = icl.load_model

    def note(model, **options):
        asked.append(options)
        return load(model, **{**options, "device_map": None})

    monkeypatch.setattr("icl_locate.load_model", note)
    line = "sweep --n-queries 1 --seeds 0 --n-shots 1 --conditions examples --metric log_prob"
    line += f" --layers 0 --quiet --output {tmp_path} --device-map balanced"
    assert main(line.split()) == 0
    assert asked[0]["device_map"] == "balanced"
    result = icl.SweepResult.load(tmp_path / "result")
    assert result.provenance["settings"]["device_map"] == "balanced"


def blocks_on(directory, places):
    """A map of tiny llama: its blocks here and there, and the rest on the first place."""
    rest = dict.fromkeys(("model.embed_tokens", "model.rotary_emb"), places[0])
    rest |= {"model.norm": places[-1], "lm_head": places[-1]}
    return rest | {f"model.layers.{i}": places[i % len(places)] for i in range(tiny.N_LAYERS)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("n_devices", [1, 2])
def test_gpus_give_what_the_cpu_gives(n_devices, tmp_path):
    if torch.cuda.device_count() < n_devices:
        pytest.skip("there are too few GPUs")
    directory = tiny.save(tiny.build("llama"), tmp_path)
    asked = {"conditions": ["examples", "everything"], "n_shots": 1, "n_queries": 2}
    asked |= {"metric": "log_prob"}
    wanted = icl.sweep(icl.load_model(directory, device="cpu"), "pseudo-translation", **asked)
    given = blocks_on(directory, list(range(n_devices)))
    model = icl.load_model(directory, device_map=given)
    for engine in ["hooks", "shared"] if n_devices == 1 else ["hooks"]:
        found = icl.sweep(model, "pseudo-translation", engine=engine, **asked)
        assert (found.item_scores - wanted.item_scores).abs().max() < 1e-4
    assert len(found.provenance["hardware"]["devices"]) == n_devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("engine", ["hooks", "auto"])
def test_half_on_a_gpu_and_half_on_the_cpu(engine, tmp_path):
    """No map that `load_model` takes: a machine of one GPU stands for one of two in the engines."""
    from accelerate import dispatch_model
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tiny.save(tiny.build("llama"), tmp_path)
    asked = {"conditions": ["examples", "everything"], "n_shots": 1, "n_queries": 2}
    wanted = icl.sweep(icl.load_model(directory, device="cpu"), "pseudo-translation", **asked)
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    given = blocks_on(directory, ["cpu", "cuda:0"])
    model = dispatch_model(model, given, main_device="cpu", force_hooks=True)
    model.hf_device_map = {}  # TransformerLens takes a CPU in it for weights that wait there
    tokenizer = AutoTokenizer.from_pretrained(directory)
    bridge = TransformerBridge.boot_transformers(
        str(directory), hf_model=model, tokenizer=tokenizer
    ).eval()
    found = icl.sweep(bridge, "pseudo-translation", engine=engine, **asked)
    assert found.provenance["engine"] == "hooks"
    assert found.provenance["hardware"]["devices"] == ["cpu", "cuda:0"]
    assert (found.scores - wanted.scores).abs().max() < 1e-4
    scored = [icl.sweep(one, "pseudo-translation", metric="log_prob", **asked) for one in
              (bridge, icl.load_model(directory, device="cpu"))]  # fmt: skip
    assert (scored[0].item_scores - scored[1].item_scores).abs().max() < 1e-4
