"""What dropping the context saves: counted against a profiler, measured, drawn."""

import json

import pytest
import tiny
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

import icl_locate as icl
from icl_locate import Segment, plots
from icl_locate.cli import main
from icl_locate.errors import MaskError, ModelError, PromptError, ResultError, TaskError
from icl_locate.savings import (
    MeasuredSavings,
    ModelCosts,
    estimate_savings,
    measure_savings,
    paper_share,
)

INSTRUCTION = "Translate English to French:"
BANK = [icl.Example("sort reverse", "dode zimo"), icl.Example("thin zero", "zimo rovu")]
QUERY = icl.Example("reverse thin", "dode")


def prompts_for(model):
    """One prompt, of which the sizes are known."""
    prompts = icl.build_prompts(
        model, [QUERY], examples=BANK, n_shots=2, template=icl.PromptTemplate(INSTRUCTION)
    )
    segments = prompts.segments[0].tolist()
    counts = {segment: segments.count(segment) for segment in set(segments)}
    return prompts, {
        "n_shots": 1,
        "shot_tokens": counts[Segment.EXAMPLES],
        "query_tokens": counts[Segment.QUERY],
        "instruction_tokens": counts[Segment.INSTRUCTIONS],
    }


def profiled(model, prompts, start, n_new):
    """Operations of the prefill, and of the new tokens, and the cache's bytes."""
    cache, seen = DynamicCache(), prompts.attention_mask.long()
    step, counts = prompts.tokens, []
    with icl.drop_context(model, prompts, start), torch.no_grad():
        for _ in range(n_new):
            with FlopCounterMode(display=False) as counter:
                model(
                    step, attention_mask=seen, past_key_values=cache, use_cache=True,
                    logits_to_keep=1,
                )  # fmt: skip
            counts.append(counter.get_total_flops())
            step = step[:, -1:]
            seen = torch.nn.functional.pad(seen, (0, 1), value=1)
    held = sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in cache.layers)
    return counts[0], sum(counts[1:]), held


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize(
    "architecture", ["gpt2", "llama", "gpt_neox", "qwen2", "starcoder2", "opt", "bloom"]
)
def test_operations_equal_a_profilers(architecture, start):
    model = tiny.boot(architecture)
    prompts, sizes = prompts_for(model)
    found = estimate_savings(model, start, **sizes, n_new_tokens=4)
    prefill, decode, cache = profiled(model, prompts, start, 4)
    assert found.prefill_operations[1] == prefill
    assert found.decode_operations[1] == decode
    assert found.cache_bytes[1] == cache
    whole = profiled(model, prompts, 3, 4)
    assert (found.prefill_operations[0], found.decode_operations[0]) == whole[:2]
    assert found.cache_bytes[0] == whole[2]


@pytest.mark.parametrize("n_new", [1, 2, 5])
@pytest.mark.parametrize("bos", [True, False])
def test_operations_equal_a_count_by_hand(bos, n_new):
    """One product after the other, token by token: no number here comes from a formula."""
    sizes = {"n_heads": 4, "n_kv_heads": 2, "d_head": 3, "d_model": 12, "widest": 48}
    costs = ModelCosts("by hand", (7, 11, 13), 17, **sizes)
    context, query = ["i"] * 3 + ["e"] * 5 * 2, ["q"] * 4
    for start in range(4):
        found = estimate_savings(
            costs, start, n_shots=2, shot_tokens=5, query_tokens=4, instruction_tokens=3,
            n_new_tokens=n_new, n_prompts=6, bos=bos, dtype="bfloat16",
        )  # fmt: skip
        for i, drops in enumerate((False, True)):
            prefill = decode = cache = 0
            for layer, weights in enumerate((7, 11, 13)):
                keys = ["b"] * bos + query
                if not (drops and layer >= start):
                    keys = keys + context
                for _ in keys:
                    prefill += 2 * weights
                    for _ in keys:
                        prefill += 2 * 4 * 3 * 2  # of 4 heads: with 3 numbers of a key, of a value
                for _ in range(n_new - 1):  # the last new token is not run
                    keys = [*keys, "n"]
                    decode += 2 * weights
                    for _ in keys:
                        decode += 2 * 4 * 3 * 2
                for _ in keys:
                    cache += 2 * 2 * 3 * 2  # keys and values of 2 heads, 2 bytes a number
            prefill += 2 * 17
            for _ in range(n_new - 1):
                decode += 2 * 17
            assert found.prefill_operations[i] == 6 * prefill
            assert found.decode_operations[i] == 6 * decode
            assert found.cache_bytes[i] == 6 * cache
    assert found.prefill_share == found.decode_share == found.cache_share == 0.0


def test_no_weights_are_needed(tmp_path):
    config = tiny.build("llama").config
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    costs = ModelCosts.of(tmp_path)
    assert costs.layer_weights == ModelCosts.of(tiny.boot("llama")).layer_weights
    assert (costs.n_layers, costs.n_kv_heads, costs.d_head) == (3, 2, 8)
    assert costs.layer_weights[0] == 32 * (32 + 16 + 16 + 32) + 3 * 32 * 64
    assert ModelCosts.of(config) == ModelCosts.of(config)
    assert ModelCosts.of("embedded").n_layers == 10


