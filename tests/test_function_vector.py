"""Indirect effects of heads and function vectors, against loops, a planted one and laws."""

import math
from dataclasses import replace

import numpy as np
import oracle_vectors
import planted_vector as planted
import pytest
import tiny
import torch
import transformers as hf
from test_projection import latent_heads

import icl_locate as icl
from icl_locate import vectors
from icl_locate.errors import MaskError, NumericalError, ResultError, TaskError
from icl_locate.studies import Setting
from icl_locate.vectors import effects as module
from icl_locate.vectors.controls import shuffled_prompts

SIZES = {"n_prompts": 8, "n_mean": 20}


@pytest.fixture(scope="module")
def found():
    return vectors.head_indirect_effects(planted.boot(), planted.task("same"), **SIZES)


def vector_of(name: str = "same", **options) -> vectors.FunctionVector:
    asked = {"n_heads": 1, **SIZES, **options}
    return vectors.function_vector(planted.boot(), planted.task(name), **asked)


def test_the_planted_head_is_found_first_and_gives_back_what_shuffled_labels_took(found):
    assert found.effects.shape == (3, 5) and found.best(1).heads == (planted.TASK_HEAD,)
    gap = float(found.ceiling - found.floor)
    assert gap > 0.9 and math.isclose(float(found.effects[planted.TASK_HEAD]), gap, rel_tol=0.01)
    silent = torch.ones(3, 5, dtype=torch.bool)
    silent[planted.TASK_HEAD] = silent[planted.PREVIOUS_HEAD] = False
    assert found.effects[silent].abs().max() < 1e-6, "nothing else writes"
    low, high = found.interval()
    assert bool((low <= found.effects + 1e-9).all() and (found.effects <= high + 1e-9).all())
    frame = found.to_dataframe()
    assert (frame.layer[0], frame["head"][0]) == planted.TASK_HEAD
    assert math.isclose(frame.effect[0], float(found.effects.max()))
    assert found.statistics.shape == (17, 1, 8, 2)


def test_effects_without_examples_find_it_too():
    found = vectors.head_indirect_effects(
        planted.boot(), planted.task("next"), context="none", **SIZES
    )
    assert found.best(1).heads == (planted.TASK_HEAD,) and found.floor < 0.05
    assert found.effects[planted.TASK_HEAD] > 0.8 and found.provenance["context"] == "none"


def test_the_vector_is_what_the_planted_head_writes_by_construction(found):
    one = vectors.function_vector(planted.boot(), found, n_heads=1)
    expected = torch.zeros(5 * planted.D)
    expected[planted.TASK] = found.mean_z[planted.TASK_HEAD]
    torch.testing.assert_close(one.vector, expected)
    assert int(one.vector.argmax()) == planted.TASK.start + planted.TASKS["same"]
    assert one.heads.heads == (planted.TASK_HEAD,) and one.effects[0] == found.effects.max()
    assert one.provenance["selection"] == "the 1 greatest indirect effects"
    assert one.provenance["n_right"] == one.provenance["n_tried"] == 20
    every = vectors.function_vector(planted.boot(), found, n_heads=15)
    given = vectors.function_vector(planted.boot(), found, heads=[planted.PREVIOUS_HEAD])
    torch.testing.assert_close(every.vector, one.vector + given.vector)  # no bias, 15 times over
    assert given.provenance["selection"] == "given"


def test_the_vector_answers_without_examples_below_the_layer_that_reads_it():
    one, other = vector_of("same"), vector_of("next")
    for name, own in (("same", one), ("next", other)):
        scores = own.score(
            planted.boot(), planted.task(name), n_queries=8, seeds=[0, 1],
            against={"other task": other if own is one else one},
        )  # fmt: skip
        curve = scores.scores.mean(-1)
        assert scores.arms == ("vector", "other task", "random") and scores.layers == (0, 1, 2)
        assert curve[0].tolist() == [1.0, 1.0, 0.0], "read in layer 2"
        assert curve[1:].max() <= 0.25 and scores.ceiling.tolist() == [1.0, 1.0]
        assert scores.beyond("random").mean.tolist() == (curve[0] - curve[2]).tolist()
        peak = vectors.locate_peak(scores.curve())
        assert peak.layer == 0 and peak.last_layer == 1
        assert vectors.locate_peak(scores.curve("random")).layer is None
    shuffled = one.score(
        planted.boot(), planted.task("same"), 1, context="shuffled", n_queries=8,
        metric="first_token_prob",
    )  # fmt: skip
    gain = shuffled.gain_interval()[:, 0, 0]
    assert shuffled.floor < 0.1 and gain[0] > 0.85, "what shuffled labels hid is back"
    frame = scores.to_dataframe()
    assert len(frame) == 9 and frame.gain[0] == 1.0 - scores.floor.mean()


