"""Label probabilities held against those behind content-free inputs."""

import csv
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from tempfile import TemporaryDirectory

import numpy as np
import planted_induction as planted
import pytest
import tiny
import torch
from saved_kinds import task_vectors
from transformer_lens.model_bridge import TransformerBridge

import icl_locate as icl
from icl_locate import circuit, induction
from icl_locate.cli import main
from icl_locate.context_heads import HeadStudy
from icl_locate.engine.budget import Cost
from icl_locate.engine.grid import run_grid
from icl_locate.engine.scoring import append_targets
from icl_locate.errors import PromptError, ResultError, TaskError
from icl_locate.interventions.base import Composition
from icl_locate.metrics import (
    CalibratedLabelAccuracy,
    CalibratedLabels,
    LabelAccuracy,
    LabelChoice,
    domain_texts,
    score_totals,
)
from icl_locate.studies import Setting
from icl_locate.studies.recipe import prompts_digest

LABELS = ("zimo", "dode", "rovu goza zimo")
"""The last of several tokens."""
SOURCES = "reverse|one thin zero|zero sort|double|thin thin sort one|one|sort|double zero thin"
PAIRS = tuple(icl.Example(s, LABELS[i % 3]) for i, s in enumerate(SOURCES.split("|")))
TASK = icl.Task(
    "labels", PAIRS[3:], PAIRS[:5], icl.PromptTemplate("Say:", "Q: ", "\nA: ", "\n"),
    "label_accuracy_contextual", choice="balanced",
)  # fmt: skip
TEXTS = ("N/A", "sort double zero reverse one thin zero sort one")
"""A short one, and one that is longer than any source."""
METRIC = CalibratedLabelAccuracy(texts=TEXTS)
EXAMPLES = icl.Segment.EXAMPLES
NOTHING = Composition(())


def setting(metric=METRIC, **options):
    return Setting.of(TASK, metric=metric, **{"n_shots": 2, "n_queries": 5} | options)


# An oracle: prompts as strings, one at a time, in the Hugging Face model alone.


def naive_log_probs(hf, tokenizer, text, hidden):
    """Each label's log-probability; of what is hidden at every layer the tokens are left out."""
    found = []
    for label in LABELS:
        encoding = tokenizer(f"{text} {label}", return_offsets_mapping=True)
        ids = encoding["input_ids"]
        first = len(tokenizer(text)["input_ids"])
        assert ids[:first] == tokenizer(text)["input_ids"]
        pieces = [(at, f"{text} {label}"[at:end]) for at, end in encoding["offset_mapping"]]
        inked = [at + len(piece) - len(piece.lstrip() or piece[-1:]) for at, piece in pieces]
        kept = [i for i, at in enumerate(inked) if i == 0 or not hidden[0] <= at < hidden[1]]
        shown = {"input_ids": torch.tensor([[ids[i] for i in kept]])}
        if len(kept) < len(ids):
            shown["position_ids"] = torch.tensor([kept])
        with torch.no_grad():
            logits = hf(**shown).logits[0].double().log_softmax(dim=-1)
        places = range(kept.index(first), len(kept))
        found.append(sum(float(logits[i - 1, ids[kept[i]]]) for i in places))
    return found


def naive_shares(log_probs):
    weights = [math.exp(value - max(log_probs)) for value in log_probs]
    return [weight / sum(weights) for weight in weights]


def naive(hf, tokenizer, prompt, source, hide):
    """The calibrated probabilities, and those without."""
    end = f"{source}\nA:"
    assert prompt.endswith(f"Q: {end}")
    context = prompt.removesuffix(end)
    hidden = (context.index("\n") + 1, len(context) - len("Q: ")) if hide else (0, 0)
    own, *free = [
        naive_shares(naive_log_probs(hf, tokenizer, f"{context}{text}\nA:", hidden))
        for text in (source, *TEXTS)
    ]
    ratios = [p / (sum(column) / len(TEXTS)) for p, *column in zip(own, *free, strict=True)]
    return [ratio / sum(ratios) for ratio in ratios], own


