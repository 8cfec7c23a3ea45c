"""The ablation study: selections against random controls, its statistics, figures and command."""

import json
import re
from dataclasses import replace
from html import unescape
from itertools import product

import anova
import numpy as np
import planted_induction as planted
import pytest
import torch

import icl_locate as icl
from icl_locate import induction, plots
from icl_locate.cli import main
from icl_locate.errors import MaskError, ResultError, TaskError
from icl_locate.induction import AblationResult, Arm
from icl_locate.induction.result import permutation_p_value
from icl_locate.metrics import METRICS, get_metric
from icl_locate.report.heads import comparison_table

OPTIONS = {"shots": (4,), "seeds": (0, 1), "n_queries": 20}
EVERYTHING = ("zero", "mean_z", "mean_input", "resample", "knockout")


@pytest.fixture(scope="module")
def circuit():
    return planted.boot()


@pytest.fixture(scope="module")
def result(circuit):
    return induction.ablation_study(
        circuit, planted.TASK, fractions=(0.1, 0.2), interventions=EVERYTHING, **OPTIONS
    )


def test_the_planted_task_dies_with_its_circuit_and_not_with_random_heads(result):
    """Fractions of 8 heads: the induction head alone, then it and another one."""
    comparisons = result.compare()
    assert [(c.intervention, c.fraction) for c in comparisons] == list(
        product(EVERYTHING, (0.1, 0.2))
    )
    for found in comparisons:
        assert found.full == (1.0, 1.0, 1.0)
        assert found.induction[0] < 0.6
        assert found.random[0] == 1.0
        assert found.difference[1] > 0.2 and found.p_value < 0.01
    induction_arms = [arm for arm in result.arms if arm.kind == "induction"]
    assert all(arm.heads[0] == planted.INDUCTION_HEAD for arm in induction_arms)
    for arm in result.arms:
        if arm.kind == "random":
            assert planted.INDUCTION_HEAD not in arm.heads


def test_a_given_set_of_heads_takes_the_place_of_fractions(circuit):
    found = induction.ablation_study(
        circuit, planted.TASK, planted.CIRCUIT, controls=4, interventions=["knockout"], **OPTIONS
    )
    assert [arm.kind for arm in found.arms] == ["full", "induction"] + ["random"] * 4
    assert set(found.arms[1].heads) == planted.CIRCUIT and found.arms[1].fraction == 0.25
    chosen = found.compare()[0]
    assert chosen.induction[0] < 0.5 and chosen.random[0] == 1.0
    alone = induction.ablation_study(
        circuit, planted.TASK, planted.CIRCUIT, controls=0, interventions=["zero"], **OPTIONS
    )
    only = alone.compare()[0]
    assert np.isnan(only.random).all() and np.isnan(only.p_value) and only.induction[0] < 0.6


def test_fractions_that_choose_the_same_heads_are_one_arm(circuit, tmp_path):
    """1 % and 3 % of 8 heads are one head; 20 % are two."""
    scores = induction.head_scores(circuit)
    options = OPTIONS | {"interventions": ("zero", "knockout"), "controls": 2}
    found = induction.ablation_study(
        circuit, planted.TASK, scores, fractions=(0.01, 0.03, 0.2), **options
    )
    chosen = [arm for arm in found.arms if arm.kind == "induction"]
    assert [(arm.fraction, arm.share) for arm in chosen] == [(0.03, "1 %, 3 %"), (0.2, "20 %")] * 2
    assert len(found.arms) == 1 + 2 * 2 * 3
    comparisons = found.compare()
    assert [c.share for c in comparisons] == ["1 %, 3 %", "20 %"] * 2
    alone = induction.ablation_study(circuit, planted.TASK, scores, fractions=0.01, **options)
    for one, other in zip(comparisons[::2], alone.compare(), strict=True):
        assert replace(other, fraction=0.03, fractions=(0.01, 0.03)) == one
    table = comparison_table(comparisons, found.metric)
    assert table.count("1 %, 3 %") == 2 and table.count("knockout") == 2
    assert set(found.to_dataframe()["share"]) == {"0 %", "1 %, 3 %", "20 %"}
    assert "1 %, 3 % of heads" in plots.ablation_bars(found, comparisons).data[0].x[0]
    again = AblationResult.load(found.save(tmp_path / "merged"))
    assert again.arms == found.arms and again.compare() == comparisons
    assert again.provenance["head_scores"]["lengths"] == [50, 37, 29]
    assert again.provenance["head_scores"]["n_tokens"] == 58
    by_default = induction.ablation_study(circuit, planted.TASK, fractions=0.01, **options)
    assert by_default.provenance["head_scores"]["n_copies"] == 4
    assert torch.equal(by_default.scores, alone.scores)


