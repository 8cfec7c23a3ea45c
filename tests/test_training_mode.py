"""A model in training mode, dropout and all, is refused wherever it would be run."""

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import ModelError

PAIRS = tuple(icl.Example(f"sort {word}", word) for word in ("rano", "dode", "lava"))
HIDDEN = icl.ContextMask({Segment.EXAMPLES}, icl.from_layer(1))


@pytest.fixture
def model():
    """A GPT-2 with dropout, as a Trainer leaves it: the model inside in training mode."""
    found = tiny.boot_fresh("gpt2")
    assert found.original_model.config.resid_pdrop > 0
    found.original_model.train()
    assert not found.training
    return found


def prompts_for(model):
    return icl.build_prompts(model, PAIRS, examples=PAIRS, n_shots=1)


RUNS = {
    "score_targets": lambda model, prompts: icl.score_targets(model, prompts),
    "under a mask": lambda model, prompts: icl.score_targets(model, prompts, HIDDEN),
    "score_labels": lambda model, prompts: icl.score_labels(model, prompts, ["rano", "dode"]),
    "generate": lambda model, prompts: icl.generate(model, prompts, max_new_tokens=2),
    "dropped": lambda model, prompts: icl.generate(
        model, prompts, max_new_tokens=2, drop_context_from=1
    ),
    "hooks": lambda model, prompts: icl.attention_hooks(model, prompts, HIDDEN),
    "mask": lambda model, prompts: icl.mask_attention(model, prompts, HIDDEN).__enter__(),
}


@pytest.mark.parametrize("run", RUNS)
def test_training_mode_is_refused(model, run):
    prompts = prompts_for(model)
    with pytest.raises(ModelError, match=r"training mode.*call model\.eval\(\) first"):
        RUNS[run](model, prompts)


def test_evaluation_mode_gives_the_same_twice(model):
    prompts = prompts_for(model)
    with torch.no_grad():
        noisy = [model(prompts.tokens, attention_mask=prompts.attention_mask) for _ in range(2)]
    assert not noisy[0].equal(noisy[1])
    assert icl.load_model(model) is model  # puts every module into evaluation mode
    scores = [icl.score_targets(model, prompts) for _ in range(2)]
    assert scores[0].equal(scores[1])


def test_a_model_that_changes_while_it_is_known_is_still_refused(model):
    """What was found out of a model in evaluation mode does not let it pass later."""
    model.eval()
    prompts = prompts_for(model)
    icl.score_targets(model, prompts, HIDDEN)
    model.blocks[2].attn.train()
    for run in RUNS.values():
        with pytest.raises(ModelError, match="training mode"):
            run(model, prompts)
