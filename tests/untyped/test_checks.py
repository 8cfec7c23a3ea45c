"""The checks of arguments themselves: what they take, and how they refuse the rest."""

import numpy as np
import pytest
import torch

from icl_locate import arguments
from icl_locate.errors import IclLocateError, TaskError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_any_library_are_counts(value):
    found = arguments.check_count("n", value)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "value", [True, np.True_, torch.tensor(True), 3.0, "3", None, [3], torch.tensor([3, 4]), 0, 11]
)
def test_other_counts_are_refused(value):
    with pytest.raises(TaskError, match="^n is .*: expected a whole number from 1 to 10$"):
        arguments.check_count("n", value, most=10, error=TaskError)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_numbers(value):
    assert arguments.check_number("x", value, above=0, below=1) == 0.5


@pytest.mark.parametrize("value", [0, 1, True, "0.5", None, float("nan"), float("inf"), 1j])
def test_other_numbers_are_refused(value):
    with pytest.raises(IclLocateError, match="^x is .*: expected a number above 0 and below 1$"):
        arguments.check_number("x", value, above=0, below=1)


@pytest.mark.parametrize("value", [1, 0, "yes", None, np.array([True])])
def test_flags_are_true_or_false(value):
    with pytest.raises(IclLocateError, match="^x is .*: expected True or False$"):
        arguments.check_flag("x", value)
    assert arguments.check_flag("x", np.False_) is False


@pytest.mark.parametrize("value", [1, None, b"x", "\ud800"])
def test_text(value):
    with pytest.raises(IclLocateError, match="^x is .*: expected text"):
        arguments.check_text("x", value)


def test_one_seed_or_several():
    assert arguments.check_seeds(np.int64(4)) == (4,)
    assert arguments.check_seeds(range(2)) == (0, 1)
    assert arguments.check_seeds(torch.tensor([5, 3])) == (5, 3)


@pytest.mark.parametrize("value", ["12", None, [], [1, 1], [True], [1, "2"], -1, 0.5, object()])
def test_other_seeds_are_refused(value):
    with pytest.raises(IclLocateError, match="^seeds"):
        arguments.check_seeds(value)


def test_what_came_is_shown_in_short():
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Broken" in arguments.show(Broken())
    assert arguments.show(torch.zeros(2, 3)) == "a Tensor of shape (2, 3)"
    assert len(arguments.show("x" * 1000)) <= 60