def test_arms_are_what_their_names_say(circuit, result):
    """Each arm again, by hand."""
    prompts = icl.build_prompts(
        circuit, planted.TASK.test[:20], examples=planted.TASK.train, n_shots=4,
        template=planted.TASK.template, seed=1, choice="balanced",
    )  # fmt: skip
    targets = torch.tensor([planted.VALUES.index(target) for target in prompts.targets])
    for i, arm in enumerate(result.arms):
        if arm.kind == "full":
            act = None
        elif arm.intervention == "knockout":
            act = induction.knockout(set(arm.heads))
        else:
            act = induction.HeadAblation(set(arm.heads), arm.intervention, result.reference)
        best = icl.score_labels(circuit, prompts, planted.VALUES, act).argmax(dim=1)
        assert float(result.scores[i, 0, 1]) == pytest.approx((best == targets).double().mean())


def test_the_reference_is_measured_on_other_queries(circuit, result):
    others = [e for e in planted.TASK.train if e not in planted.TASK.test[:20]][-20:]
    prompts = icl.build_prompts(
        circuit, others, examples=planted.TASK.train, n_shots=4, template=planted.TASK.template,
        seed=-1, choice="balanced",
    )  # fmt: skip
    by_hand = induction.head_reference(circuit, prompts)
    assert result.reference.provenance == by_hand.provenance
    same = replace(planted.TASK, train=planted.TASK.test)
    half = induction.ablation_study(
        circuit, same, planted.CIRCUIT, interventions=["mean_z"], **OPTIONS | {"n_queries": 39}
    )
    assert half.reference.provenance["n_texts"] == 1, "the only query that is not the study's"
    with pytest.raises(TaskError, match="no other queries to measure a reference on"):
        induction.ablation_study(circuit, same, planted.CIRCUIT, **OPTIONS | {"n_queries": 40})


def test_numbers_of_any_kind(circuit, tmp_path):
    scores = induction.prefix_matching_scores(circuit)
    options = {"controls": 1, "interventions": ["zero"], "n_queries": 4, "metric": "log_prob"}
    found = [
        induction.ablation_study(
            circuit, planted.TASK, heads, fractions=fractions, shots=shots, seeds=seeds, **options
        )
        for heads, fractions, shots, seeds in (
            (scores, 0.2, 4, 1),
            (scores.numpy(), np.float64(0.2), (4,), range(1, 2)),
            ([[1, 1], (1, 2), (1, 1)], (), [4], [1]),
        )
    ]
    for other in found:
        other.save(tmp_path / "any")
        assert [len(arm.heads) for arm in other.arms] == [0, 2, 2]
        assert torch.equal(other.scores[0], found[0].scores[0])
    bos = [
        induction.ablation_study(
            circuit, planted.TASK, planted.CIRCUIT, shots=4, seeds=1, prepend_bos=b, **options
        )
        for b in (None, True, False)
    ]
    assert torch.equal(bos[0].scores, bos[1].scores)
    assert not torch.equal(bos[0].scores, bos[2].scores)


def test_any_metric_and_task_can_be_studied(embedded):
    task = icl.load_task("pseudo-translation")
    heads = {(0, 3), (0, 0)}
    for metric in ("bleu", "log_prob", "token_accuracy"):
        found = induction.ablation_study(
            embedded, task, heads, interventions=["zero"], metric=metric, shots=[3], seeds=0,
            n_queries=6, max_new_tokens=10, controls=1,
        )  # fmt: skip
        whole = found.compare()[0]
        assert whole.induction[0] < whole.full[0], "the heads of layer 0 read the words"


