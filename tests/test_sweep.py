"""Sweeps, their results on disk, and bad input."""

import json
from dataclasses import replace
from importlib.metadata import version
from itertools import product

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import IclLocateError, MaskError, ResultError, TaskError
from icl_locate.studies.setting import choose_n_queries

TASK = replace(icl.load_task("pseudo-translation"), metric="token_accuracy")
OPTIONS = {"n_shots": 2, "n_queries": 3, "seeds": [0, 5], "max_new_tokens": 4}


@pytest.fixture(scope="module")
def result():
    return icl.sweep(tiny.boot("llama"), TASK, **OPTIONS)


def test_axes_and_shapes(result):
    assert result.conditions == tuple(c.name for c in icl.PAPER_CONDITIONS)
    assert result.layers == tuple(range(tiny.N_LAYERS + 1)) and result.seeds == (0, 5)
    assert result.scores.shape == (6, tiny.N_LAYERS + 1, 2)
    assert result.item_scores.shape == (6, tiny.N_LAYERS + 1, 2, 3)
    assert result.targets == tuple(example.target for example in TASK.test[:3])
    assert result.scores.equal(result.item_scores.mean(-1))
    assert result.ceiling.equal(result.scores[:, -1]) and result.floor.equal(result.scores[:, 0])


def test_each_cell_equals_its_own_run(result):
    """Cells are what one gets by generating under the mask, by hand."""
    model = tiny.boot("llama")
    for c, layer, s in [(0, 0, 0), (1, 2, 1), (4, 1, 0), (5, 3, 1)]:
        condition = icl.PAPER_CONDITIONS[c]
        template = TASK.template if condition.instruction else TASK.template.without_instruction()
        prompts = icl.build_prompts(
            model,
            TASK.test[:3],
            examples=TASK.train,
            n_shots=2,
            template=template,
            seed=result.seeds[s],
        )
        mask = icl.ContextMask(condition.hide, icl.from_layer(layer), keep_self=condition.keep_self)
        assert result.texts[c][layer][s] == icl.generate(model, prompts, mask, max_new_tokens=4)


def test_a_single_seed_may_stand_alone():
    model, options = tiny.boot("llama"), {"n_shots": 1, "n_queries": 2, "metric": "log_prob"}
    alone, listed = (icl.sweep(model, TASK, seeds=s, **options) for s in (5, [5]))
    assert alone.seeds == (5,) and alone.scores.equal(listed.scores)


def test_log_prob_equals_score_targets():
    model = tiny.boot("llama")
    options = OPTIONS | {"engine": "hooks", "metric": "log_prob"}
    swept = icl.sweep(model, TASK, conditions="examples", **options)
    prompts = icl.build_prompts(
        model,
        TASK.test[:3],
        examples=TASK.train,
        n_shots=2,
        template=TASK.template.without_instruction(),
        seed=5,
    )
    mask = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))
    expected = icl.score_targets(model, prompts, mask)
    assert swept.item_scores[0, 1, 1].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_results_come_back_from_disk(result, tmp_path):
    path = result.save(tmp_path / "deep" / "run.v1")
    assert [p.name for p in path.parent.iterdir()] == ["run.v1.safetensors"]
    for name in ("run.v1", "run.v1.safetensors", "run.v1.json"):
        loaded = icl.SweepResult.load(path.parent / name)
        assert loaded.scores.equal(result.scores)
        assert loaded.statistics.equal(result.statistics)
        assert loaded.texts == result.texts and loaded.conditions == result.conditions
        assert loaded.provenance == json.loads(json.dumps(dict(result.provenance)))
        found, known = (icl.locate(one, n_resamples=20) for one in (loaded, result))
        assert str(found) == str(known) and found[0].scores.equal(known[0].scores)


def test_a_custom_metric_survives_the_disk(tmp_path):
    def first_letter(answer, target):
        return float(answer[:1] == target[:1])

    swept = icl.sweep(
        tiny.boot("llama"), TASK, conditions=["examples"], metric=first_letter, **OPTIONS
    )
    assert swept.metric == "first_letter"
    loaded = icl.SweepResult.load(swept.save(tmp_path / "run"))
    found, known = (icl.locate(one, n_resamples=20)[0] for one in (loaded, swept))
    assert found.scores.equal(known.scores)


def test_tables(result):
    frame = result.to_dataframe("cell")
    assert list(frame.columns) == ["condition", "layer", "seed", "score"]
    assert len(frame) == result.scores.numel()
    row = frame[(frame.condition == "query") & (frame.layer == 2) & (frame.seed == 5)]
    assert row.score.item() == result.scores[3, 2, 1].item()
    data = result.to_xarray()
    assert data["score"].sel(condition="query", layer=2, seed=5) == result.scores[3, 2, 1]
    assert data.attrs["metric"] == "token_accuracy"


