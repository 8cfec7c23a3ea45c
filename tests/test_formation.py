"""Formation: the task, clamps, training against plain torch, and the paper's laws.

The laws are shown on short trainings: the published sizes, at learning rates of 1e-4 and 1e-3 in
place of 1e-5, which take a tenth and a hundredth of the sequences.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F  # noqa: N812

from icl_locate import formation
from icl_locate.errors import NumericalError, ResultError, TaskError
from icl_locate.formation import (
    CopyClamp,
    FormationModel,
    FormationShape,
    FormationTask,
    LayerClamp,
    PatternClamp,
    ValueAblation,
    product_of_vectors,
    training,
)

SMALL = FormationTask(n_classes=6, n_features=16, n_test_classes=4)
TINY = {
    "task": SMALL, "shape": FormationShape(16, 2), "batch_size": 8, "evaluate_every": 80,
    "n_evaluated": 32, "learning_rate": 1e-3, "progress": False,
}  # fmt: skip
QUICK = {"n_evaluated": 512, "progress": False}


@pytest.fixture(scope="module")
def free():
    """All heads, nothing clamped."""
    return formation.train((), 12_000, learning_rate=1e-3, evaluate_every=1000, **QUICK)


def sequences_of(n_classes, first, pairs, n_labels):
    """Every sequence, by loops."""
    return {
        (n_labels + first + a, l, n_labels + first + b, m, n_labels + first + q)
        for a in range(n_classes)
        for b in range(n_classes)
        if a != b
        for pair in pairs
        for l, m in (pair, pair[::-1])  # noqa: E741
        for q in (a, b)
    }


def test_sets_hold_every_sequence_once():
    pairs = SMALL.label_pairs
    assert len(pairs["train"]) == 8 and len(pairs["relabel"]) == 2
    assert len({*pairs["train"], *pairs["relabel"]}) == 10
    for name, (n, first) in {"train": (6, 0), "relabel": (6, 0), "exemplar": (4, 6)}.items():
        rows = [tuple(row) for row in SMALL.sequences(name).tolist()]
        assert len(rows) == len(set(rows)) == SMALL.size(name)
        assert set(rows) == sequences_of(n, first, pairs[name], 5)
        some = SMALL.sequences(name, 20).tolist()
        assert len({tuple(row) for row in some} & set(rows)) == 20
    assert FormationTask().size("train") == 78_400


def test_a_batch_is_a_function_of_seed_and_step():
    whole = SMALL.batches(3, 0, 4)
    assert torch.equal(SMALL.batches(3, 7, 4), whole[7:])
    assert not torch.equal(SMALL.batches(4, 0, 4)[0], whole[0])
    later = SMALL.batches(3, len(whole), 4)
    assert not torch.equal(later[0], whole[0])
    known = {tuple(row) for row in SMALL.sequences().tolist()}
    assert {tuple(row) for row in whole.flatten(0, 1).tolist()} <= known


def test_vectors_resemble_each_other_as_asked():
    for wanted in (0.0, 0.8):
        vectors = F.normalize(FormationTask(similarity=wanted).vectors, dim=1)
        cosines = vectors @ vectors.T
        assert cosines[~torch.eye(150, dtype=torch.bool)].mean().item() == pytest.approx(
            wanted, abs=0.05
        )


def plain_logits(model, tokens):
    """The model again, from its weights: rows of sequences, heads by loops."""
    w = dict(model.named_parameters())
    n_heads, width = model.shape.n_heads, model.shape.d_model
    d_head = width // n_heads
    table = torch.cat([w["labels"], model.task.vectors @ w["items"].T + w["item_bias"]])
    stream = table[tokens]

    def turned(rows, places):
        out = torch.zeros_like(rows)
        for i in range(0, d_head, 2):
            angle = places / 10_000 ** (i / d_head)
            cos, sin = torch.cos(angle)[None, :], torch.sin(angle)[None, :]
            out[..., i] = rows[..., i] * cos - rows[..., i + 1] * sin
            out[..., i + 1] = rows[..., i] * sin + rows[..., i + 1] * cos
        return out

    def norm(rows, name):
        return F.layer_norm(rows, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    places = torch.arange(5.0)
    for name in ("first", "second"):
        normed, added = norm(stream, f"{name}.norm"), torch.zeros_like(stream)
        for head in range(n_heads):
            cut = slice(head * d_head, (head + 1) * d_head)
            q, k, v = (normed @ w[f"{name}.{part}"][cut].T for part in ("query", "key", "value"))
            scores = turned(q, places) @ turned(k, places).transpose(1, 2) / math.sqrt(d_head)
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
            added = added + scores.softmax(-1) @ v @ w[f"{name}.output"][:, cut].T
        stream = stream + added
    return norm(stream[:, -1], "norm") @ w["answer"].T + w["answer_bias"]


def test_the_model_is_the_one_that_loops_say():
    model = FormationModel(SMALL, FormationShape(16, 2), seed=3)
    tokens = SMALL.sequences("exemplar", 50)
    table = model.embeddings(SMALL.vectors)
    torch.testing.assert_close(model.run(tokens, table).logits, plain_logits(model, tokens))


def test_free_training_is_plain_torch():
    """The same operations, the optimizer and the loop written anew: equal bit for bit."""
    run = formation.train((), 400, seed=5, **TINY)
    model = FormationModel(SMALL, FormationShape(16, 2), seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for tokens in SMALL.batches(5, 0, 8)[:50]:
        table = torch.cat([model.labels, F.linear(model.vectors, model.items, model.item_bias)])
        logits = plain_pass(model, F.embedding(tokens.T, table))
        wanted = torch.where(tokens[:, 0] == tokens[:, 4], tokens[:, 1], tokens[:, 3])
        optimizer.zero_grad()
        F.cross_entropy(logits, wanted).backward()
        optimizer.step()
    assert torch.equal(run.weights, torch.cat([p.detach().flatten() for p in model.parameters()]))


def plain_pass(model, stream):
    """The products and sums of a pass in the order of the model, by nn.functional alone."""
    heads, width = model.shape.n_heads, model.shape.d_model

    def split(weight, rows):
        return (weight @ rows.reshape(-1, width).T).view(heads, -1, *rows.shape[:2])

    def turned(rows):
        places = torch.arange(5 - rows.shape[2], 5, dtype=torch.float64)
        d_head = rows.shape[1]
        speeds = 10_000.0 ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
        angles = (speeds[:, None] * places).repeat_interleave(2, 0)[..., None]
        cos, sin = angles.cos().float(), angles.sin().float()
        sin[::2] *= -1
        return torch.addcmul(rows * cos, rows.unflatten(1, (-1, 2)).flip(2).flatten(1, 2), sin)

    def attend(layer, normed, n_rows):
        query = turned(split(layer.query, normed[-n_rows:]))
        key, value = turned(split(layer.key, normed)), split(layer.value, normed)
        scores = (key.unsqueeze(3) * query.unsqueeze(2)).sum(1)
        hidden = torch.arange(5)[:, None] > torch.arange(5 - n_rows, 5)
        future = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)[..., None]
        pattern = torch.add(future, scores, alpha=1 / math.sqrt(width // heads)).softmax(1)
        return (pattern.unsqueeze(1) * value.unsqueeze(3)).sum(2)

    def norm(layer, rows):
        return F.layer_norm(rows, (width,), layer.weight, layer.bias, layer.eps)

    first, second = model.first, model.second
    mixed = attend(first, norm(first.norm, stream), 5)
    stream = stream + (first.output @ mixed.reshape(width, -1)).T.view_as(stream)
    mixed = attend(second, norm(second.norm, stream), 1).permute(3, 2, 0, 1)[:, 0]
    last = stream[-1] + F.linear(mixed.flatten(1), second.output)
    return F.linear(norm(model.norm, last), model.answer, model.answer_bias)


def test_killed_and_resumed_ends_in_the_same_weights(tmp_path, monkeypatch):
    whole = formation.train("previous_token", 400, seed=1, **TINY)
    learn, steps = training.Training._learn, []

    def killed(self, tokens):
        steps.append(self.step)
        if len(steps) == 33:
            raise KeyboardInterrupt
        learn(self, tokens)

    monkeypatch.setattr(training.Training, "_learn", killed)
    with pytest.raises(KeyboardInterrupt):
        formation.train("previous_token", 400, seed=1, checkpoint=tmp_path / "run", **TINY)
    resumed = formation.train("previous_token", 400, seed=1, checkpoint=tmp_path / "run", **TINY)
    assert steps[33] == 30, "from the last point on"
    for name in ("weights", "losses", "strengths", "only_head"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    with pytest.raises(ResultError, match="another training"):
        formation.train("previous_token", 400, seed=2, checkpoint=tmp_path / "run", **TINY)


def test_a_study_is_its_runs_side_by_side(tmp_path):
    clamps = {"none": ("one_head",), "match": ("match", "one_head")}
    found = formation.study(clamps, (0, 3), 160, checkpoint=tmp_path, **TINY)
    alone = formation.train(clamps["match"], 160, seed=3, **TINY)
    assert torch.equal(found.runs["match"][1].weights, alone.weights)
    assert torch.equal(found.runs["match"][1].losses, alone.losses)
    again = formation.study(clamps, (0, 3), 160, checkpoint=tmp_path, **TINY)
    assert torch.equal(found.losses, again.losses)
    assert len(list(tmp_path.iterdir())) == 4
    found.save(tmp_path / "study")
    loaded = formation.FormationStudy.load(tmp_path / "study")
    assert torch.equal(loaded.weights, found.weights) and loaded.clamps == found.clamps
    assert loaded.runs["none"][0].model().shape == FormationShape(16, 2)


def passes(clamps):
    """A pass under clamps with the activations' gradients kept."""
    model = FormationModel(SMALL, FormationShape(16, 2), seed=1)
    tokens = SMALL.sequences("train", 16)
    ran = model.run(tokens, model.embeddings(), clamps)
    wanted = torch.where(tokens[:, 0] == tokens[:, 4], tokens[:, 1], tokens[:, 3])
    F.cross_entropy(ran.logits, wanted).backward()
    return model, tokens, ran


