"""The checks of arguments themselves: what they take, and how they refuse the rest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from icl_locate.checks import arguments
from icl_locate.checks.signatures import checked, whole
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


@pytest.mark.parametrize("value", [[2, 1], [0, 2, 1], [1, 1], [], "12"])
def test_counts_in_another_order_are_refused_where_it_matters(value):
    with pytest.raises(TaskError, match="^layers is .*: expected .*, each once, ascending$"):
        arguments.check_counts("layers", value, least=0, ascending=True, error=TaskError)
    assert arguments.check_counts("layers", (0, 2, 5), least=0, ascending=True) == (0, 2, 5)


def test_counts_keep_the_order_that_they_came_in():
    assert arguments.check_counts("layers", [2, 1]) == (2, 1)


def test_what_came_is_shown_in_short():
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Broken" in arguments.show(Broken())
    assert arguments.show(torch.zeros(2, 3)) == "a Tensor of shape (2, 3)"
    assert len(arguments.show("x" * 1000)) <= 60


@checked(TaskError, at=whole(2))
def call(
    *more: int,
    names: Sequence[str] = (),
    either: str | Sequence[str] = "",
    pair: tuple[int, float] = (0, 0.5),
    by_name: Mapping[str, int] | None = None,
    kind: Literal["a", "b"] | str = "a",
    table: Float[Tensor, "layer head"] | None = None,
    several: Iterable[int] = (),
    some: Collection[int] = (),
    seed: int = 0,
    at: int = 2,
):
    return dict(locals())


def test_what_fits_an_annotation_comes_out_in_plain_types():
    table = torch.zeros(2, 3)
    given = {"names": (name for name in "ab"), "pair": [np.int64(1), np.float32(0.5)],
             "by_name": {"a": np.int8(1)}, "kind": "b", "table": table, "several": {np.int64(4)},
             "some": [1, 2], "seed": torch.tensor(3), "either": ["x"]}  # fmt: skip
    found = call(np.uint8(7), **given)
    assert found["more"] == (7,) and type(found["more"][0]) is int
    assert (
        found["names"] == ("a", "b") and found["pair"] == (1, 0.5) and found["by_name"] == {"a": 1}
    )
    assert found["table"] is table and found["several"] == (4,) and found["some"] is given["some"]
    assert type(found["seed"]) is int and found["either"] is given["either"]
    assert call() == {**call(at=2), "more": ()}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("names", {"a", "b"}, "^names is .*: expected a list, each item of it text$"),
        ("names", ["a", 3], r"^names\[1\] is 3: expected text$"),
        ("either", 3, "^either is 3: expected text or a list, each item of it text$"),
        ("pair", (1,), r"^pair is \(1,\): expected 2 values$"),
        ("by_name", {"a": "b"}, r"^by_name\['a'\] is 'b': expected a whole number"),
        ("by_name", [1], "^by_name is .*: expected a mapping of text to a whole number$"),
        ("kind", "c", "^kind is 'c': expected one of 'a', 'b'$"),
        ("table", torch.zeros(2), r"^table is .*: expected a Tensor \(layer, head\)$"),
        ("several", [-1], r"^several\[0\] is -1: expected a whole number of at least 0$"),
        ("some", {"a": 1}, "^some is .*: expected a list"),
        ("seed", 2**32, "^seed is 4294967296: expected a whole number from 0 to 4294967295$"),
        ("at", 1, "^at is 1: expected a whole number of at least 2$"),
    ],
)
def test_what_does_not_is_refused_before_the_call(name, value, message):
    with pytest.raises(TaskError, match=message):
        call(**{name: value})
    with pytest.raises(TypeError, match=r"call\(\) got an unexpected keyword argument 'nothing'"):
        call(nothing=1)