@pytest.mark.parametrize(
    ("architecture", "hide"),
    [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("bloom", False)],
)
def test_both_engines_equal_a_loop_over_strings(architecture, hide):
    model, hf = tiny.boot(architecture), tiny.build(architecture)
    asked = setting()
    prompts = asked.prompts(model, 7)
    pairs = [
        naive(hf, model.tokenizer, text, source, hide)
        for text, source in zip(prompts.texts, prompts.sources, strict=True)
    ]
    wanted, raw = np.array(pairs).swapaxes(0, 1)
    assert (wanted.argmax(-1) != raw.argmax(-1)).any(), "or nothing would tell the two apart"
    act = icl.ContextMask({EXAMPLES}, icl.from_layer(0)) if hide else NOTHING
    scores = [
        icl.score_labels(model, form, LABELS, act if hide else None).tolist()
        for form in prompts.forms
    ]
    found = np.exp(CalibratedLabels(LABELS, TEXTS).calibrate(scores[0], scores[1:]))
    assert found == pytest.approx(wanted, abs=1e-4)
    hits = [
        [float(LABELS[some.argmax()] == target) for some in (one, other)] + [1.0]
        for one, other, target in zip(wanted, raw, prompts.targets, strict=True)
    ]
    for engine in ("hooks", "shared"):
        (cell,) = asked.run(model, prompts, [act], engine=engine, batch_size=2)
        assert cell.texts == [LABELS[i] for i in wanted.argmax(-1)], engine
        assert cell.statistics.tolist() == hits, engine


# A bias that is planted, and a signal that is known.


@cache
def biased(label, by):
    """The model that tells keys' values by induction, with a label's logit raised."""
    model = planted.build()
    place = planted.tokenizer()(label)["input_ids"][1]
    with torch.no_grad():
        model.transformer.ln_f.bias[planted.NEXT.start + place] += by / 4
    with TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        planted.tokenizer().save_pretrained(directory)
        return TransformerBridge.boot_transformers(directory, device="cpu").eval()


@pytest.mark.parametrize(
    "kind", [{"texts": ("w50 w51",)}, {"kind": "domain", "n_texts": 6}], ids=["own", "domain"]
)
def test_a_planted_bias_is_taken_out(kind):
    options = {
        "metric": CalibratedLabelAccuracy(**kind),
        "conditions": "examples",
        "n_shots": 4,
        "n_queries": 16,
    }
    whole, plain = (
        icl.sweep(model, planted.TASK, seeds=(0, 1), **options)
        for model in (biased("w22", 40.0), planted.boot())
    )
    raw = whole.uncalibrated()
    assert raw.scores[0, -1].tolist() == [0.25, 0.25], "whatever the examples say"
    assert (raw.scores[0].mean(dim=-1) == 0.25).all()
    assert whole.scores[0, -1].tolist() == [1.0, 1.0], "what they say"
    answers = Counter(answer for by_seed in whole.texts[0][-1] for answer in by_seed)
    assert answers == dict.fromkeys(planted.VALUES, 8)
    assert whole.scores[0, 0].mean() < 0.5, "and nothing where they are hidden"
    # a model without bias is left alone
    assert plain.scores[0, -1].tolist() == plain.uncalibrated().scores[0, -1].tolist() == [1, 1]
    apart = (plain.scores - plain.uncalibrated().scores).mean(dim=-1).abs()
    assert apart.max() < 3 * (0.25 * 0.75 / 32) ** 0.5
    # and the answers do not depend on the bias
    same = np.array(whole.texts[0]) == np.array(plain.texts[0])
    assert same.mean() > 0.9


