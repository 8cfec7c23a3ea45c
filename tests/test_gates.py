"""L0 gates: the distribution, what they find on a planted model, determinism, resuming."""

import math
from dataclasses import replace

import planted_induction as planted
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate import induction, plots
from icl_locate.cli import main
from icl_locate.errors import ModelError, NumericalError, ResultError, TaskError
from icl_locate.gates import GateConfig, GatesResult, train_gates
from icl_locate.gates.hard_concrete import open_chance, sample_gates, settled_gates
from icl_locate.hooks import scale_heads

FAST = GateConfig(learning_rate=0.05, max_epochs=100, batch_size=5, penalty=0.05, patience=20)
FIRM = replace(FAST, penalty=0.1)
"""Closes what does a little, too."""
OPTIONS = {"n_shots": 4, "n_train": 20, "n_dev": 20, "n_queries": 12}


@pytest.fixture(scope="module")
def circuit():
    return planted.boot()


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """The circuit with idle heads of which none helps, the same in all versions of libraries."""
    model = planted.build()
    generator = torch.Generator().manual_seed(4)
    for layer, head in sorted({(i, j) for i in range(2) for j in range(4)} - planted.PLANTED):
        for what in "qkv":
            columns = planted.columns((layer, head), what)
            model.transformer.h[layer].attn.c_attn.weight.data[:, columns].normal_(
                std=0.02, generator=generator
            )
        rows = planted.columns((layer, head), "q")
        model.transformer.h[layer].attn.c_proj.weight.data[rows].normal_(
            std=0.02, generator=generator
        )
    directory = tmp_path_factory.mktemp("redrawn")
    model.save_pretrained(directory)
    planted.tokenizer().save_pretrained(directory)
    return icl.load_model(directory, device="cpu")


@given(st.floats(-6, 6), st.floats(0.001, 0.999))
def test_gates_are_the_published_distribution(alpha, uniform):
    """Louizos et al. (2018), equations 10 to 12, in plain numbers."""

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    noise = math.log(uniform) - math.log(1 - uniform)
    drawn = min(1, max(0, sigmoid((noise + alpha) / (2 / 3)) * 1.2 - 0.1))
    settled = min(1, max(0, sigmoid(alpha) * 1.2 - 0.1))
    chance = sigmoid(alpha - 2 / 3 * math.log(0.1 / 1.1))
    a, u = torch.tensor([[alpha]]), torch.tensor([[uniform]])
    assert float(sample_gates(a, u)) == pytest.approx(drawn, abs=1e-5)
    assert float(settled_gates(a)) == pytest.approx(settled, abs=1e-5)
    assert float(open_chance(a)) == pytest.approx(chance, abs=1e-5)


def test_the_chance_to_be_open_is_what_is_drawn():
    alpha = torch.linspace(-3, 3, 7)[None]
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [sample_gates(alpha, torch.rand(1, 7, generator=generator)) for _ in range(20_000)]
    )
    assert torch.allclose((draws > 0).float().mean(0), open_chance(alpha), atol=0.01)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_gates_scale_heads_and_take_gradients(architecture):
    model = tiny.boot(architecture)
    tokens = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(tokens)
    gates = torch.ones(3, 4, requires_grad=True)
    with scale_heads(model, gates):
        logits = model(tokens, attention_mask=real)
    assert torch.allclose(logits, model(tokens, attention_mask=real), atol=1e-5)
    logits.logsumexp(-1).sum().backward()
    assert (gates.grad != 0).all()
    closed = torch.ones(3, 4)
    closed[1, 2] = 0
    with torch.no_grad():
        with scale_heads(model, closed):
            scaled = model(tokens, attention_mask=real)
        with induction.ablate_heads(model, {(1, 2)}):
            ablated = model(tokens, attention_mask=real)
    assert torch.allclose(scaled, ablated, atol=1e-5)
    model.original_model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_pruning_leaves_what_is_needed(redrawn, seed):
    found = train_gates(redrawn, planted.TASK, replace(FIRM, seed=seed), **OPTIONS)
    assert found.open == planted.CIRCUIT == found.needed
    assert found.can_go == found.closed and len(found.closed) == 6
    assert found.whole == found.pruned == 1.0
    assert found.curve[:7].tolist() == [1.0] * 7 and found.curve[7] < 0.6
    assert set(found.order[-2:]) == planted.CIRCUIT


@pytest.mark.parametrize("seed", [0, 1])
def test_breaking_closes_what_is_needed(circuit, seed):
    config = replace(FAST, objective="break", seed=seed, start=0.0)
    found = train_gates(circuit, planted.TASK, config, **OPTIONS)
    assert found.closed and found.closed <= planted.CIRCUIT, "one of the two is enough"
    assert found.needed == found.closed and found.can_go == found.open
    assert found.whole == 1.0 and found.pruned < 0.6


def test_without_context_there_is_nothing_to_keep(circuit):
    found = train_gates(circuit, planted.TASK, FAST, **OPTIONS | {"n_shots": 0})
    assert found.whole < 0.6 and found.provenance["n_shots"] == 0
    assert planted.INDUCTION_HEAD in found.closed


