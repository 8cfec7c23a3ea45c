"""In-context vectors, against numpy's SVD and a loop over plain models."""

import math
from dataclasses import replace

import numpy as np
import oracle_vectors
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_function_vector import BUILDS, loaded, rows_of

import icl_locate as icl
from icl_locate import vectors
from icl_locate.errors import MaskError, NumericalError, ResultError, TaskError
from icl_locate.studies import Setting
from icl_locate.vectors.pairs import principal_direction

TASK = icl.load_task("pseudo-translation")
PAIRS = TASK.train[:6]


def by_numpy(differences: np.ndarray) -> np.ndarray:
    """Mean plus first principal direction, from the covariance's eigenvectors."""
    mean = differences.mean(axis=0)
    _, found = np.linalg.eigh((differences - mean).T @ (differences - mean))
    first = found[:, -1]
    return mean + first * np.sign(first @ mean)


@given(st.integers(2, 6), st.integers(2, 9), st.integers(0, 99))
def test_the_direction_is_the_first_principal_one_with_the_means_sign(n_pairs, width, seed):
    drawn = np.random.default_rng(seed).normal(0.3, 1.0, (n_pairs, width))
    mean, direction, explained = principal_direction(torch.from_numpy(drawn))
    np.testing.assert_allclose((mean + direction).numpy(), by_numpy(drawn), rtol=1e-5, atol=1e-7)
    assert math.isclose(direction.norm(), 1.0) and direction @ mean >= 0
    sizes = np.linalg.svd(drawn - drawn.mean(axis=0), compute_uv=False) ** 2
    assert math.isclose(float(explained), sizes[0] / sizes.sum(), rel_tol=1e-6)


def test_differences_that_are_all_the_same_have_their_mean_alone():
    mean, direction, explained = principal_direction(torch.tensor([[1.0, 2.0]] * 3))
    assert mean.tolist() == [1.0, 2.0] and direction.tolist() == [0.0, 0.0] and explained == 0.0


@pytest.mark.parametrize("name", BUILDS)
def test_vectors_and_steering_equal_a_loop_over_the_plain_model(name, tmp_path, monkeypatch):
    model, directory = loaded(name, tmp_path, monkeypatch)
    ours = vectors.in_context_vectors(model, PAIRS, batch_size=2)
    encode = model.tokenizer
    asked = Setting.of(TASK, n_queries=2, n_shots=0).prompts(model, 0, instruction=False)
    theirs = oracle_vectors.ask(
        what="directions", directory=directory, weight=0.3,
        sources=[encode(pair.source)["input_ids"] for pair in PAIRS],
        targets=[encode(pair.target)["input_ids"] for pair in PAIRS],
        steered={"vectors": ours.vectors.tolist(), "rows": rows_of(asked)},
    )  # fmt: skip
    source, target = (np.array(theirs[which]).reshape(6, -1) for which in ("sources", "targets"))
    expected = by_numpy(target - source).reshape(ours.vectors.shape)
    np.testing.assert_allclose(ours.vectors.numpy(), expected, rtol=1e-3, atol=1e-4)
    probabilities = torch.tensor(theirs["steered"])
    one = replace(asked, target_tokens=[[token] for token in probabilities.argmax(-1).tolist()])
    found = icl.score_targets(model, one, ours.edit(0.3)).exp()
    torch.testing.assert_close(found, probabilities.max(-1).values, rtol=1e-4, atol=1e-6)
    clean = icl.score_targets(model, one).exp()
    assert (clean - found).abs().max() > 1e-4
    torch.testing.assert_close(icl.score_targets(model, one, ours.edit(0.0)).exp(), clean)


def test_an_edit_steers_every_layer_and_what_follows():
    model = tiny.boot("llama")
    found = vectors.in_context_vectors(model, TASK, n_pairs=4)
    parts = found.edit().parts
    assert [part.layer for part in parts] == [0, 1, 2] and all(part.generated for part in parts)
    assert {(part.method, part.point, part.weight) for part in parts} == {("steer", "mlp_out", 0.1)}
    prompts = Setting.of(TASK, n_queries=2, n_shots=1).prompts(model, 0)
    states = {}

    def see(value, hook, at):
        states[at] = value

    def steered(weight):
        with torch.no_grad(), icl.intervene(model, prompts, found.edit(weight)):
            hooks = [("blocks.0.hook_mlp_out", lambda value, hook: see(value, hook, weight))]
            with model.hooks(fwd_hooks=hooks):
                model(prompts.tokens, attention_mask=prompts.attention_mask.long())
        real = states[weight][prompts.attention_mask]
        return torch.cosine_similarity(real, found.vectors[0][None], dim=-1)

    back, none, ahead = (steered(weight) for weight in (-0.3, 0.0, 0.3))
    assert bool((back < none).all() and (none < ahead).all()), "a negative weight turns away"