def test_a_pattern_is_as_it_was_told_and_takes_no_gradient():
    told = torch.zeros(5, 5)
    told[0, 0] = told[1, 0] = told[2, 1] = told[3, 2] = told[4, 3] = 1
    model, _, ran = passes([PatternClamp(0, 1)])
    assert (ran.patterns[0][:, 1] == told).all()
    assert not (ran.patterns[0][:, 0] == told).all()
    for weight in (model.first.query, model.first.key):
        assert not weight.grad[8:].any(), "nothing flows through the clamped head's scores"
        assert weight.grad[:8].any()
    assert model.first.value.grad[8:].any(), "its values are its own"
    model, tokens, ran = passes([PatternClamp(1, 0, "match")])
    right = torch.where(tokens[:, 0] == tokens[:, 4], 1, 3)
    assert torch.equal(ran.patterns[1][:, 0, 0], F.one_hot(right, 5).float())
    assert not model.second.query.grad[:8].any() and model.second.query.grad[8:].any()


def test_ablated_values_are_zero_and_take_no_gradient():
    model, _, ran = passes([ValueAblation(1, frozenset({0}))])
    assert not ran.values[1][:, 0].any() and ran.values[1][:, 1].any()
    assert not model.second.value.grad[:8].any() and model.second.value.grad[8:].any()
    assert not model.second.query.grad[:8].any() and model.first.value.grad.any()


