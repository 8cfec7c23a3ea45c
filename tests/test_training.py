"""Training of the embedded model: batches, determinism, resuming."""

import random
from dataclasses import asdict, replace

import pytest
import torch

from icl_locate.embedded.languages import is_held_out, sample_sentence
from icl_locate.embedded.tokenizer import build_tokenizer
from icl_locate.errors import ModelError
from icl_locate.training.batches import IGNORED, BatchSampler
from icl_locate.training.train import TrainConfig, Trainer, learning_rate, train

TINY = TrainConfig(
    n_layers=1, d_model=16, n_heads=2, d_mlp=16, batch_size=4, n_steps=6, warmup=2, decay=2,
    advance_at=0.0, checkpoint_every=3,
)  # fmt: skip

needs_muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="this torch is older than the training script asks for"
)


def test_batches_are_what_the_tokenizer_gives():
    tokenizer = build_tokenizer()
    sampler = BatchSampler(0, batch_size=8, instructed=0.5, final_length=8)
    for longest in (1, 4, 8):
        batch = sampler.sample(3, longest)
        for tokens, labels, judged in zip(batch.tokens, batch.labels, batch.judged, strict=True):
            row = tokens[tokens != 0].tolist()
            text = tokenizer.decode(row, skip_special_tokens=True)
            assert tokenizer(text)["input_ids"] == row
            answered = (labels != IGNORED).nonzero()[:, 0]
            assert labels[answered].equal(tokens[answered + 1]), "labels are the next tokens"
            answer_marks = tokens == tokenizer.convert_tokens_to_ids("▁A:")
            assert not (judged & ~answer_marks).any(), "the first word follows A:"
            assert ("Translate" not in text) or not judged.any()


def test_no_batch_holds_a_held_out_sentence():
    sampler = BatchSampler(0, batch_size=16, instructed=0.2, final_length=8)
    tokenizer = build_tokenizer()
    for step in range(5):
        for row in sampler.sample(step, 8).tokens:
            text = tokenizer.decode(row, skip_special_tokens=True)
            sources = [part.split("A:")[0].split() for part in text.split("Q:")[1:]]
            assert sources and not any(is_held_out(source) for source in sources)
    held_out = sample_sentence(random.Random(0), 5, held_out=True)
    assert is_held_out(held_out) and len(set(held_out)) == 5


def test_learning_rate_rises_and_falls():
    config = replace(TINY, n_steps=100, warmup=10, decay=20)
    shares = [learning_rate(config, step) for step in range(100)]
    assert shares[0] == 0.1 and shares[9] == 1.0 and shares[80] == 1.0 and shares[99] == 0.05


@needs_muon
def test_a_stopped_run_reaches_the_same_weights(tmp_path):
    straight = train(tmp_path / "straight", TINY).state_dict()
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
