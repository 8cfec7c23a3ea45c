"""LoRA, one layer at a time: projections, training, resuming, adapters that peft loads."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from tokenizers import processors
from transformers import AutoModelForCausalLM

import icl_locate as icl
from icl_locate import plots
from icl_locate.cli import main
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import ModelError, NumericalError, PromptError, ResultError, TaskError
from icl_locate.lora import PRESETS, LoraConfig, LoraResult, lora_by_layer
from icl_locate.lora.adapters import Teacher, load_base
from icl_locate.lora.data import IGNORED, encode, pad, tokenize_prompt
from icl_locate.lora.projections import output_projections
from icl_locate.lora.study import prepare
from icl_locate.studies.ranks import spearman
from icl_locate.studies.setting import Setting

PROJECTIONS = {
    "gpt2": "transformer.h.1.attn.c_proj",
    "gpt_neo": "transformer.h.1.attn.attention.out_proj",
    "bloom": "transformer.h.1.self_attention.dense",
    "llama": "model.layers.1.self_attn.o_proj",
    "starcoder2": "model.layers.1.self_attn.o_proj",
    "gpt_neox": "gpt_neox.layers.1.attention.dense",
    "qwen2": "model.layers.1.self_attn.o_proj",
    "gemma2": "model.layers.1.self_attn.o_proj",
    "mistral": "model.layers.1.self_attn.o_proj",
    "opt": "model.decoder.layers.1.self_attn.out_proj",
    "gptj": "transformer.h.1.attn.out_proj",
}
WORDS = ("sort", "reverse", "double", "thin", "zero", "one", "halve", "count")
TEMPLATE = icl.PromptTemplate("Answer:", "Q:", "A:", "\n", stop=("\n",))
PAIRS = tuple(icl.Example(f"{a} {b}", "dode") for a in WORDS for b in WORDS)
TASK = icl.Task("always dode", PAIRS[:40], PAIRS[40:], TEMPLATE, "exact_match")
FAST = LoraConfig(
    learning_rate=0.03, batch_size=4, max_epochs=12, n_train=24, n_dev=8, threshold=0.0
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A tiny Llama with ordinary weights, so that one layer can turn its answers."""
    model = tiny.ARCHITECTURES["llama"]
    torch.manual_seed(0)
    return tiny.save(model().eval(), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def result(directory, tmp_path_factory):
    output = tmp_path_factory.mktemp("adapters")
    return lora_by_layer(
        directory, TASK, output, FAST, seeds=(0, 1), n_queries=6, max_new_tokens=4, device="cpu"
    ), output


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_output_projections_are_found(architecture):
    found = output_projections(tiny.build(architecture))
    assert len(found) == 3 and found[1] == PROJECTIONS[architecture]
    assert len(set(found)) == 3


def test_eos_is_asked_for_even_where_it_is_the_padding():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    pairs = [icl.Example("sort", "dode"), icl.Example("sort thin zero", "dode zimo")]
    eos = tokenizer.eos_token_id
    for loss in ("target", "sequence"):
        rows = encode(tokenizer, TEMPLATE.without_instruction(), pairs, loss)
        batch = pad(rows, eos)
        for i, (tokens, labels) in enumerate(rows):
            assert tokens[-1] == labels[-1] == eos and eos not in tokens[:-1]
            text = tokenizer.decode(tokens[:-1], skip_special_tokens=True)
            assert text.split() == f"Q: {pairs[i].source} A: {pairs[i].target}".split()
            asked = tokenizer.decode([t for t in labels[:-1] if t != IGNORED])
            assert (asked == pairs[i].target) == (loss == "target")
            assert (batch.labels[i, len(tokens) :] == IGNORED).all()
            assert int(batch.real[i].sum()) == len(tokens)


def test_layers_learn_what_is_asked(result):
    found, _ = result
    assert found.layers == (0, 1, 2) and found.seeds == (0, 1)
    assert found.untuned == 0.0 and (found.scores[:2] == 1.0).all()
    assert (found.scores[2] < 1.0).all(), "after the last layer's attention little can be turned"
    assert (found.dev_losses < math.log(tiny.VOCABULARY) - 0.4).all(), "better than by chance"
    assert (found.n_epochs <= 12).all()
    low, high = found.interval()
    assert (low[:2] == 1.0).all() and low[2] < 1.0 and (low <= high).all()
    assert len(found.to_dataframe()) == 6


def test_adapters_are_pefts_own_and_touch_one_layer(result, directory):
    _, output = result
    base = AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.randint(3, 60, (1, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = base(tokens, output_hidden_states=True).hidden_states
        tuned = PeftModel.from_pretrained(base, output / "seed_1" / "layer_1").eval()
        layers = tuned(tokens, output_hidden_states=True).hidden_states
    assert torch.equal(plain[1], layers[1]), "the layer below"
    assert not torch.allclose(plain[2], layers[2], atol=1e-3)
    names = [name for name, _ in tuned.named_parameters() if "lora" in name]
    assert len(names) == 2 and all("layers.1.self_attn.o_proj" in name for name in names)
    config = json.loads((output / "seed_1" / "layer_1" / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.05)


def test_training_is_deterministic_and_resumes_after_a_kill(
    result, directory, tmp_path, monkeypatch
):
    found, _ = result
    options = {"seeds": (0,), "layers": (2,), "n_queries": 6, "max_new_tokens": 4, "device": "cpu"}
    from icl_locate.lora import train

    count, run = [], train.dev_loss

    def die(*args):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train, "dev_loss", die)
        with pytest.raises(KeyboardInterrupt):
            lora_by_layer(directory, TASK, tmp_path, FAST, **options)
    state = torch.random.get_rng_state()
    resumed = lora_by_layer(directory, TASK, tmp_path, FAST, **options)
    assert torch.equal(state, torch.random.get_rng_state()), "nothing is seeded globally"
    assert resumed.dev_losses[0, 0] == found.dev_losses[2, 0], "bit for bit"
    assert torch.equal(resumed.statistics[0, 0], found.statistics[2, 0])
    again = lora_by_layer(directory, TASK, tmp_path, FAST, **options)
    assert again.dev_losses[0, 0] == resumed.dev_losses[0, 0], "a finished one is read"
    with pytest.raises(ResultError, match="belongs to another training .other alpha"):
        lora_by_layer(directory, TASK, tmp_path, replace(FAST, alpha=16), **options)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(
    result, directory, tmp_path, monkeypatch
):
    found, _ = result
    options = {"seeds": (0,), "layers": (2,), "n_queries": 6, "max_new_tokens": 4, "device": "cpu"}
    from pathlib import Path

    run, count = Path.replace, []

    def die(self, target):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return run(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            lora_by_layer(directory, TASK, tmp_path, FAST, **options)
    resumed = lora_by_layer(directory, TASK, tmp_path, FAST, **options)
    assert resumed.dev_losses[0, 0] == found.dev_losses[2, 0]
    for other in ({"dtype": "bfloat16"}, {"model": save_other(tmp_path)}):
        given = {"model": directory} | other
        with pytest.raises(ResultError, match="belongs to another training .other model and pairs"):
            lora_by_layer(given.pop("model"), TASK, tmp_path, FAST, **options, **given)


def save_other(path):
    """The same model with other weights."""
    torch.manual_seed(1)
    return tiny.save(tiny.ARCHITECTURES["llama"]().eval(), path / "other")


def test_a_loss_that_is_no_number(directory, tmp_path):
    config = replace(FAST, learning_rate=1e30, max_epochs=3)
    with pytest.raises(NumericalError, match="the loss"):
        lora_by_layer(
            directory, TASK, tmp_path, config, layers=[1], seeds=0, n_queries=2, device="cpu"
        )


def test_answers_are_greedy_whatever_the_generation_config_says(directory, tmp_path):
    options = {"layers": [0], "seeds": 0, "n_queries": 4, "max_new_tokens": 6, "device": "cpu"}
    config, task = replace(FAST, max_epochs=1), replace(TASK, metric="chrf")
    plain = lora_by_layer(directory, task, tmp_path / "a", config, **options)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.generation_config.repetition_penalty = 5.0
    penal = tiny.save(model, tmp_path / "penal")
    other = lora_by_layer(penal, task, tmp_path / "b", config, **options)
    assert torch.equal(plain.statistics, other.statistics) and plain.untuned == other.untuned


def test_queries_are_not_learnt(directory, monkeypatch):
    """A file without splits, whose records are queries and examples."""
    base, tokenizer = load_base(directory, "cpu", torch.float32, None)
    learnt = []
    monkeypatch.setattr(
        "icl_locate.lora.adapters.encode", lambda *given: learnt.extend(given[2]) or []
    )
    task = replace(TASK, train=PAIRS[:40], test=PAIRS[:40])
    setting = Setting.of(task, n_queries=8, n_shots=0)
    Teacher(setting, FAST, base, tokenizer)
    assert learnt == list(PAIRS[8:40]) and not {*learnt} & {*setting.queries}
    with pytest.raises(TaskError, match="only 30 pairs to learn from that are not among the 10"):
        prepare(task, FAST, n_queries=10)


def test_a_prompt_that_does_not_fit(directory, tmp_path):
    with pytest.raises(PromptError, match="with 300 new ones exceeds the model's context of 256"):
        lora_by_layer(
            directory, TASK, tmp_path, FAST, max_new_tokens=300, device="cpu", n_queries=2
        )


def test_an_eos_behind_every_text_is_no_part_of_a_prompt():
    closing, plain = build_tokenizer(), build_tokenizer()
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert closing("sort")["input_ids"][-1] == closing.eos_token_id == 2
    template = TEMPLATE.without_instruction()
    for tokenizer in (closing, plain):
        found = tokenize_prompt(tokenizer, template, "sort").tokens
        assert found == plain("Q:sortA:")["input_ids"] and 2 not in found


def test_early_stopping(directory, tmp_path):
    config = replace(FAST, learning_rate=1e-12, max_epochs=9, patience=2, threshold=0.01)
    found = lora_by_layer(
        directory, TASK, tmp_path, config, layers=[0], seeds=3, n_queries=2, max_new_tokens=2,
        device="cpu",
    )  # fmt: skip
    assert found.n_epochs.tolist() == [[3]] and found.scores.tolist() == [[0.0]]


def test_presets_are_the_published_recipes():
    later, first = PRESETS["sia2024"], PRESETS["sia2024-v1"]
    assert (later.rank, later.alpha, later.dropout, later.threshold) == (8, 32, 0.05, 0.01)
    assert (first.rank, first.alpha, first.dropout, first.threshold) == (32, 32, 0.1, 0.001)
    for preset in (later, first):
        assert (preset.learning_rate, preset.batch_size) == (1e-4, 32)
        assert (preset.max_epochs, preset.patience) == (50, 5)


def test_one_query_has_no_interval():
    from test_locate import result_of

    tuned = made_up([0.9, 0.7, 0.4, 0.1], n_items=1)
    assert tuned.interval().isnan().all()
    rho, low, high = tuned.rank_correlation(result_of([[0.0, 0.2, 0.5, 0.9, 1.0]]))
    assert rho == -1.0 and np.isnan(low) and np.isnan(high)


def made_up(curve, n_seeds=2, n_items=12):
    values = np.tile(np.array(curve)[:, None, None], (1, n_seeds, n_items))
    statistics = np.stack([values, np.ones_like(values)], axis=-1)
    return LoraResult(
        layers=tuple(range(len(curve))), seeds=tuple(range(n_seeds)),
        statistics=torch.from_numpy(statistics), scores=torch.from_numpy(values.mean(-1)),
        dev_losses=torch.zeros(len(curve), n_seeds),
        n_epochs=torch.ones(len(curve), n_seeds, dtype=torch.long), untuned=0.0,
        metric="exact_match", provenance={},
    )  # fmt: skip


def test_rank_correlation_with_a_masking_curve(tmp_path):
    from test_locate import result_of

    rising = result_of([[0.0, 0.2, 0.5, 0.9, 1.0]])
    falling = made_up([0.9, 0.7, 0.4, 0.1])
    assert falling.rank_correlation(rising) == (-1.0, -1.0, -1.0)
    assert made_up([0.1, 0.2, 0.3, 0.9]).rank_correlation(rising)[0] == 1.0
    noisy = result_of([[0.0, 0.2, 0.5, 0.9, 1.0]], noise=0.5)
    rho, low, high = falling.rank_correlation(noisy)
    assert low <= rho <= high and low < high
    assert falling.rank_correlation(noisy) == (rho, low, high), "drawn with the same seed"
    assert falling.rank_correlation(noisy, seed=2**32 - 1)[0] == rho, "the last seed is one"
    narrow = falling.rank_correlation(noisy, confidence=0.2)
    assert low <= narrow[1] <= narrow[2] < high, "few curves keep their order less well"
    ranks = np.random.default_rng(0).permuted(np.tile(np.arange(9), (50, 2, 1)), axis=-1)
    for a, b in ranks:
        formula = 1 - 6 * ((a - b) ** 2).sum() / (9 * 80)
        assert spearman(a, b) == pytest.approx(formula)
    with pytest.raises(ResultError, match="expected 'mine'"):
        falling.rank_correlation(rising, "mine")
    again = LoraResult.load(falling.save(tmp_path / "lora"))
    assert torch.equal(again.scores, falling.scores) and again.layers == falling.layers
    figure = plots.lora_curves(falling, rising)
    assert "rank correlation -1.00" in figure.layout.title.text
    assert next(t.name for t in figure.data if t.mode == "lines+markers").startswith("tuned at")


def test_bad_arguments(directory, tmp_path):
    for options, error, message in (
        ({"config": "sia2025"}, TaskError, "config is 'sia2025'"),
        ({"config": replace(FAST, n_train=50)}, TaskError, "has only 40 pairs"),
        ({"n_queries": 99}, TaskError, "n_queries is 99, .*: expected 1 to 24"),
        ({"seeds": ()}, TaskError, r"seeds is \(\)"),
        ({"metric": "log_prob"}, TaskError, "reads no answers"),
        ({"layers": [3]}, ModelError, r"layers\[0\] is 3: expected a whole number from 0 to 2"),
        ({"model": tmp_path / "none"}, ModelError, "there is no model directory"),
    ):
        given = {"model": directory, "config": FAST, "n_queries": 2, "device": "cpu"} | options
        with pytest.raises(error, match=message):
            lora_by_layer(given.pop("model"), TASK, tmp_path / "out", given.pop("config"), **given)
    for options, message in (
        ({"rank": 0}, "rank is 0"),
        ({"loss": "all"}, "loss is 'all'"),
        ({"dropout": 1.0}, "dropout is 1.0: expected a number at least 0 and below 1"),
    ):
        with pytest.raises(TaskError, match=message):
            LoraConfig(**options)


def test_the_command(directory, tmp_path, capsys):
    lines = [f'{{"source": "{e.source}", "target": "{e.target}"}}' for e in PAIRS]
    task = tmp_path / "dode.jsonl"
    task.write_text("\n".join(lines), "utf-8")
    model = icl.load_model(directory, device="cpu")
    swept = icl.sweep(model, TASK, conditions="examples", n_shots=2, n_queries=3, seeds=0)
    curve = swept.save(tmp_path / "swept")
    output = tmp_path / "found"
    command = (
        f"lora {task} --model {directory} --output {output} --n-train 60 --max-epochs 1 --seeds 0 "
        f"--n-queries 3 --max-new-tokens 2 --sweep {curve} --quiet --device cpu"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "tuned layer" in printed and "rank correlation with the masking curve" in printed
    assert LoraResult.load(output / "lora").provenance["config"]["n_dev"] == 1, "of 64, 3 are asked"
    assert (output / "seed_0" / "layer_2" / "adapter_model.safetensors").is_file()
    assert main(f"{command} --n-train 64".split()) == 2
    assert "has only 61 pairs" in capsys.readouterr().err
