"""What vectors are held against: labels that say nothing, directions that mean nothing."""

from collections import Counter

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import icl_locate as icl
from icl_locate.errors import TaskError
from icl_locate.studies import Setting
from icl_locate.vectors.controls import random_like, shuffle_labels, shuffled_prompts

TASK = icl.load_task("pseudo-translation")


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=6), st.integers(0, 9))
def test_shuffled_labels_are_the_same_labels_elsewhere(labels, key):
    examples = [icl.Example(str(i), label) for i, label in enumerate(labels)]
    if len(set(labels)) < 2:
        with pytest.raises(TaskError, match=f"n_shots is {len(labels)}"):
            shuffle_labels(examples, str(key))
        return
    dealt = shuffle_labels(examples, str(key))
    assert [example.source for example in dealt] == [example.source for example in examples]
    assert Counter(example.target for example in dealt) == Counter(labels)
    assert dealt != examples and dealt == shuffle_labels(examples, str(key))


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """A prompt's sources and targets."""
    lines = [line.split("A:") for line in text.split("\n")[1:]]
    return [line[0] for line in lines], [line[1] for line in lines]


def test_shuffled_prompts_differ_in_their_examples_labels_alone():
    model, setting = tiny.boot("llama"), Setting.of(TASK, n_queries=4, n_shots=3)
    clean, shuffled = setting.prompts(model, 5), shuffled_prompts(setting, model, 5)
    assert shuffled.targets == clean.targets and shuffled.sources == clean.sources
    for one, other in zip(clean.texts, shuffled.texts, strict=True):
        (asked, labels), (same, dealt) = parts_of(one), parts_of(other)
        assert asked == same and labels != dealt and Counter(labels) == Counter(dealt)
    assert shuffled.texts == shuffled_prompts(setting, model, 5).texts
    assert shuffled.texts != shuffled_prompts(setting, model, 6).texts


def test_given_prompts_have_no_labels_to_shuffle():
    model = tiny.boot("llama")
    task = icl.Task.from_prompts(Setting.of(TASK, n_queries=2).prompts(model, 0))
    with pytest.raises(TaskError, match="shots are given, but the task"):
        shuffled_prompts(Setting.of(task), model, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_random_vector_is_as_long(dtype):
    vector = torch.arange(1.0, 13.0, dtype=dtype).view(3, 4)
    drawn = random_like(vector, 0)
    assert drawn.dtype == dtype and not torch.allclose(drawn, vector)
    torch.testing.assert_close(drawn.norm(dim=-1), vector.norm(dim=-1))
    assert torch.equal(drawn, random_like(vector, 0))
    assert not torch.equal(drawn, random_like(vector, 1))
    assert not torch.allclose(drawn[0] / drawn[0].norm(), drawn[1] / drawn[1].norm())
