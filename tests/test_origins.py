"""Vectors that know which weights they were measured on."""

import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate.errors import MaskError
from icl_locate.models.fingerprint import fingerprint

TASK = icl.load_task("pseudo-translation")


def test_vectors_of_other_weights_are_refused():
    model = tiny.boot("llama")
    prompts = icl.build_prompts(model, TASK.test[:2], n_shots=0)
    recipe = {"model": "tiny", "fingerprint": fingerprint(model), "task": "t"}
    edit = icl.StateEdit("add", torch.ones(tiny.D_MODEL), 1, origin=recipe)
    assert edit.origin == {"model": "tiny", "fingerprint": recipe["fingerprint"]}
    by_prompt = icl.StateEdit("add", torch.ones(2, tiny.D_MODEL), 1, origin=recipe)
    assert by_prompt.take([1]).origin == edit.origin
    same = icl.StateEdit("add", torch.ones(tiny.D_MODEL), 1)
    assert icl.score_targets(model, prompts, edit).equal(icl.score_targets(model, prompts, same))
    for given in (edit, same | edit, edit | icl.ContextMask({icl.Segment.QUERY})):
        with pytest.raises(MaskError, match="^the vector of a StateEdit was measured on another"):
            icl.score_targets(tiny.boot("gpt2"), prompts, given)


@pytest.mark.parametrize("origin", [{}, {"fingerprint": None}, {"fingerprint": 3}])
def test_an_origin_says_which_weights(origin):
    with pytest.raises(MaskError, match="^origin is .*: expected a recipe with a fingerprint"):
        icl.StateEdit("add", torch.ones(8), 1, origin=origin)