def test_tokens_that_follow_are_left_alone_unless_asked_for():
    one = vector_of()
    assert not one.edit(1).generated and one.edit(1, generated=True).generated
    assert one.edit().layer == one.layer == 1 and one.edit(0).method == "add"
    task, model = planted.task("same"), planted.boot()
    prompts = Setting.of(task, n_queries=2, n_shots=0).prompts(model, 0)
    three = [[row[0], *map(int, planted.KEYS)][:3] for row in prompts.target_tokens]
    longer = replace(prompts, target_tokens=three)
    once = icl.score_targets(model, longer, one.edit(1))
    each = icl.score_targets(model, longer, one.edit(1, generated=True))
    assert not torch.allclose(once, each)


BUILDS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**tiny._GATED, head_dim=12)),
    "gpt2": tiny.ARCHITECTURES["gpt2"],
    "gpt_neox": tiny.ARCHITECTURES["gpt_neox"],
}


def loaded(name, directory, monkeypatch):
    """A random model of grouped queries and wide heads, or of biases, as both sides see it."""
    monkeypatch.setitem(tiny.ARCHITECTURES, name, BUILDS[name])
    path = tiny.save(tiny.build(name), directory / name)
    return icl.load_model(path, device="cpu"), str(path)


def rows_of(prompts) -> list[list[int]]:
    pairs = zip(prompts.tokens, prompts.attention_mask, strict=True)
    return [row[real].tolist() for row, real in pairs]


@pytest.mark.parametrize("name", BUILDS)
def test_effects_and_vector_equal_a_loop_over_the_plain_model(name, tmp_path, monkeypatch):
    model, directory = loaded(name, tmp_path, monkeypatch)
    task = icl.load_task("pseudo-translation")
    setting = Setting.of(task, metric="first_token_prob", n_queries=3, n_shots=2, seeds=4)
    known = setting.prompts(model, 9, instruction=False, queries=task.train[:3])
    shuffled = shuffled_prompts(setting, model, 4, instruction=False)
    bare = replace(setting, n_shots=0).prompts(model, 4, instruction=False)
    first = [tokens[0] for tokens in bare.target_tokens]
    counts = {"n_mean": 3, "n_tried": 3, "n_right": 3}
    monkeypatch.setattr(module, "answered_prompts", lambda *a, **k: ([known], counts))
    ours = vectors.head_indirect_effects(
        model, task, n_prompts=3, n_shots=2, seed=4, n_mean=3, batch_size=2
    )
    chosen = vectors.function_vector(model, ours, n_heads=5)
    theirs = oracle_vectors.ask(
        what="effects", directory=directory, known=rows_of(known), shuffled=rows_of(shuffled),
        wanted=first, heads=list(chosen.heads), added=list(zip(rows_of(bare), first, strict=True)),
    )  # fmt: skip
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(ours.mean_z, torch.tensor(theirs["mean"]), **close)
    theirs_by_head = torch.tensor(theirs["effects"]).double()
    torch.testing.assert_close(ours.effects, theirs_by_head, rtol=1e-2, atol=2e-8)
    assert ours.effects.abs().max() > 5e-6 and len(ours.effects.unique()) == ours.effects.numel()
    torch.testing.assert_close(chosen.vector, torch.tensor(theirs["vector"]), **close)
    scores = chosen.score(model, task, n_queries=3, n_shots=2, seeds=4, metric="first_token_prob")
    added = torch.tensor(theirs["added"]).mean(dim=1)
    torch.testing.assert_close(scores.scores[0, :, 0], added, **close)