def test_a_layer_clamp_gives_embeddings_and_takes_no_gradient():
    model, tokens, ran = passes([LayerClamp()])
    embedded = model.embeddings()[tokens]
    assert torch.equal(ran.stream, embedded[:, -1])
    shifted = embedded[:, [0, 0, 1, 2, 4]]
    second, norm = model.second, F.layer_norm
    seen, own = (
        norm(rows, (16,), second.norm.weight, second.norm.bias) for rows in (shifted, embedded)
    )
    value = (own @ second.value.T).view(16, 5, 2, 8).transpose(1, 2)
    torch.testing.assert_close(ran.values[1], value)
    key = (seen @ second.key.T).view(16, 5, 2, 8).transpose(1, 2)
    plain = model.run(tokens, model.embeddings())
    assert not torch.allclose(plain.values[1], value) and key.shape == value.shape
    assert all(p.grad is None or not p.grad.any() for p in model.first.parameters())
    assert model.items.grad.any() and second.key.grad.any() and second.value.grad.any()


def test_a_copied_head_answers_with_its_scores():
    model, tokens, ran = passes([CopyClamp(1)])
    for row, logits in enumerate(ran.logits):
        for label in range(5):
            places = [place for place in (1, 3) if tokens[row, place] == label]
            wanted = ran.scores[row, 1, places[0]] if places else torch.tensor(-1e9)
            assert logits[label] == wanted
    assert not model.second.value.grad.any() if model.second.value.grad is not None else True
    assert model.second.query.grad[8:].any() and not model.second.query.grad[:8].any()
    assert model.first.value.grad.any()


