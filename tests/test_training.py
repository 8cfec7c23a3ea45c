"""Training of the embedded model: batches, determinism, resuming."""

import random
import re
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from icl_locate.embedded.languages import is_held_out, sample_sentence
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import ModelError
from icl_locate.training.batches import BatchSampler
from icl_locate.training.curriculum import CURRICULUM, KINDS, Stage
from icl_locate.training.rows import IGNORED
from icl_locate.training.train import TrainConfig, Trainer, learning_rate, train

STAGES = tuple(replace(stage, until=0.0) for stage in CURRICULUM)
TINY = TrainConfig(
    n_layers=2, d_model=16, n_heads=2, d_mlp=16, batch_size=4, n_steps=6, warmup=2, decay=2,
    classes_after=1, checkpoint_every=3, stages=STAGES,
)  # fmt: skip
REPEATS, LAST = CURRICULUM[7], CURRICULUM[-1]
MIXED = Stage(dict.fromkeys(KINDS[1:], 1 / 6))

needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="this torch is older than the training script asks for"
)


@torch.no_grad()
def row_loss(model, tokens, labels):
    """The mean loss of one row's answers."""
    logits = model(tokens[None]).logits[0]
    return float(nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED))


def rows_of(batch, kind):
    """The real tokens, labels and judged places of a batch's rows of one kind."""
    for i in (batch.kinds == KINDS.index(kind)).nonzero()[:, 0]:
        n = int((batch.tokens[i] != 0).sum())
        yield batch.tokens[i, :n], batch.labels[i, :n], batch.judged[i, :n]


@pytest.mark.parametrize("longest", [1, 4, 8])
def test_batches_are_what_the_tokenizer_gives(longest):
    tokenizer = build_tokenizer()
    stage = replace(MIXED, longest=longest)
    batch = BatchSampler(0, batch_size=64, instructed=0.5).sample(3, stage)
    asks = {"translations": "▁A:", "patterns": "▁:", "classes": "▁:", "recall": "▁:"}
    for kind in KINDS:
        rows = list(rows_of(batch, kind))
        assert rows, kind
        for tokens, labels, judged in rows:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            assert tokenizer(text)["input_ids"] == tokens.tolist()
            answered = (labels != IGNORED).nonzero()[:, 0]
            assert labels[answered].equal(tokens[answered + 1]), "labels are the next tokens"
            assert not (judged & (labels == IGNORED)).any()
            if kind in asks:
                mark = tokenizer.convert_tokens_to_ids(asks[kind])
                assert not (judged & (tokens != mark)).any(), "answers follow their mark"
                assert ("Translate" not in text) or not judged.any()


def test_what_repeats_follows_the_same_token_as_before():
    batch = BatchSampler(1, batch_size=32, instructed=0.0).sample(0, MIXED)
    for kind, behind in (("repeats", 0), ("spaced", 1)):
        for tokens, _, judged in rows_of(batch, kind):
            assert judged.any()
            for i in judged.nonzero()[:, 0].tolist():
                same = tokens[i - behind : i + 1]
                before = range(behind, i)
                earlier = [j for j in before if tokens[j - behind : j + 1].equal(same)]
                assert earlier and all(tokens[j + 1] == tokens[i + 1] for j in earlier)


def test_labels_are_dealt_out_anew_in_each_row_or_settled():
    """Of patterns no label means the same class in all rows, of classes each does."""
    tokenizer, sampler = build_tokenizer(), BatchSampler(0, batch_size=64, instructed=0.0)
    for kind, least in (("patterns", 3), ("classes", 1)):
        meanings = set()
        for step in range(8):
            for tokens, _, judged in rows_of(sampler.sample(step, MIXED), kind):
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                items = re.findall(r"((?:\w+ )+): (\w+) \n", text)
                assert len(items) >= 4 and judged.any()
                if len(items[-1][0].split()) == 5:  # centre embedding, or letters that all differ
                    named = [(len(set(source.split())) == 5, label) for source, label in items]
                    assert set(named) == set(dict(named).items())
                    meanings.add(dict(named)[False])
        assert len(meanings) >= least and (least > 1 or meanings == {"Foo"})


def test_no_batch_holds_a_held_out_sequence():
    tokenizer, sampler = build_tokenizer(), BatchSampler(0, batch_size=64, instructed=0.2)
    for step in range(5):
        batch = sampler.sample(step, MIXED)
        for kind, mark, item in (
            ("translations", "A:", "Q:"), ("patterns", ":", "\n \n"), ("classes", ":", "\n \n"),
        ):  # fmt: skip
            for tokens, _, _ in rows_of(batch, kind):
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                parts = text.split(item)[1:] if kind == "translations" else text.split(item)
                sources = [tuple(part.split(mark)[0].split()) for part in parts]
                classed = [source for source in sources if len(source) >= 2]
                assert not any(is_held_out(source) for source in classed if "Below" not in source)
    held_out = sample_sentence(random.Random(0), 5, held_out=True)
    assert is_held_out(held_out) and len(set(held_out)) == 5


