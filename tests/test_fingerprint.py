"""Fingerprints: of all weights, as they are now, and in every recipe."""

import pickle
from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import icl_locate as icl
from icl_locate import induction
from icl_locate.context_heads import HeadStudy
from icl_locate.context_heads.result import HeadSweepResult
from icl_locate.errors import MaskError
from icl_locate.metrics import LOG_PROB
from icl_locate.models import fingerprint as module
from icl_locate.models.fingerprint import fingerprint, hold_weights, weights_digest
from icl_locate.savings import measure_savings

TASK = replace(icl.load_task("pseudo-translation"), metric="log_prob")
OPTIONS = {"n_shots": 1, "n_queries": 2, "seeds": 0}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool]


def of(**tensors):
    """A module with such weights; those of whole numbers are buffers."""
    found = nn.Module()
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            found.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        else:
            found.register_buffer(name, tensor)
    return found


def random_tensor(shape, dtype, seed=0):
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * 50).to(dtype) if not dtype.is_floating_point else drawn.to(dtype)


@given(
    st.sampled_from(DTYPES), st.integers(1, 200), st.data(),
)  # fmt: skip
def test_one_changed_number_is_noticed(dtype, size, data):
    weights = of(a=random_tensor((size,), dtype), b=random_tensor((3,), dtype))
    before = weights_digest(weights)
    place = data.draw(st.integers(0, size - 1))
    bits = weights.a.view(torch.int8)
    bit = data.draw(st.integers(0, 7)) if dtype != torch.bool else 0
    step = len(bits) // size
    bits[place * step + data.draw(st.integers(0, step - 1))] ^= torch.tensor(
        (1 << bit) - 256 * (bit == 7), dtype=torch.int8
    )
    assert weights_digest(weights) != before


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.mul_(0.5),
        lambda w: w.neg_(),
        lambda w: w.copy_(w.flip(0)),
        lambda w: w.copy_(w.T.contiguous()),
        lambda w: w[0].copy_(w[1]),
        lambda w: w[:2].copy_(w[:2].flip(0).clone()),
        lambda w: w[-1, -1:].add_(1.0),
        lambda w: w.zero_(),
    ],
)
def test_changes_of_many_are_noticed(dtype, change):
    """Sums of bits alone would miss the second, third and fourth."""
    weights = of(a=random_tensor((300, 300), dtype))
    before = weights_digest(weights)
    change(weights.a)
    assert weights_digest(weights) != before


def test_swapped_tensors_names_shapes_and_types_are_noticed():
    a, b = random_tensor((4, 6), torch.float32, 0), random_tensor((4, 6), torch.float32, 1)
    ways = [
        of(a=a, b=b), of(a=b, b=a), of(a=a, c=b), of(a=a.view(6, 4), b=b), of(a=a), of(),
        of(a=a, b=b.view(torch.int32)), of(a=a, b=b, c=torch.zeros(0)),
    ]  # fmt: skip
    assert len({weights_digest(way) for way in ways}) == len(ways)


@given(st.sampled_from(DTYPES), st.integers(1, 40), st.integers(0, 3))
def test_how_numbers_lie_in_memory_does_not_matter(dtype, size, offset):
    whole = random_tensor((size + offset, 4), dtype)
    kept = whole[offset:]
    spread = kept.T.contiguous().T
    expected = weights_digest(of(a=kept.clone()))
    assert weights_digest(of(a=kept)) == expected
    assert weights_digest(of(a=spread)) == expected


def test_sizes_around_the_blocks(monkeypatch):
    """Numbers that are summed together, or in parts, give the same."""
    block = module._BLOCK
    for n in (block - 1, block, block + 1, 5 * block + 7):
        weights = of(a=random_tensor((n,), torch.float32))
        found = set()
        for at_once in (block, 2 * block, 8 * block):
            monkeypatch.setattr(module, "_AT_ONCE", {"cpu": at_once})
            found.add(weights_digest(weights))
        assert len(found) == 1
        weights.a[-1] += 1
        assert weights_digest(weights) not in found


def test_it_is_current_but_in_loops():
    model = tiny.boot_fresh("llama")
    before = fingerprint(model)
    with hold_weights(model), hold_weights(model):
        assert fingerprint(model) == before
        halve(model)
        assert fingerprint(model) == before
    assert fingerprint(model) != before