@pytest.mark.parametrize("name", ["gpt_neo", "gemma2", "latent"])
def test_both_engines_give_the_same(name, monkeypatch):
    model = tiny.bridge(latent_heads().eval()) if name == "latent" else tiny.boot(name)
    task = icl.load_task("pseudo-translation")
    setting = Setting.of(task, n_queries=3, n_shots=2)
    known = setting.prompts(model, 9, instruction=False, queries=task.train[:3])
    monkeypatch.setattr(module, "answered_prompts", lambda *a, **k: ([known], {}))
    asked = {"n_prompts": 3, "n_shots": 2, "n_mean": 3}
    shared, hooked = (
        vectors.head_indirect_effects(model, task, **asked, engine=engine)
        for engine in ("shared", "hooks")
    )
    torch.testing.assert_close(shared.statistics, hooked.statistics, rtol=1e-4, atol=1e-6)
    assert torch.equal(shared.mean_z, hooked.mean_z)
    one = vectors.function_vector(model, shared, n_heads=3)
    asked = {"n_queries": 2, "metric": "chrf", "max_new_tokens": 4, "generated": True}
    texts = [one.score(model, task, [0, 2], **asked, engine=e) for e in ("shared", "hooks")]
    assert torch.equal(texts[0].statistics, texts[1].statistics)
    assert texts[0].provenance["engine"] == "shared"


def test_answers_are_generated_with_the_vector_in_the_prompt():
    one, model, task = vector_of(), planted.boot(), planted.task("same")
    scores = one.score(
        model, task, metric="exact_match", max_new_tokens=1, n_queries=6,
        against={"random heads": vectors.function_vector(
            model, task, n_heads=1, heads=icl.induction.random_heads(one.heads), **SIZES)},
    )  # fmt: skip
    assert scores.scores[0, :, 0].tolist() == [1.0, 1.0, 0.0]
    assert scores.scores[1:].max() == 0.0 and scores.arms[1] == "random heads"


def test_means_are_of_other_queries_that_are_answered_rightly():
    model, task = planted.boot(), planted.task("same")
    wrong = {example.source: icl.Example(example.source, "w40") for example in task.train[:12]}
    mixed = replace(task, train=tuple(wrong.get(e.source, e) for e in task.train))
    setting = Setting.of(
        mixed, metric="first_token_accuracy", n_queries=8, n_shots=10, choice="random"
    )
    batches, counts = module.answered_prompts(setting, model, 10, instruction=False, batch_size=4)
    sources = [source for prompts in batches for source in prompts.sources]
    assert len(sources) == counts["n_mean"] == 10 <= counts["n_right"] < counts["n_tried"]
    assert not {*sources} & {*wrong} and not {*sources} & {
        query.source for query in setting.queries
    }
    for prompts in batches:
        assert icl.score_targets(model, prompts).exp().min() > 0.5


def test_no_query_that_is_asked_is_among_the_means():
    task = planted.task("same")
    mixed = replace(task, train=(*task.test, *task.train[:2]))
    setting = Setting.of(mixed, metric="first_token_accuracy", n_queries=24, n_shots=10)
    batches, counts = module.answered_prompts(
        setting, planted.boot(), 4, instruction=False, batch_size=4
    )
    sources = [source for prompts in batches for source in prompts.sources]
    assert {*sources} == {example.source for example in task.train[:2]}
    assert counts["n_tried"] == len(sources) == 4, "asked again, with other shots"
    assert len({text for prompts in batches for text in prompts.texts}) == 4
    with pytest.raises(TaskError, match="no examples but those that are asked"):
        module.answered_prompts(
            replace(setting, task=replace(task, train=task.test)), planted.boot(), 4,
            instruction=False, batch_size=4,
        )  # fmt: skip