def test_results_are_saved_and_loaded(result, tmp_path):
    again = AblationResult.load(result.save(tmp_path / "study"))
    known = result.compare(n_resamples=50)
    for few, many in zip(known, result.compare(), strict=True):
        assert few.p_value >= 1 / 51 > many.p_value and few.difference == many.difference
    assert again.arms == result.arms and again.compare(n_resamples=50) == known
    assert torch.equal(again.statistics, result.statistics)
    assert again.provenance == json.loads(json.dumps(result.provenance))
    frame = again.to_dataframe()
    assert len(frame) == len(result.arms) * 2 and set(frame["kind"]) == {
        "full", "induction", "random",
    }  # fmt: skip
    with pytest.raises(ResultError, match=r"scores has .* expected \(1, 1, 2\) from the labels"):
        replace(result, arms=result.arms[:1])
    strange = replace(again, metric="mine", provenance={})
    with pytest.raises(ResultError, match="'mine' is not part of icl_locate"):
        strange.compare()
    own = replace(strange, custom_metric=METRICS["exact_match"])
    assert own.compare(n_resamples=50) == known
    for options, message in (
        ({"confidence": 2.0}, "confidence"),
        ({"n_resamples": 0}, "n_resamples"),
    ):
        with pytest.raises(ResultError, match=f"{message} is"):
            result.compare(**options)


def made_up(chosen, controls, full=None):
    """A result from accuracies: chosen [seed, item], controls [control, seed, item]."""
    full = np.ones_like(chosen) if full is None else full
    arms = [Arm("none", "full", 0.0, 0, ()), Arm("zero", "induction", 0.1, 0, ((0, 0),))]
    arms += [Arm("zero", "random", 0.1, i, ((0, 1),)) for i in range(len(controls))]
    table = np.stack([full, chosen, *controls])[:, None]
    statistics = np.stack([table, np.ones_like(table)], axis=-1)
    return AblationResult(
        arms=tuple(arms), shots=(5,), seeds=tuple(range(chosen.shape[0])),
        statistics=torch.from_numpy(statistics), scores=torch.from_numpy(table.mean(-1)),
        metric="exact_match", provenance={},
    )  # fmt: skip


def test_the_permutation_test_equals_all_permutations():
    """Of few items all swaps are listed; the sampled share of them must come near."""
    rng = np.random.default_rng(0)
    chosen, controls = rng.random((2, 6)), rng.random((3, 2, 6)) + 0.15
    gaps = (controls - chosen).mean(axis=(0, 1))
    observed = abs(gaps.mean())
    exact = np.mean(
        [
            abs((np.array(signs) * gaps).mean()) >= observed - 1e-12
            for signs in product((1, -1), repeat=6)
        ]
    )
    statistics = made_up(chosen, controls).statistics.numpy()[:, 0]
    ours = permutation_p_value(METRICS["exact_match"], statistics[1], statistics[2:], 20_000, 0)
    assert ours == pytest.approx(exact, abs=0.01)