def test_numbers_by_hand():
    readout = CalibratedLabels(("a", "b"), ("x", "y"))
    own = [[math.log(0.6), math.log(0.2)], [math.log(0.1), math.log(0.3)]]
    free = [[[math.log(0.8), math.log(0.2)]] * 2, [[math.log(0.3), math.log(0.2)]] * 2]
    # among the labels: own 0.75 : 0.25 and 0.25 : 0.75; prior (0.8 + 0.6) / 2 : 0.3
    wanted = [[0.75 / 0.7, 0.25 / 0.3], [0.25 / 0.7, 0.75 / 0.3]]
    found = np.exp(readout.calibrate(own, free))
    assert found == pytest.approx(np.array([np.array(row) / sum(row) for row in wanted]))
    choices = readout.choose_both([own[0]], [rows[:1] for rows in free], ["p"])
    assert choices == [LabelChoice("a", "a")] and str(choices[0]) == "a"
    uneven = [[[0.0, math.log(0.1)]]] * 2
    assert readout.choose_both([own[0]], uneven, ["p"]) == [LabelChoice("b", "a")]
    never = readout.calibrate([[0.0, -math.inf]], [[[-1.0, -math.inf]]] * 2)
    assert never.tolist() == [[0.0, -math.inf]], "a label that is never possible"
    late = readout.calibrate([[-1000.0, -1001.0]], [[[-2000.0, -1000.0]]] * 2)
    assert late[0, 0] == pytest.approx(0.0) and late[0, 1] == pytest.approx(-1001.0)
    for wrong in (free[:1], [free[0], free[1][:1]], [free[0], [[0.0], [0.0]]]):
        with pytest.raises(TaskError, match="expected 2 tables, one for each content-free input"):
            readout.calibrate(own, wrong)


# Prompts and those beside them.


def test_each_query_keeps_its_examples_and_its_place():
    model, asked = tiny.boot("llama"), setting()
    prompts = asked.prompts(model, 3)
    plain = setting("label_accuracy").prompts(model, 3)
    assert prompts.texts == plain.texts and not plain.content_free
    assert prompts.tokens.equal(plain.tokens)
    for place, (text, form) in enumerate(zip(TEXTS, prompts.content_free, strict=True)):
        wanted = [
            f"{own.removesuffix(f'{source}{chr(10)}A:')}{text}\nA:"
            for own, source in zip(prompts.texts, prompts.sources, strict=True)
        ]
        assert form.texts == wanted and form.targets == prompts.targets
        chosen, batches = prompts.take([3, 0]), list(prompts.batches(2))
        assert chosen.content_free[place].texts == [wanted[3], wanted[0]]
        assert [t for some in batches for t in some.content_free[place].texts] == wanted
        assert prompts[1:3].content_free[place].texts == wanted[1:3]
    widths = [form.tokens.shape[1] for form in prompts.forms]
    assert widths[2] > widths[0] and len(prompts.forms) == 3 and not prompts.forms[0].content_free
    assert not append_targets(prompts).content_free
    given = [[PAIRS[7], PAIRS[6]]] * 2
    shown = asked.prompts(model, 0, queries=PAIRS[:2], shots=given)
    assert all(f"Q: {PAIRS[7].source}\nA:" in t for form in shown.forms for t in form.texts)
    assert prompts_digest([prompts]) != prompts_digest([plain])
    assert prompts_digest(prompts.forms) == prompts_digest([prompts])


@pytest.fixture(scope="module")
def by_item():
    """Prompts, and interventions of which one holds a state for each of them."""
    model, asked = tiny.boot("llama"), setting()
    prompts = asked.prompts(model, 1)
    states = icl.states(model, prompts, "last")[1, :, 0] * 3
    mask = icl.ContextMask({EXAMPLES}, icl.from_layer(2))
    runs = [icl.StateEdit("replace", states, 1), mask, mask | icl.HeadAblation({(1, 2)}), NOTHING]
    one_by_one = [
        [
            asked.run(model, prompts.take([i]), [run.take([i])], engine="hooks")[0].statistics
            for i in range(len(prompts))
        ]
        for run in runs
    ]
    return model, asked, prompts, runs, np.array(one_by_one)[:, :, 0]


def test_any_batch_and_budget_gives_the_same(by_item):
    model, asked, prompts, runs, wanted = by_item
    assert len({str(table) for table in wanted}) > 1
    cost = Cost.of(model, prompts, runs, 0)
    fewest = cost.base + max(cost.each)
    ways = [{"engine": "hooks", "batch_size": 2}]
    ways += [{"engine": "shared", "token_budget": tokens} for tokens in (3 * cost.total, fewest)]
    for way in ways:
        told = []
        cells = asked.run(model, prompts, runs, on_progress=told.append, **way)
        assert np.array([cell.statistics for cell in cells]).tolist() == wanted.tolist(), way
        assert sum(told) == len(runs)