def test_clamps_hold_at_every_step_of_training(monkeypatch):
    seen, run = [], FormationModel.run

    def watched(self, tokens, table, clamps=()):
        found = run(self, tokens, table, clamps)
        seen.append(
            (found.patterns[0][:, 1, 3, 2].min().item(), found.values[1][:, 0].any().item())
        )
        return found

    monkeypatch.setattr(FormationModel, "run", watched)
    clamps = (PatternClamp(0, 1), ValueAblation(1, frozenset({0})))
    formation.train(clamps, 80, **TINY)
    assert len(seen) == 10 + 2 * 3 and set(seen) == {(1.0, False)}


def test_loss_falls_in_the_papers_order():
    """Vectors that are alike, as images' features are; what needs layer 0 comes later."""
    alike = FormationTask(similarity=0.8)
    order = ("layer 1 and copy", "match", "copy", "layer 1", "previous token", "none")
    clamps = {label: formation.PAPER_CLAMPS[label] for label in order}
    first = formation.study(
        clamps, n_sequences=12_000, task=alike, learning_rate=1e-4, evaluate_every=1000, **QUICK
    )
    times = {label: of[0] for label, of in first.times().items()}
    assert max(times["layer 1 and copy"], times["match"]) < times["copy"] < times["layer 1"]
    assert times["previous token"] is times["none"] is None
    later = formation.study(
        {label: clamps[label] for label in order[4:]},
        n_sequences=12_000, learning_rate=1e-3, evaluate_every=1000, **QUICK,
    )  # fmt: skip
    times = {label: of[0] for label, of in later.times().items()}
    assert times["previous token"] < times["none"]


def test_strong_heads_are_the_best_alone_and_all_are_better(free):
    strengths, only = free.strengths[-1], free.only_head[-1]
    assert int(strengths.argmax()) == int(only.argmax())
    assert spearmanr(strengths, only).statistic >= 0.8
    assert (only <= free.accuracies[0, -1]).all(), "heads add up"
    model, best = free.model(), int(strengths.argmax())
    without = formation.ablate(model, [(1, best)], n=1000)
    assert without.accuracy > 0.9, "the others do without the strongest"
    assert free.accuracies[:2, -1].min() > 0.95 and free.reached() < 12_000


def test_scores_of_heads_are_those_of_runs_without_the_others(free):
    model = free.model()
    tokens = model.task.sequences("train", 400)
    strengths = formation.induction_strengths(model, n=400)
    ran = model.run(tokens, model.embeddings())
    right = torch.where(tokens[:, 0] == tokens[:, 4], 1, 3)
    paid = ran.patterns[1][:, :, 0]
    by_hand = [
        sum(paid[i, head, right[i]] - paid[i, head, 4 - right[i]] for i in range(400)) / 400
        for head in range(8)
    ]
    torch.testing.assert_close(strengths, torch.stack(by_hand))
    before = formation.previous_token_strengths(model, n=400)
    rows = ran.patterns[0].diagonal(-1, 2, 3).mean(dim=(0, 2))
    torch.testing.assert_close(before, rows)
    only = formation.only_head_accuracy(model, n=400)
    for head in (0, 3):
        others = [(1, other) for other in range(8) if other != head]
        assert only[head].item() == pytest.approx(formation.ablate(model, others, n=400).accuracy)


def test_layer_0_is_missed_only_by_layer_1(free):
    model, below = free.model(), [(0, head) for head in range(8)]
    whole = formation.ablate(model, [], n=1000).accuracy
    lost = {
        kept: formation.ablate(model, below, preserve=kept, n=1000).accuracy
        for kept in ("nothing", "patterns", "values", "both")
    }
    assert lost["both"] > whole - 0.02, "it adds nothing to the answer itself"
    assert max(lost["nothing"], lost["patterns"], lost["values"]) < 0.7
    top = formation.ablate(model, [(1, 0)], n=1000)
    assert top == formation.ablate(model, [(1, 0)], preserve="both", n=1000)