def test_training_is_deterministic_and_resumes(circuit, tmp_path, monkeypatch):
    config = replace(FAST, max_epochs=6)
    options = OPTIONS | {"n_curve": 1}
    whole = train_gates(circuit, planted.TASK, config, **options)
    again = train_gates(circuit, planted.TASK, config, **options)
    assert torch.equal(whole.alpha, again.alpha)
    other = train_gates(circuit, planted.TASK, replace(config, seed=5), **options)
    assert not torch.equal(whole.alpha, other.alpha)

    path = tmp_path / "gates_0.05"  # a dot in a name is no suffix
    from icl_locate.gates import train

    count = []

    def die(*args, **kwargs):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    run = train._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(train, "_train_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            train_gates(circuit, planted.TASK, config, checkpoint=path, **options)
    resumed = train_gates(circuit, planted.TASK, config, checkpoint=path, **options)
    assert torch.equal(resumed.alpha, whole.alpha)
    assert resumed.provenance["dev_objectives"] == whole.provenance["dev_objectives"]
    with pytest.raises(ResultError, match="belongs to another training .other penalty"):
        train_gates(circuit, planted.TASK, replace(config, penalty=0.1), checkpoint=path, **options)


def test_the_model_is_left_as_it_was():
    model = tiny.boot_fresh("llama")
    weights = {name: w.clone() for name, w in model.original_model.named_parameters()}
    bank = tuple(
        icl.Example(f"sort {word}", "dode") for word in ("thin", "zero", "one", "double", "six")
    )
    task = icl.Task("words", bank, bank, icl.PromptTemplate(), "log_prob")
    config = replace(FAST, max_epochs=2)
    options = {"n_shots": 1, "n_train": 2, "n_dev": 1, "n_queries": 2, "n_curve": 1}
    train_gates(model, task, config, **options)
    for name, w in model.original_model.named_parameters():
        assert torch.equal(w, weights[name]) and w.requires_grad and w.grad is None
    with torch.no_grad():
        model.original_model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="the loss is nan in epoch 0"):
        train_gates(model, task, config, **options)
    assert all(w.requires_grad for w in model.original_model.parameters()), "after an error too"


def test_early_stopping(circuit):
    config = replace(FAST, learning_rate=1e-9, patience=3)
    found = train_gates(circuit, planted.TASK, config, **OPTIONS | {"n_curve": 0})
    assert found.n_epochs == 4, "the first epoch is the best, and three more do not better it"


def test_results_are_saved_and_loaded(circuit, tmp_path):
    config = replace(FAST, max_epochs=2)
    found = train_gates(circuit, planted.TASK, config, **OPTIONS | {"n_curve": 2})
    again = GatesResult.load(found.save(tmp_path / "gates"))
    assert torch.equal(again.alpha, found.alpha) and again.open == found.open
    assert again.curve.tolist() == found.curve.tolist() and len(again.curve) == 3
    assert len(found.to_dataframe()) == 8


def test_a_model_in_training_mode_is_refused(circuit):
    circuit.train()
    try:
        with pytest.raises(ModelError, match="call model.eval"):
            train_gates(circuit, planted.TASK, FAST, **OPTIONS)
    finally:
        circuit.eval()


def test_bad_arguments(circuit):
    for options, message in (
        ({"objective": "close"}, "objective is 'close': expected one of 'prune', 'break'"),
        ({"penalty": 0.0}, "penalty is 0.0"),
        ({"patience": 0}, "patience is 0"),
    ):
        with pytest.raises(TaskError, match=message):
            GateConfig(**options)
    for options, message in (
        ({"n_train": 30, "n_dev": 20}, "together at most the 40 examples"),
        ({"n_queries": 41}, "n_queries is 41, .*: expected 1 to 40"),
    ):
        with pytest.raises(TaskError, match=message):
            train_gates(circuit, planted.TASK, FAST, **OPTIONS | options)


def test_figures_and_the_command(circuit, tmp_path, capsys):
    config = replace(FAST, max_epochs=2)
    found = train_gates(circuit, planted.TASK, config, **OPTIONS | {"n_curve": 2})
    curve = plots.pruning_curve(found)
    assert curve.data[0].y == tuple(found.curve.tolist()) and "head" in curve.data[0].customdata[1]
    assert len(plots.gate_map(found).layout.shapes) == len(found.needed)

    directory = planted.save(tmp_path / "model")
    task = planted.write_task(tmp_path / "recall.jsonl")
    output = tmp_path / "found"
    command = (
        f"gates {task} --model {directory} --output {output} --metric label_accuracy --n-shots 4 "
        "--n-train 10 --n-dev 5 --n-queries 5 --max-epochs 1 --n-curve 1 --quiet --device cpu"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "needed: " in printed and "can go: " in printed and "label_accuracy: " in printed
    for name in ("gates.safetensors", "gates.csv", "checkpoint.safetensors"):
        assert (output / name).is_file()
    for wrong, message in (
        (f"{command} --penalty -1", "penalty is -1"),
        (f"{command} --seed 2", "a result of another recipe (other seed)"),
    ):
        assert main(wrong.split()) == 2
        assert message in capsys.readouterr().err


def test_gates_that_stopped_at_their_limit_say_so():
    recipe = {"max_epochs": 12, "patience": 10}
    opened, mixed = torch.full((2, 3), 3.0), torch.tensor([[3.0, 3.0, -9.0]] * 2)

    def result(alpha, n_epochs):
        return GatesResult("prune", alpha, n_epochs, 1.0, 1.0, torch.ones(7), "log_prob", recipe)

    limit, nothing = result(opened, 12).doubts
    assert "ended at its limit of 12 epochs" in limit and "no gate closed in 12 epochs" in nothing
    assert result(mixed, 12).doubts == (limit,) and not result(mixed, 11).doubts
    assert limit.split()[0] in plots.pruning_curve(result(mixed, 12)).layout.annotations[-1].text