def test_the_budget_knows_the_longest_input(by_item):
    model, asked, prompts, runs, _ = by_item
    short, *_, longest = (Cost.of(model, form, runs, 0) for form in prompts.forms)
    cost = Cost.of(model, prompts, runs, 0)
    assert short.base < longest.base == cost.base
    assert all(a >= max(b, c) for a, b, c in zip(cost.each, short.each, longest.each, strict=True))
    too_small = cost.base + max(cost.each) - 1
    with pytest.raises(PromptError, match=f"token_budget is {too_small}"):
        asked.run(model, prompts, runs, engine="shared", token_budget=too_small)


def test_raw_scores_are_those_of_label_accuracy():
    model = tiny.boot("gpt_neo")
    options = {"n_shots": 2, "n_queries": 5, "seeds": (0, 1), "conditions": ["examples", "query"]}
    domain = CalibratedLabelAccuracy(kind="domain", n_texts=3)
    found = icl.sweep(model, TASK, metric=domain, **options)
    plain = icl.sweep(model, TASK, metric="label_accuracy", **options)
    raw = found.uncalibrated()
    assert raw.scores.equal(plain.scores) and raw.item_scores.equal(plain.item_scores)
    assert raw.statistics.equal(plain.statistics) and raw.metric == "label_accuracy"
    assert raw.provenance["signature"] == plain.provenance["signature"]
    assert found.provenance["signature"].startswith(f"{plain.provenance['signature']}|calibrated:")
    assert not found.scores.equal(raw.scores)
    assert icl.locate(raw)[0].scores.equal(icl.locate(plain)[0].scores)
    assert icl.compare(raw)[0].layer == icl.compare(plain)[0].layer


# Results that hold both.


@pytest.fixture(scope="module")
def swept():
    options = {"n_shots": 2, "n_queries": 5, "seeds": (0, 1), "conditions": "examples"}
    return icl.sweep(tiny.boot("llama"), TASK, **options)


def test_a_sweep_holds_both_scores(swept, tmp_path):
    assert swept.is_calibrated and swept.metric == "label_accuracy_contextual"
    again = icl.SweepResult.load(swept.save(tmp_path / "swept"))
    for result in (swept, again):
        raw = result.uncalibrated()
        assert raw.scores.numpy() == pytest.approx(swept.statistics[..., 1].mean(-1).numpy())
        assert not raw.is_calibrated and raw.texts == []
        kept = icl.SweepResult.load(raw.save(tmp_path / "raw"))
        assert kept.scores.equal(raw.scores) and kept.metric == "label_accuracy"
        with pytest.raises(ResultError, match="the metric is 'label_accuracy': expected a calibr"):
            raw.uncalibrated()
        with pytest.raises(ResultError):
            icl.failure_rates(raw)
    frame = again.to_dataframe("cell")
    assert frame["uncalibrated"].tolist() == swept.uncalibrated().scores.flatten().tolist()
    assert again.to_xarray()["uncalibrated"].shape == swept.scores.shape
    assert "uncalibrated" not in swept.uncalibrated().to_dataframe("cell")
    as_means = replace(
        swept, metric="exact_match", statistics=swept.statistics[..., [0, 2]],
        provenance={**swept.provenance, "metric_is_mean": True},
    )  # fmt: skip
    assert swept.score_interval().numpy() == pytest.approx(as_means.score_interval().numpy())


def test_figure_and_page_show_both(swept, tmp_path):
    figure = icl.plots.layer_curves(swept)
    (line,) = [trace for trace in figure.data if trace.name == "examples, uncalibrated"]
    assert list(line.y) == swept.uncalibrated().scores[0].mean(dim=-1).tolist()
    assert "without calibration" in figure.layout.annotations[-1].text
    page = icl.write_report(swept, tmp_path / "both.html").read_text("utf-8")
    assert ">Without calibration</h2>" in page
    other = icl.write_report(swept.uncalibrated(), tmp_path / "raw.html").read_text("utf-8")
    assert "Without calibration" not in other and "without calibration" not in other