def test_falcons_keys():
    config = hf.FalconConfig(
        num_attention_heads=8, hidden_size=64, num_hidden_layers=2, num_kv_heads=4, vocab_size=50,
        new_decoder_architecture=True, multi_query=True,
    )  # fmt: skip
    assert ModelCosts.of(config).n_kv_heads == 4
    config.new_decoder_architecture = False
    assert ModelCosts.of(config).n_kv_heads == 1


def test_models_that_cannot_be_counted():
    experts = hf.MixtralConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, vocab_size=50,
    )  # fmt: skip
    with pytest.raises(ModelError, match="several experts"):
        ModelCosts.of(experts)
    with pytest.raises(ModelError, match="^model is 'no/such/model/here'"):
        ModelCosts.of("no/such/model/here")


def test_the_papers_formula_and_bounds():
    assert paper_share(32, 14, 5) == pytest.approx(0.469, abs=5e-4)
    found = estimate_savings("embedded", 10, n_shots=3)
    assert found.paper == found.prefill_share == found.decode_share == found.cache_share == 0.0
    none = estimate_savings("embedded", 2, n_shots=0)
    assert none.total_share == 0.0, "nothing to drop"
    half, less = (estimate_savings("embedded", 4, dtype=d) for d in ("bfloat16", "float32"))
    assert 2 * half.cache_bytes[0] == less.cache_bytes[0]
    many = estimate_savings("embedded", 4, n_prompts=7)
    assert many.prefill_operations[1] == 7 * less.prefill_operations[1]
    for options, message in (
        ({"from_layer": 11}, "from_layer is 11: expected a whole number from 0 to 10"),
        ({"from_layer": 1, "n_shots": -1}, "n_shots is -1: expected a whole number of at least 0"),
        (
            {"from_layer": 1, "query_tokens": 0, "n_prompts": 0},
            "query_tokens is 0: expected a whole number of at least 1",
        ),
    ):
        with pytest.raises(PromptError, match=message):
            estimate_savings("embedded", **options)


def test_without_examples_of_unequal_length_the_formula_is_the_prefill():
    """Equal lengths, no instruction, no BOS, attention's share small: the two must come near."""
    costs = ModelCosts("wide", (10**9,) * 32, 1, 32, 8, 128, 4096, 11008)
    found = estimate_savings(costs, 14, n_shots=5, shot_tokens=50, query_tokens=50, bos=False)
    assert found.prefill_share == pytest.approx(found.paper, abs=1e-3)


@pytest.fixture(scope="module")
def measured(embedded):
    return measure_savings(
        embedded, icl.load_task("pseudo-translation"), [0, 6], n_queries=6, max_new_tokens=8,
        repeats=2,
    )  # fmt: skip


def test_what_is_measured(measured, tmp_path):
    assert measured.layers == (0, 6, 10)
    assert measured.prefill_seconds.shape == measured.decode_seconds.shape == (3, 2)
    assert (measured.prefill_seconds > 0).all()
    assert measured.scores[0] < 50 < 99 < measured.scores[1]
    assert (measured.interval[0] <= measured.scores).all()
    cache, peak = measured.cache_bytes.tolist(), measured.peak_bytes.tolist()
    assert cache == sorted(cache) and peak == sorted(peak) and cache[0] < 0.6 * cache[2]
    frame = measured.to_dataframe()
    assert frame["cache_saved"].tolist() == pytest.approx([1 - c / cache[2] for c in cache])
    assert frame["prefill_saved"].iloc[-1] == 0.0
    again = MeasuredSavings.load(measured.save(tmp_path / "savings"))
    assert torch.equal(again.scores, measured.scores) and again.layers == measured.layers
    assert again.provenance == json.loads(json.dumps(measured.provenance))
    with pytest.raises(ResultError, match="is not a result"):
        icl.SweepResult.load(tmp_path / "savings")


def test_bad_measurements(embedded):
    task = icl.load_task("pseudo-translation")
    for options, error, message in (
        ({"metric": "log_prob"}, TaskError, "'log_prob' reads no answers"),
        ({"repeats": 0}, TaskError, "repeats is 0"),
        ({"layers": [11]}, MaskError, r"layers\[0\] is 11: expected a whole number from 0 to 10"),
    ):
        with pytest.raises(error, match=message):
            measure_savings(embedded, task, n_queries=2, **options)
    with pytest.raises(ModelError, match="masks by index"):
        measure_savings(tiny.boot("gpt_neo"), task, [1], n_queries=2, n_shots=1, max_new_tokens=2)


def test_the_figure(measured):
    figure = plots.savings_curves(measured)
    names = [trace.name for trace in figure.data if trace.name]
    assert names == ["BLEU", "prefill time", "decoding time", "peak memory", "cache"]
    assert figure.data[1].y == tuple(measured.scores.tolist())
    assert figure.data[2].y[-1] == 1.0
    assert "5 shots" in figure.layout.annotations[-1].text


def test_the_command(tmp_path, capsys):
    assert main(["savings", "--n-shots", "5", "--layers", "5", "10", "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "41.7%" in printed and "0.0%" in printed and "formula: Sia et al. 2024" in printed
    command = (
        f"savings --measure --layers 6 --n-queries 3 --max-new-tokens 4 --repeats 1 --device cpu "
        f"--output {tmp_path}/saved"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "cache saved" in printed and "bleu" in printed
    for name in ("savings.safetensors", "savings.csv"):
        assert (tmp_path / "saved" / name).is_file()
    assert main(["savings", "--layers", "11"]) == 2
    assert "expected a whole number from 0 to 10" in capsys.readouterr().err