def test_a_corpus_metric_is_permuted_as_a_corpus_metric():
    bleu = get_metric("bleu")
    texts = ["the cat sat on the mat", "a dog ran in the park today", "we all live in a house"]
    right = bleu.statistics(texts, texts)[None]
    wrong = bleu.statistics(["a b c d", *texts[1:]], texts)[None]
    p_value = permutation_p_value(bleu, wrong, right[None], 2000, 0)
    assert p_value == 1.0, "one item differs: any swap of it gives the same difference"


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(1)
    found = [
        made_up(rng.random((1, 20)), rng.random((2, 1, 20))).compare(n_resamples=200)[0].p_value
        for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.1
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_one_item_has_no_interval():
    found = made_up(np.zeros((2, 1)), np.ones((2, 2, 1))).compare()[0]
    for score in (found.full, found.induction, found.random, found.difference):
        assert not np.isnan(score[0]) and np.isnan(score[1:]).all()
    assert found.p_value == 1.0, "one item can be swapped, and differs as much"


def test_seeds_and_controls_are_some_of_many():
    """Two that differ by 1 and have no noise: 0.5 beside 12.7 standard errors of 0.5."""
    ones, items = np.ones((1, 30)), 30
    wide = pytest.approx((0.5, 0.5 - 6.3531, 0.5 + 6.3531), abs=1e-4)
    seeds = made_up(np.concatenate([0 * ones, ones]), np.ones((1, 2, items)))
    assert seeds.compare()[0].induction == wide
    controls = made_up(0 * ones, np.stack([0 * ones, ones]))
    found = controls.compare()[0]
    assert found.random == wide and found.difference == wide
    assert found.induction == (0.0, 0.0, 0.0)
    assert found.rank_p == pytest.approx(2 / 3), "one of two controls cost as much"


@pytest.mark.parametrize(("n_controls", "n_seeds"), [(1, 3), (3, 1), (4, 3)])
def test_intervals_are_those_of_the_loops(n_controls, n_seeds):
    rng = np.random.default_rng(n_controls)
    level = rng.random((n_controls + 2, 1, 1)) + 0.3 * rng.random((1, n_seeds, 1))
    table = level + rng.random((1, 1, 9)) + rng.random((n_controls + 2, n_seeds, 9))
    full, chosen, *controls = (anova.of_mean(one) for one in table)
    result = made_up(table[1], table[2:], table[0])
    for confidence in (0.95, 0.7):
        found = result.compare(confidence=confidence, n_resamples=1)[0]
        assert found.full[1:] == pytest.approx(anova.interval(full, confidence))
        assert found.induction[1:] == pytest.approx(anova.interval(chosen, confidence))
        drawn = anova.over_drawn(controls, confidence=confidence)
        assert found.random[1:] == pytest.approx(drawn)
        drawn = anova.over_drawn(controls, chosen, confidence)
        assert found.difference[1:] == pytest.approx(drawn)
        means = table.mean(axis=(1, 2))
        assert found.full[0] == pytest.approx(means[0])
        assert found.induction[0] == pytest.approx(means[1])
        assert found.random[0] == pytest.approx(means[2:].mean())
        assert found.difference[0] == pytest.approx(means[2:].mean() - means[1])


def test_a_rank_among_controls_knows_how_much_head_sets_differ():
    """Selections drawn like their controls: the rank is uniform, whatever sets differ by."""
    rng = np.random.default_rng(3)
    ranks = []
    for _ in range(200):
        level = rng.normal(0.5, 0.1, size=(20, 1, 1))
        answers = (rng.random((20, 1, 40)) < level).astype(float)
        ranks.append(made_up(answers[0], answers[1:]).compare(n_resamples=1)[0].rank_p)
    assert np.mean(np.array(ranks) <= 0.05) <= 0.09
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.1)


def test_intervals_cover_the_difference():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(100):
        chosen = (rng.random((1, 60)) < 0.5).astype(float)
        controls = (rng.random((3, 1, 60)) < 0.8).astype(float)
        found = made_up(chosen, controls).compare(n_resamples=1, confidence=0.9)[0]
        _, low, high = found.difference
        covered.append(low <= 0.3 <= high)
    assert 0.8 <= np.mean(covered) <= 0.98


def test_bad_studies(circuit):
    def study(**options):
        return induction.ablation_study(circuit, planted.TASK, **OPTIONS | options)

    for options, error, message in (
        ({"controls": -1}, TaskError, "controls is -1"),
        ({"heads": {(1, 0), (1, 1), (1, 2)}}, MaskError, "or use no controls"),
        ({"seeds": ()}, TaskError, r"seeds is \(\)"),
        ({"shots": (4, 4)}, TaskError, r"shots is \(4, 4\)"),
        ({"interventions": ("mean",)}, TaskError, "expected one or more of zero, mean_z"),
        ({"n_queries": 41}, TaskError, "n_queries is 41.*has 40 queries"),
        ({"heads": set()}, MaskError, "no heads were given"),
        ({"heads": torch.zeros(3, 4)}, MaskError, r"expected \(layer, head\) = \(2, 4\)"),
        ({"fractions": ()}, MaskError, r"fractions is \(\)"),
        ({"fractions": (0.9,)}, MaskError, "select a smaller fraction"),
    ):
        with pytest.raises(error, match=message):
            study(**options)