def test_weights_are_looked_at_once_for_all_layers(monkeypatch):
    from icl_locate.models import fingerprint

    model, looks = tiny.boot("llama"), []
    found = vectors.in_context_vectors(model, PAIRS)
    digest = fingerprint.weights_digest
    monkeypatch.setattr(
        fingerprint, "weights_digest", lambda inner: looks.append(1) or digest(inner)
    )
    prompts = Setting.of(TASK, n_queries=2, n_shots=1).prompts(model, 0)
    with icl.intervene(model, prompts, found.edit()):
        assert len(looks) == 1


def test_several_vectors_average():
    model = tiny.boot("llama")
    one, other = (vectors.in_context_vectors(model, PAIRS[at : at + 3]) for at in (0, 3))
    both = one.average([other])
    torch.testing.assert_close(both.vectors, (one.vectors + other.vectors) / 2)
    assert len(both.provenance["average_of"]) == 2
    with pytest.raises(ResultError, match="of other weights"):
        one.average([vectors.in_context_vectors(tiny.boot("gpt2"), PAIRS)])
    with pytest.raises(ResultError, match="others is"):
        one.average([])


def test_the_draw_is_seeded_and_shuffled_targets_are_others():
    model = tiny.boot("llama")
    one = vectors.in_context_vectors(model, TASK, n_pairs=3, seed=1)
    again = vectors.in_context_vectors(model, TASK, n_pairs=3, seed=1)
    assert torch.equal(one.vectors, again.vectors) and one.provenance == again.provenance
    for options in ({"seed": 2}, {"seed": 1, "shuffled": True}):
        other = vectors.in_context_vectors(model, TASK, n_pairs=3, **options)
        assert not torch.allclose(one.vectors, other.vectors)
    mean = vectors.in_context_vectors(model, PAIRS)
    assert mean.provenance["n_pairs"] == 6 and 0 < mean.explained <= 1


def test_scores_over_strengths_have_controls_and_files(tmp_path):
    model = tiny.boot("llama")
    one = vectors.in_context_vectors(model, PAIRS)
    control = vectors.in_context_vectors(model, PAIRS, shuffled=True)
    found = one.score(
        model, TASK, (-0.1, 0.1), n_queries=3, n_shots=1, seeds=[0, 1],
        against={"shuffled": control},
    )  # fmt: skip
    assert found.arms == ("vector", "shuffled", "random") and found.strengths == (-0.1, 0.1)
    setting = Setting.of(TASK, metric="log_prob", n_queries=3, n_shots=1)
    bare = replace(setting, n_shots=0).prompts(model, 0, instruction=False)
    scored = icl.score_targets(model, bare, one.edit(0.1)).double().mean()
    assert math.isclose(float(found.scores[0, 1, 0]), float(scored), rel_tol=1e-5)
    assert math.isclose(
        float(found.floor[0]), float(icl.score_targets(model, bare).mean()), rel_tol=1e-5
    )
    clean = setting.prompts(model, 0, instruction=False)
    assert math.isclose(
        float(found.ceiling[0]), float(icl.score_targets(model, clean).mean()), rel_tol=1e-5
    )
    assert not torch.equal(found.scores[2, :, 0], found.scores[2, :, 1]), "random by seed"
    frame = found.to_dataframe()
    assert len(frame) == 6 and {"arm", "strength", "score", "gain_low"} <= {*frame.columns}
    for value in (one, found):
        again = type(value).load(value.save(tmp_path / type(value).__name__))
        assert repr(again) == repr(value)
        for name in type(value)._tensors:
            assert torch.equal(getattr(again, name), getattr(value, name))


def test_what_does_not_fit_is_refused():
    model = tiny.boot("llama")
    one = vectors.in_context_vectors(model, PAIRS)
    for examples, options in ((PAIRS[:1], {}), (PAIRS, {"n_pairs": 7}), ([], {})):
        with pytest.raises(TaskError, match="n_pairs"):
            vectors.in_context_vectors(model, examples, **options)
    with pytest.raises(MaskError, match="another model"):
        one.score(tiny.boot("gpt2"), TASK, n_queries=2)
    prompts = Setting.of(TASK, n_queries=2, n_shots=1).prompts(tiny.boot("qwen2"), 0)
    with pytest.raises(MaskError, match="another model"):
        icl.score_targets(tiny.boot("qwen2"), prompts, one.edit())
    for strengths in ([0.1, 0.1], [], math.nan):
        with pytest.raises(MaskError, match="strengths"):
            one.score(model, TASK, strengths)
    with pytest.raises(ResultError, match="holds NaN"):
        replace(one, means=one.means * math.nan)
    broken = tiny.boot_fresh("llama")
    with torch.no_grad():
        broken.original_model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        vectors.in_context_vectors(broken, PAIRS)