@needs_muon
def test_every_row_weighs_the_same_in_the_loss():
    trainer = Trainer(TINY)
    batch = BatchSampler(TINY.seed, TINY.batch_size, TINY.instructed).sample(0, STAGES[0])
    rows = [row_loss(trainer.model, *row) for row in zip(batch.tokens, batch.labels, strict=True)]
    assert trainer.step() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


@needs_muon
def test_classes_are_told_behind_their_layer():
    config = replace(TINY, n_layers=3, classes_after=2, batch_size=12, stages=(MIXED,))
    trainer, shallow = Trainer(config), Trainer(config)
    shallow.model.model.layers = shallow.model.model.layers[: config.classes_after]
    batch = BatchSampler(config.seed, config.batch_size, config.instructed).sample(0, MIXED)
    rows = [
        row_loss((shallow if KINDS[kind] == "classes" else trainer).model, tokens, labels)
        for tokens, labels, kind in zip(batch.tokens, batch.labels, batch.kinds, strict=True)
    ]
    assert {"classes", "patterns"} <= {KINDS[kind] for kind in batch.kinds}
    assert trainer.step() == pytest.approx(sum(rows) / len(rows), rel=1e-5)


@needs_muon
def test_a_stage_ends_where_it_is_mastered():
    trainer = Trainer(replace(TINY, stages=(replace(REPEATS, until=0.5), LAST)))
    batch = BatchSampler(0, batch_size=8, instructed=0.0).sample(0, REPEATS)
    for right, steps in ((~batch.judged, 20), (batch.judged, 13)):
        for _ in range(steps):
            trainer._advance(batch, right)
        assert trainer.progress.stage == 0
    trainer._advance(batch, batch.judged)  # 1 - 0.95 ** 14 = 0.51
    assert trainer.progress.stage == 1
    assert trainer.progress.accuracies["repeats"] > 0.5


@needs_muon
@pytest.mark.parametrize("layers", [0, 2])
def test_classes_behind_a_layer_that_is_not_there_are_refused(layers):
    with pytest.raises(
        ModelError, match=f"classes_after is {layers}: expected a whole number from 1 to 1"
    ):
        Trainer(replace(TINY, classes_after=layers))


def test_no_steps_between_kept_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match="keep_every is 0: expected a whole number of at least 1"):
        train(tmp_path, TINY, keep_every=0)
    assert not list(tmp_path.iterdir())


def test_learning_rate_rises_and_falls():
    config = replace(TINY, n_steps=100, warmup=10, decay=20)
    shares = [learning_rate(config, step) for step in range(100)]
    assert shares[0] == 0.1 and shares[9] == 1.0 and shares[80] == 1.0 and shares[99] == 0.05


@needs_muon
def test_a_stopped_run_reaches_the_same_weights(tmp_path):
    straight = train(tmp_path / "straight", TINY, keep_every=4).state_dict()
    stopped = Trainer(TINY)
    for _ in range(4):
        stopped.step()
    stopped.save(tmp_path / "stopped")
    resumed = Trainer(TINY)
    assert resumed.resume(tmp_path / "stopped")
    assert asdict(resumed.progress) == asdict(stopped.progress)
    weights = train(tmp_path / "stopped", TINY).state_dict()
    assert weights.keys() == straight.keys()
    for name in weights:
        assert weights[name].equal(straight[name]), name
    kept = sorted((tmp_path / "straight" / "steps").iterdir())
    assert [path.name for path in kept] == ["step00000", "step00004", "step00006"]
    last = AutoModelForCausalLM.from_pretrained(kept[-1]).state_dict()
    assert all(last[name].equal(straight[name]) for name in straight)
    other = train(tmp_path / "other", replace(TINY, seed=1)).state_dict()
    assert not other["model.norm.weight"].equal(weights["model.norm.weight"])


@needs_muon
def test_another_recipe_does_not_resume(tmp_path):
    train(tmp_path, TINY)
    with pytest.raises(ModelError, match="made by another recipe"):
        Trainer(replace(TINY, seed=2)).resume(tmp_path)
    assert not Trainer(TINY).resume(tmp_path / "empty")


@needs_muon
def test_training_seeds_nothing_globally(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Trainer(TINY).step()
    assert torch.rand(3).equal(expected)


def test_an_older_torch_is_told(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ModelError, match="training the embedded model asks for 2.9 or later"):
        Trainer(TINY)