def test_a_model_that_is_never_right_has_no_means():
    task = planted.task("same")
    odd = replace(task, train=tuple(replace(e, target="w40") if i % 2 else e
                                    for i, e in enumerate(task.train)))  # fmt: skip
    odd = replace(odd, train=tuple(replace(e, target=f"w{40 + i % 2}")
                                   for i, e in enumerate(odd.train)))  # fmt: skip
    with pytest.raises(TaskError, match="answers none of 15 prompts of the task 'same'"):
        vectors.head_indirect_effects(planted.boot(), odd, n_prompts=2, n_shots=2, n_mean=3)


def test_what_does_not_fit_is_refused(found, tmp_path):
    model, task, one = planted.boot(), planted.task("same"), vector_of()
    other = planted.boot(1)
    with pytest.raises(MaskError, match="n_heads is 16: expected a whole number from 1 to 15"):
        vectors.function_vector(model, found, n_heads=16)
    with pytest.raises(MaskError, match="head 5"):
        vectors.function_vector(model, found, heads=[(0, 5)])
    with pytest.raises(MaskError, match="heads are none"):
        vectors.function_vector(model, found, heads=[])
    with pytest.raises(MaskError, match="n_shots belong to effects that are yet to be measured"):
        vectors.function_vector(model, found, n_shots=3)
    with pytest.raises(MaskError, match="this table of effects was measured on another"):
        vectors.function_vector(other, found)
    with pytest.raises(MaskError, match="another model"):
        one.score(other, task)
    prompts = icl.build_prompts(other, task.test[:1], n_shots=0, template=task.template)
    with pytest.raises(MaskError, match="another model"):
        icl.score_targets(other, prompts, one.edit(0))
    with pytest.raises(MaskError, match="layer is 3: expected 0 to 2"):
        one.edit(3)
    with pytest.raises(MaskError, match="layers holds 3: expected layers from 0 to 2"):
        one.score(model, task, [0, 3])
    with pytest.raises(TaskError, match="context is 'few'"):
        one.score(model, task, context="few")
    with pytest.raises(MaskError, match="'vector' and 'random' are taken"):
        one.score(model, task, against={"random": one})
    with pytest.raises(ResultError, match="holds NaN"):
        replace(one, written=one.written * math.nan)
    with pytest.raises(ResultError, match="control"):
        one.score(model, task, 0, n_queries=2).beyond("nothing")


def test_labels_that_begin_with_the_same_token_are_refused():
    task = planted.task("same")
    begun = {e.target: f"w40 {e.target}" for e in task.train}
    same = replace(task, train=tuple(replace(e, target=begun[e.target]) for e in task.train),
                   test=tuple(replace(e, target=begun[e.target]) for e in task.test))  # fmt: skip
    with pytest.raises(TaskError, match="begin with the same token"):
        vectors.head_indirect_effects(planted.boot(), same, **SIZES)


def test_a_model_that_gives_nan_is_refused():
    model = tiny.boot_fresh("llama")
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="NaN"):
        vectors.head_indirect_effects(model, "pseudo-translation", n_prompts=2, n_shots=2, n_mean=2)


def test_files_hold_everything(found, tmp_path):
    one = vector_of()
    scores = one.score(planted.boot(), planted.task("same"), [0, 2], n_queries=4)
    for value in (found, one, scores, scores.curve()):
        again = type(value).load(value.save(tmp_path / type(value).__name__))
        assert repr(again) == repr(value) and again.provenance.keys() == value.provenance.keys()
        for name in type(value)._tensors:
            assert torch.equal(getattr(again, name), getattr(value, name))
    loaded_one = vectors.FunctionVector.load(tmp_path / "FunctionVector.safetensors")
    assert loaded_one.heads.heads == one.heads.heads
    assert np.array_equal(found.spread().mean, type(found).load(
        tmp_path / "HeadIndirectEffects.safetensors").spread().mean)  # fmt: skip


def test_a_small_task_asks_all_its_prompts():
    model, task = planted.boot(), planted.task("same")
    small = replace(task, test=task.test[:3])
    found = vectors.head_indirect_effects(model, small, n_mean=5)
    assert found.provenance["n_queries"] == 3
    with pytest.raises(TaskError, match="n_prompts is 4, .* has 3 queries: expected 1 to 3"):
        vectors.head_indirect_effects(model, small, n_prompts=4)