@torch.no_grad()
def test_progress_is_what_its_names_say():
    """Of an untrained model, which answers labels that are not in the context, too."""
    model = FormationModel(FormationTask(), seed=3)
    tokens = model.task.sequences("train", 300)
    ran, n = model.run(tokens, model.embeddings()), len(tokens)
    to_item, to_labels, inside, right = torch.zeros(8), torch.zeros(8), 0, 0
    for i, (first, one, _, other, query) in enumerate(tokens.tolist()):
        below, above = ran.patterns[0][i], ran.patterns[1][i]
        to_item += (below[:, 1, 0] + below[:, 3, 2]) / 2
        to_labels += above[:, 0, 1] + above[:, 0, 3]
        inside += int(ran.logits[i].argmax()) in (one, other)
        chosen = one if ran.logits[i, one] > ran.logits[i, other] else other
        right += chosen == (one if query == first else other)
    found = formation.measures.measure(model, tokens, ())
    expected = [to_item.max() / n, to_labels.max() / n, inside / n, right / n]
    torch.testing.assert_close(found.progress, torch.tensor(expected))
    assert found.accuracy < found.progress[3] and found.progress[2] < 1


def test_progress_comes_before_the_jump(free):
    assert free.measures == formation.measures.MEASURES
    assert free.progress.shape == (4, len(free.points))
    assert torch.equal(free.losses, free.set_losses[0])
    in_context = free.progress[free.measures.index("label_in_context")]
    assert in_context[5] > 0.95 > 0.9 > free.accuracies[0, 5], "which labels, before which of them"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clamps": "layer2"}, "clamps is 'layer2': expected clamps: 'previous_token'"),
        ({"clamps": [PatternClamp(0, 9)]}, "expected heads from 0 to 1"),
        ({"clamps": [PatternClamp(1, 0), PatternClamp(1, 0, "match")]}, "one pattern for a head"),
        ({"clamps": [CopyClamp(0), CopyClamp(1)]}, "one head to copy"),
        ({"head": 2}, "head is 2: expected a head from 0 to 1"),
        ({"n_sequences": 0}, "n_sequences is 0"),
        ({"n_evaluated": 0}, "n_evaluated is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, message, monkeypatch):
    monkeypatch.setattr(training, "FormationModel", None)
    with pytest.raises(TaskError, match=message.replace("(", r"\(")):
        formation.train(**{**TINY, **arguments})


def test_impossible_sizes_are_refused():
    with pytest.raises(TaskError, match="n_held_out is 3: expected fewer than the 3 pairs"):
        FormationTask(n_labels=3, n_held_out=3)
    with pytest.raises(TaskError, match="d_model is 12: expected a multiple of 8"):
        FormationShape(12, 4)
    with pytest.raises(TaskError, match="layer is 2"):
        PatternClamp(2, 0)
    with pytest.raises(TaskError, match="expected layers 0 and 1, heads from 0 to 1"):
        formation.ablate(FormationModel(SMALL, FormationShape(16, 2)), [(1, 5)])
    with pytest.raises(TaskError, match="differ in more than punctuation"):
        formation.study({"a b": (), "a-b": ()}, checkpoint="runs", **TINY)


def test_times_are_read_off_a_straight_line():
    run = formation.train((), 160, **TINY)
    fields = {name: getattr(run, name) for name in run.__dataclass_fields__}
    losses = torch.tensor([1.0, 0.5, 0.1])
    made = formation.FormationRun(**fields | {"losses": losses})
    assert made.points == (0, 80, 160)
    assert made.reached(0.3) == 120 and made.reached(0.05) is None and made.reached(2.0) == 0


def test_a_product_of_vectors_is_learnt_sooner_with_some_clamped():
    true, (a, b, _) = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, 4)))
    wanted = torch.einsum("i,j,k->ijk", *true)
    now, losses = [a, b, true[2]], []
    for _ in range(30):
        x, y = (one.clone().requires_grad_(True) for one in now[:2])
        loss = (wanted - torch.einsum("i,j,k->ijk", x, y, now[2])).square().mean() / 2
        losses.append(loss.item())
        steps = torch.autograd.grad(loss, (x, y))
        now[:2] = [one - step for one, step in zip(now[:2], steps, strict=True)]
    found = product_of_vectors([(2,)], size=4, n_steps=30)
    torch.testing.assert_close(found[0], torch.tensor(losses))
    free, half, alone = product_of_vectors()
    assert alone[100] < half[100] < free[100]
    assert free[400] > 0.9 * free[100] and half[300] < 0.1 * half[100], "a plateau, and none"


def test_a_toy_whose_loss_grows_beyond_all_numbers_is_refused():
    with pytest.raises(NumericalError, match="at learning_rate 1000000.0: lower it"):
        formation.product_of_vectors(learning_rate=1e6)