@pytest.fixture
def told_apart(result):
    """The result with another score for every item, so that no two places look alike."""
    values = torch.arange(result.item_scores.numel()).double().view(result.item_scores.shape)
    table = torch.stack([values, torch.ones_like(values)], dim=-1)
    return replace(result, statistics=table, item_scores=values, scores=values.mean(-1))


def test_a_row_is_an_answer(told_apart):
    """Every value stands where its labels say, in order."""
    result = told_apart
    frame = result.to_dataframe()
    columns = ["condition", "layer", "seed", "item", "source", "target", "answer", "item_score"]
    assert list(frame.columns) == [*columns, "score"]
    places = product(*(range(size) for size in result.item_scores.shape))
    expected = [
        (
            result.conditions[c], result.layers[layer], result.seeds[s], item,
            TASK.test[item].source, TASK.test[item].target, result.texts[c][layer][s][item],
            result.item_scores[c, layer, s, item].item(), result.scores[c, layer, s].item(),
        )
        for c, layer, s, item in places
    ]  # fmt: skip
    assert list(frame.itertuples(index=False, name=None)) == expected
    assert frame["answer"].nunique() > 3, "the answers differ, or places could not be told apart"
    means = frame.groupby(["condition", "layer", "seed"], sort=False)["item_score"].mean()
    assert means.tolist() == pytest.approx(result.scores.flatten().tolist())


def test_the_dataset_has_answers_under_their_queries(told_apart):
    result = told_apart
    data = result.to_xarray()
    assert data["answer"].dims == ("condition", "layer", "seed", "item")
    assert data["source"].dims == data["target"].dims == ("item",)
    assert data["source"].values.tolist() == [query.source for query in TASK.test[:3]]
    assert data["target"].values.tolist() == [query.target for query in TASK.test[:3]]
    cell = data.sel(condition="query", layer=2, seed=5)
    assert cell["answer"].values.tolist() == result.texts[3][2][1]
    assert cell["item_score"].values.tolist() == result.item_scores[3, 2, 1].tolist()
    (found,) = cell["answer"].values[(cell["target"] == TASK.test[1].target).values]
    assert found == result.texts[3][2][1][1]
    assert data["ceiling"].sel(condition="query", seed=5) == result.scores[3, -1, 1]
    assert data["floor"].sel(condition="query", seed=5) == result.scores[3, 0, 1]


@pytest.mark.parametrize("texts", ["as they come", "none"])
def test_where_nothing_is_generated_answers_are_empty(texts):
    options = OPTIONS | {"metric": "log_prob", "conditions": "examples", "seeds": 5}
    swept = icl.sweep(tiny.boot("llama"), TASK, **options)
    if texts == "none":
        swept = replace(swept, texts=[])
    frame, data = swept.to_dataframe(), swept.to_xarray()
    assert frame["answer"].tolist() == [""] * 3 * (tiny.N_LAYERS + 1)
    assert frame["item_score"].tolist() == swept.item_scores.flatten().tolist()
    assert data["answer"].shape == swept.item_scores.shape
    assert set(data["answer"].values.flatten().tolist()) == {""}


def test_provenance_is_a_recipe(result):
    recipe = result.provenance
    assert recipe["task"] == "pseudo-translation" and recipe["n_shots"] == 2
    assert recipe["architecture"] == "LlamaForCausalLM" and recipe["dtype"] == "float32"
    assert recipe["versions"]["torch"] == version("torch")
    assert recipe["signature"].startswith("token_accuracy")
    again = icl.sweep(tiny.boot("llama"), TASK, **OPTIONS)
    assert again.provenance == recipe and again.scores.equal(result.scores)
    without = icl.sweep(tiny.boot("llama"), TASK, prepend_bos=False, **OPTIONS)
    assert recipe["bos"] and not without.provenance["bos"]
    assert without.provenance["prompts_sha256"] != recipe["prompts_sha256"]
    other = icl.sweep(tiny.boot("llama"), TASK, **OPTIONS | {"seeds": [0, 6]})
    assert other.provenance["prompts_sha256"] != recipe["prompts_sha256"]