def halve(model):
    with torch.no_grad():
        for weights in model.original_model.parameters():
            weights.data.mul_(0.5)


def test_a_reference_of_weights_that_changed_since_is_refused():
    model = tiny.boot_fresh("llama")
    reference = induction.head_reference(model, n_texts=2, length=8)
    prompts = icl.build_prompts(model, TASK.test[:1], examples=TASK.train, n_shots=1)
    act = induction.HeadAblation({(0, 1)}, "mean_z", reference)
    with induction.ablate_heads(model, act):
        pass
    weight = model.original_model.model.layers[2].mlp.down_proj.weight
    weight.data[-1, -1] += 1e-3
    for use in (
        lambda: induction.ablate_heads(model, act).__enter__(),
        lambda: icl.score_targets(model, prompts, act),
        lambda: icl.generate(model, prompts, act, max_new_tokens=1),
        lambda: induction.head_effects(
            model, prompts, {(0, 1)}, method="mean_z", reference=reference
        ),
    ):
        with pytest.raises(MaskError, match="measured on another model"):
            use()
    weight.data[-1, -1] -= 1e-3


def recipes(model):
    """The recipe of everything that measures a model."""
    prompts = icl.build_prompts(model, TASK.test[:2], examples=TASK.train, n_shots=1)
    study = induction.ablation_study(
        model, TASK, {(0, 0)}, 0, shots=1, seeds=0, n_queries=2, interventions=("mean_z",)
    )
    return {
        "sweep": icl.sweep(model, TASK, conditions="examples", **OPTIONS).provenance,
        "heads": HeadStudy(model, TASK, **OPTIONS).sweep().provenance,
        "scores": induction.head_scores(model, lengths=(5, 3), n_sequences=1).provenance,
        "effects": induction.head_effects(model, prompts, {(0, 0)}).provenance,
        "study": study.provenance,
        "reference": study.provenance["reference"],
        "savings": measure_savings(
            model, replace(TASK, metric="chrf"), [1], n_shots=1, n_queries=1, repeats=1,
            max_new_tokens=2,
        ).provenance,
    }  # fmt: skip


def test_every_recipe_says_whose_weights_it_measured():
    """Halve all weights, and measure again: the fingerprint says so."""
    model = tiny.boot_fresh("llama")
    before = recipes(model)
    halve(model)
    after = recipes(model)
    for name, recipe in before.items():
        assert recipe["fingerprint"] != after[name]["fingerprint"], name
        assert {"model", "revision", "dtype", "vocabulary_sha256", "versions"} <= set(recipe), name
    for name in ("sweep", "heads", "effects", "study", "savings"):
        assert len(before[name]["prompts_sha256"]) == 64 and before[name]["template"], name
    seeds = {name: {"seed", "seeds"} & set(recipe) for name, recipe in before.items()}
    assert all(found for name, found in seeds.items() if name != "reference"), seeds


@pytest.mark.parametrize("engine", ["hooks", "shared"])
def test_a_copy_of_a_metric_is_that_metric(engine):
    """A metric that went through another process is no longer the same object."""
    model = tiny.boot("llama")
    copy = pickle.loads(pickle.dumps(LOG_PROB))  # noqa: S301
    assert copy is not LOG_PROB
    options = OPTIONS | {"conditions": "examples", "engine": engine}
    plain = icl.sweep(model, TASK, metric="log_prob", **options)
    other = icl.sweep(model, TASK, metric=copy, **options)
    assert torch.equal(plain.scores, other.scores) and other.custom_metric is None


def first_letter(answer, target):
    return float(answer[:1] == target[:1])


def test_a_custom_mean_keeps_its_interval_on_disk(tmp_path):
    model = tiny.boot("llama")
    options = OPTIONS | {"metric": first_letter, "max_new_tokens": 2, "n_queries": 3}
    found = HeadStudy(model, TASK, **options).sweep()
    again = HeadSweepResult.load(found.save(tmp_path / "heads"))
    assert torch.equal(again.interval(), found.interval())
    assert again.to_dataframe().equals(found.to_dataframe())