def test_other_experiments_hold_both(tmp_path):
    model, small = tiny.boot("llama"), {"n_queries": 5, "seeds": (0, 1)}
    metrics = "label_accuracy_contextual", "label_accuracy"
    found, plain = (
        induction.ablation_study(
            model, TASK, {(1, 1)}, 1, shots=(2,), interventions=["zero"], metric=metric, **small
        )
        for metric in metrics
    )
    again = type(found).load(found.save(tmp_path / "ablation"))
    assert again.uncalibrated().statistics.equal(plain.statistics)
    assert again.uncalibrated().compare()[0].full == plain.compare()[0].full
    found, plain = (HeadStudy(model, TASK, metric=m, n_shots=2, **small) for m in metrics)
    heads, wanted = found.sweep(), plain.sweep()
    raw = heads.uncalibrated()
    assert raw.scores.equal(wanted.scores) and raw.interval().shape == wanted.interval().shape
    assert raw.ceiling.equal(wanted.ceiling) and raw.floor.equal(wanted.floor)
    assert not raw.ceiling.equal(raw.floor) and not raw.scores.equal(heads.scores)
    assert type(raw).load(raw.save(tmp_path / "heads")).worth.equal(wanted.worth)
    with pytest.raises(ResultError, match="a HeadSetCurve has scores that it holds no statistics"):
        found.nested([(0, 1)]).uncalibrated()


def test_cuts_of_the_circuit_hold_both():
    options = {"windows": "layers", "controls": 1, "n_shots": 4, "n_queries": 5, "seeds": 0}
    found, plain = (
        circuit.disconnect(tiny.boot("llama"), TASK, edges=["y->s_q"], metric=metric, **options)
        for metric in ("label_accuracy_contextual", "label_accuracy")
    )
    raw = found.uncalibrated()
    assert raw.statistics.equal(plain.statistics) and raw.ceiling.equal(plain.ceiling)
    assert raw.curve("y->s_q").scores.equal(plain.curve("y->s_q").scores)
    lost = found.ceiling - found.scores[0, 0]
    assert found.curve("y->s_q").scores.numpy() == pytest.approx(lost.numpy())


def test_task_vectors_say_why_not():
    def with_raw(table):
        return torch.stack([table[..., 0] > 0, table[..., 0] > 1, table[..., 1] > 0], -1).double()

    plain = task_vectors()
    names = "statistics", "control_statistics", "test_statistics", "pair_statistics"
    tables = {n: with_raw(getattr(plain, n)) for n in names if getattr(plain, n) is not None}
    found = replace(plain, metric="label_accuracy_contextual", **tables)
    with pytest.raises(ResultError, match="at the layer that calibrated scores chose"):
        found.uncalibrated()
    curve = found.curve().uncalibrated()
    rows = score_totals(LabelAccuracy(), curve.statistics.sum(dim=-2).numpy())
    assert curve.scores.numpy() == pytest.approx(rows[:-1])
    assert curve.floor.numpy() == pytest.approx(rows[-1])