NO_INSTRUCTION = replace(TASK, template=TASK.template.without_instruction())


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        (TASK, {"metric": "blue"}, TaskError, "unknown metric 'blue'"),
        (TASK, {"conditions": ["nothing"]}, MaskError, "unknown condition 'nothing'"),
        (TASK, {"conditions": []}, TaskError, "conditions are \\[\\]"),
        (TASK, {"conditions": ["query", "query"]}, TaskError, "each once"),
        (TASK, {"seeds": []}, TaskError, "seeds is \\[\\]"),
        (TASK, {"n_queries": 0}, TaskError, "n_queries is 0"),
        (TASK, {"n_queries": 9999}, TaskError, "has 512 queries: expected 1 to 512"),
        (TASK, {"n_shots": 0, "conditions": icl.PAPER_CONDITIONS}, MaskError, "n_shots is 0"),
        (NO_INSTRUCTION, {"n_shots": 0}, MaskError, "neither an instruction nor examples"),
        (TASK, {"engine": "warp"}, TaskError, "engine is 'warp'"),
        (NO_INSTRUCTION, {"conditions": "query"}, MaskError, "needs an instruction .* has none"),
        (replace(TASK, train=()), {}, ValueError, "only 0 of the 0 examples"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(task, options, error, message):
    with pytest.raises(error, match=message):
        icl.sweep(tiny.boot("llama"), task, **OPTIONS | options)


def test_conditions_are_by_default_those_that_the_prompts_allow():
    model, options = tiny.boot("llama"), OPTIONS | {"metric": "log_prob", "seeds": 0}
    assert icl.sweep(model, NO_INSTRUCTION, **options).conditions == ("examples",)
    zero_shots = icl.sweep(model, TASK, **options | {"n_shots": 0})
    assert zero_shots.conditions == ("query",)
    assert [c["name"] for c in zero_shots.provenance["conditions"]] == ["query"]
    by_shots = icl.sweep_shots(model, TASK, (0, 1), seeds=0, n_queries=3, metric="log_prob")
    assert [result.conditions for result in by_shots.values()] == [("query",), ("query",)]


def test_queries_are_by_default_64_or_all_that_there_are():
    model = tiny.boot("llama")
    few = replace(NO_INSTRUCTION, test=TASK.test[:3])
    options = {"n_shots": 1, "seeds": 0, "metric": "log_prob"}
    assert icl.sweep(model, few, **options).item_scores.shape[-1] == 3
    assert choose_n_queries(TASK, None) == 64 and choose_n_queries(TASK, 100) == 100


def test_a_model_and_a_task_may_be_given_by_name(tmp_path, monkeypatch):
    where = tiny.save(tiny.build("llama"), tmp_path / "model")
    lines = [{"source": w, "target": "zimo"} for w in ("thin", "one", "zero")]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    options = {"n_shots": 2, "seeds": [0], "metric": "log_prob"}
    found = icl.sweep(where, tmp_path / "mine.jsonl", **options)
    monkeypatch.chdir(tmp_path)
    named = icl.sweep("model", "mine.jsonl", **options)
    model, task = icl.load_model(where), icl.load_task("mine.jsonl")
    assert found.scores.equal(named.scores)
    assert found.scores.equal(icl.sweep(model, task, **options).scores)
    assert icl.sweep_shots("model", "mine.jsonl", [2], seeds=[0], metric="log_prob")[
        2
    ].scores.equal(found.scores)


def test_typos_are_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(
        "icl_locate.masking.sweeps.load_model", lambda _: pytest.fail("it was loaded")
    )
    for typo in ({"metric": "blue"}, {"conditions": "exmples"}, {"engine": "warp"}, {"seeds": []}):
        with pytest.raises(IclLocateError):
            icl.sweep("gpt2", TASK, **OPTIONS | typo)
    with pytest.raises(TaskError, match="there is no task file"):
        icl.sweep("gpt2", "nowhere.jsonl")


def test_nothing_runs_if_only_a_later_condition_fails(monkeypatch):
    """The first condition's prompts fit; the second's, with the instruction, do not."""
    monkeypatch.setattr("icl_locate.studies.setting.answer", lambda *a, **o: pytest.fail("it ran"))
    model = tiny.boot("llama")
    fits = icl.build_prompts(
        model,
        TASK.test[:3],
        examples=TASK.train,
        n_shots=2,
        template=TASK.template.without_instruction(),
    )
    room = tiny.N_CTX - max(int(p.attention_mask.sum(1).max()) for p in (fits,))
    two = ["examples", "query"]
    with pytest.raises(ValueError, match="exceeds the model's context"):
        icl.sweep(model, TASK, conditions=two, **OPTIONS | {"max_new_tokens": room, "seeds": [0]})
    hides_bos = icl.Condition("bos", {Segment.BOS})
    with pytest.raises(MaskError, match="hides BOS, but prompt 0 has no"):
        icl.sweep(model, TASK, conditions=["query", hides_bos], prepend_bos=False, **OPTIONS)


def test_parts_of_a_result_must_fit(result):
    with pytest.raises(ResultError, match="expected .* from the labels"):
        replace(result, seeds=(0,))