def test_figures(circuit, result):
    scores = induction.head_scores(circuit)
    figure = plots.head_map(scores, marked=[planted.INDUCTION_HEAD])
    heat = figure.data[0]
    assert heat.zmid == 0 and np.allclose(heat.z, scores.induction)
    hover = heat.hovertext[1][1]
    assert "layer 1, head 1" in hover and "copying 1.000" in hover and "at 50 (control" in hover
    frame = figure.layout.shapes[0]
    assert (frame.y0 < 1 < frame.y1) and (frame.x0 < 1 < frame.x1), "the head is framed"
    assert heat.zmax == 1.0 and plots.head_map(scores, limit=0.5).data[0].zmax == 0.5
    plain = plots.head_map(scores.copying, title="copying score")
    assert "layer 1, head 1</b><br>copying score 1.000" in plain.data[0].hovertext[1][1]
    assert plain.data[0].zmax == float(scores.copying.max())

    bars = plots.ablation_bars(result)
    assert [bar.name for bar in bars.data] == [
        "whole model", "without induction heads", "without random heads",
    ]  # fmt: skip
    assert len(bars.data[0].x) == 10 and set(bars.data[2].y) == {1.0}
    assert "mean-input ablation" in " ".join(bars.data[0].x)
    assert any(note.text == "***" for note in bars.layout.annotations)
    curves = plots.fraction_curves(result, result.compare(), n_shots=4)
    lines = [trace for trace in curves.data if trace.mode == "lines+markers"]
    assert len(lines) == 10 and lines[0].x == (0.0, 0.1, 0.2) and lines[0].y[0] == 1.0
    with pytest.raises(ResultError, match="n_shots is 7: the result has 4"):
        plots.ablation_bars(result, n_shots=7)


def test_the_command(tmp_path, capsys):
    directory = planted.save(tmp_path / "model")
    task = planted.write_task(tmp_path / "recall.jsonl")
    output = tmp_path / "found"
    command = (
        f"induction {task} --model {directory} --output {output} --fractions 0.1 --shots 6 "
        "--seeds 0 --n-queries 12 --metric label_accuracy --n-effects 4 --quiet --device cpu"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "mean_z" in printed and "knockout" in printed and "label_accuracy:" in printed
    said = "1 of 8 heads scores 0.1 or more; the best is layer 1, head 1"
    assert said in printed and "4 copies of 50, 37 and 29 tokens" in printed
    assert "drawn from the vocabulary's 58 tokens" in printed
    for name in ("ablation.safetensors", "reference.safetensors", "heads.csv", "ablation.csv"):
        assert (output / name).is_file()
    page = (output / "induction.html").read_text("utf-8")
    assert said in page and "drawn from the vocabulary's 58 tokens" in unescape(page)
    assert "Scores and causal effects" in page and "vocabulary_sha256" in page
    assert "http" not in page.split("<h2>Recipe")[0].rsplit("</script>", 1)[-1]
    assert AblationResult.load(output / "ablation").shots == (6,)

    command += " --overwrite"
    again = f"{command} --reference {output}/reference.safetensors --n-effects 0"
    again += " --interventions mean_input"
    assert main(again.split()) == 0
    capsys.readouterr()
    for wrong, message in (
        (f"{command} --reference {output}/ablation", "is not a result"),
        (f"{command} --metric pass@1", "add --run-code"),
        (f"{command} --lengths 100", "only 58 tokens of the vocabulary"),
        (f"{command} --confidence 2", "confidence is 2"),
        (f"{command} --n-effects -1", "--n-effects is -1"),
    ):
        assert main(wrong.split()) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_the_command_on_a_small_model(tmp_path, capsys):
    """A context of 64 tokens: default lengths fit it, others are refused in the command's words."""
    directory = planted.save(tmp_path / "model", n_ctx=64)
    task = planted.write_task(tmp_path / "recall.jsonl")
    command = (
        f"induction {task} --model {directory} --output {tmp_path}/found --shots 6 --seeds 0 "
        "--n-queries 4 --controls 1 --interventions zero --metric label_accuracy --n-effects 0 "
        "--quiet --device cpu"
    )
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "4 copies of 15, 11 and 9 tokens" in printed
    assert printed.count("1 %, 3 %") == 1, "one row: both are one head of eight"
    for wrong, message in (
        ("--lengths 20 17", "at most 15 tokens, such as --lengths 15 11 9\n"),
        ("--tokens task --lengths 99", r"length is 99.*only \d+ different tokens were given"),
        ("--lengths 0", r"lengths\[0\] is 0"),
        ("--lengths 9 9", "each once"),
    ):
        assert main(f"{command} --overwrite {wrong}".split()) == 2
        assert re.search(message, capsys.readouterr().err)