@pytest.mark.usefixtures("no_pictures")
def test_the_command_shows_both(tmp_path, capsys):
    directory = planted.save(tmp_path / "model", n_words=planted.N_WORDS)
    task = planted.write_task(tmp_path / "recall.jsonl")
    command = (
        f"sweep {task} --model {directory} --output {tmp_path}/found --n-queries 2 --seeds 0 "
        "--n-shots 4 --metric label_accuracy_domain --quiet --device cpu"
    )
    assert main([*command.split(), "--dry-run"]) == 0
    assert "with 20 content-free inputs: 21 times what follows" in capsys.readouterr().out
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert printed.count("verdict") == 2 and "\nwithout calibration:\n" in printed
    assert "Without calibration" in (tmp_path / "found" / "report.html").read_text("utf-8")
    with (tmp_path / "found" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"score", "uncalibrated"} <= set(rows[0])
    study = command.replace("sweep", "induction").replace("--n-shots 4", "--shots 4 --n-effects 0")
    assert main([*study.split(), "--interventions", "zero", "--fractions", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "\nlabel_accuracy_domain:\n" in printed and "\nlabel_accuracy:\n" in printed
    assert "without calibration" in (tmp_path / "found" / "induction.html").read_text("utf-8")


# The metric.


def test_domain_texts_are_random_words_of_average_length():
    bank = [icl.Example(f"common w{i} v{i}" + " tail" * (i % 2), "x") for i in range(40)]
    texts = domain_texts(bank, 300, seed=4)
    assert {len(text.split()) for text in texts} == {4}, "3.5 words on average"
    assert texts == domain_texts(bank, 300, seed=4) != domain_texts(bank, 300, seed=5)
    words = Counter(word for text in texts for word in text.split())
    assert set(words) <= {word for example in bank for word in example.source.split()}
    assert words["common"] / 1200 == pytest.approx(40 / 140, abs=0.05), "as often as in the task"
    bound = CalibratedLabelAccuracy(kind="domain", n_texts=5).for_task(TASK, 2)
    assert bound.labels == tuple(dict.fromkeys(e.target for e in TASK.train))
    assert bound.readout.content_free == domain_texts(TASK.train, 5) and len(bound.texts) == 5
    assert bound.for_task(TASK, 2) == bound


def test_the_signature_says_everything():
    said = [
        CalibratedLabelAccuracy(**options).for_task(TASK, 2).signature
        for options in (
            {}, {"texts": TEXTS}, {"labels": ("a", "b")}, {"kind": "domain"},
            {"kind": "domain", "n_texts": 3}, {"kind": "domain", "seed": 1},
        )
    ]  # fmt: skip
    assert len(set(said)) == len(said)
    assert said[0].endswith("|calibrated:contextual|content_free:'N/A'|prior:mean probability")
    assert "|calibrated:domain|content_free:20 texts|seed:0|sha256:" in said[3]


def test_scores_of_choices():
    metric = CalibratedLabelAccuracy(("a", "b"))
    choices = [LabelChoice("a", "b"), LabelChoice("b", "b"), LabelChoice("a", "a")]
    table = metric.statistics(choices, ["a", "a", "a"])
    assert table.tolist() == [[1, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert metric.score(table.sum(axis=0)) == pytest.approx(2 / 3)
    assert score_totals(metric, table).tolist() == [1, 0, 1]
    with pytest.raises(TaskError, match="label_accuracy takes texts"):
        metric.statistics(["a"], ["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ()}, "one or more texts, none of them empty"),
        ({"texts": ("N/A", " ")}, "one or more texts, none of them empty"),
        ({"kind": "words"}, "kind is 'words'"),
        ({"kind": "domain", "n_texts": 0}, "n_texts is 0"),
    ],
)
def test_what_is_no_calibration(options, message):
    with pytest.raises(TaskError, match=message):
        CalibratedLabelAccuracy(**options)


def test_what_cannot_be_calibrated():
    model = tiny.boot("llama")
    empty = replace(TASK, train=())
    with pytest.raises(TaskError, match=r"the labels of the examples are \[\]"):
        Setting.of(empty)
    known = CalibratedLabelAccuracy(LABELS, kind="domain")
    with pytest.raises(TaskError, match="no words to draw content-free inputs from"):
        Setting.of(empty, metric=known)
    own = icl.Task.from_prompts(setting().prompts(model, 0), metric="label_accuracy")
    for metric in ("label_accuracy_contextual", known):
        with pytest.raises(TaskError, match="has prompts of its own, and no layout"):
            icl.sweep(model, own, metric=metric)
    with pytest.raises(TaskError, match="compat='sia2024' hides the columns of a code that"):
        icl.sweep(model, TASK, compat="sia2024", n_shots=2, n_queries=2)
    with pytest.raises(PromptError, match=r"with the content-free input '(sort ){300}'"):
        setting(CalibratedLabelAccuracy(texts=("sort " * 300,))).prompts(model, 0)
    bound = METRIC.for_task(TASK, 2)
    plain = setting("label_accuracy").prompts(model, 0)
    for engine in ("hooks", "shared"):
        with pytest.raises(TaskError, match="by 2 content-free inputs, but .* with 0"):
            run_grid(model, plain, [NOTHING], bound, engine=engine, max_new_tokens=1, batch_size=2)
    with pytest.raises(TaskError, match="there are no content-free inputs"):
        CalibratedLabels(LABELS).require()
