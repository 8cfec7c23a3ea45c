"""State edits, positions and `icl.states` with what fits nobody: each refused, and named."""

import re

import numpy as np
import pytest
import tiny
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import MaskError, PromptError
from icl_locate.interventions.places import as_places

WIDTH = tiny.D_MODEL
QUERIES = [icl.Example("sort", "dode"), icl.Example("one thin zero", "rovu goza zimo")]
VALUES = torch.ones(2, WIDTH)


def prompts(n_shots=2):
    bank = [icl.Example("sort reverse double", "dode zimo goza"), icl.Example("thin", "zimo")]
    return icl.build_prompts(tiny.boot("llama"), QUERIES, examples=bank, n_shots=n_shots)


def uneven(**changed):
    values = torch.ones(2, 3, WIDTH)
    for place, number in changed.items():
        values[tuple(map(int, place.strip("_").split("_")))] = number
    return values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "multiply"}, "method is 'multiply': expected one of 'replace'"),
        ({"method": None}, "method is None"),
        ({"values": None}, "values is None: expected a tensor of floats"),
        ({"values": 0.0}, "values is 0.0: expected a tensor of floats"),
        ({"values": np.ones(WIDTH)}, r"values is a ndarray of shape \(32,\): expected a tensor"),
        ({"values": torch.tensor(1.0)}, "values is tensor"),
        ({"values": torch.ones(2, 2, 2, WIDTH)}, r"values is a Tensor of shape \(2, 2, 2, 32\)"),
        ({"values": torch.ones(2, 0)}, "values is a Tensor of shape"),
        ({"values": torch.ones(WIDTH).long()}, "values are of torch.int64: expected .*float"),
        ({"values": torch.ones(WIDTH).bool()}, "values are of torch.bool"),
        ({"values": torch.full((WIDTH,), torch.nan)}, "values hold NaN or infinity"),
        ({"values": torch.full((2, WIDTH), torch.inf)}, "values hold NaN or infinity"),
        ({"values": uneven(_0_1_2=torch.nan)}, "values hold NaN or infinity"),
        ({"values": uneven(_0_0=torch.nan)}, "values hold NaN or infinity"),
        ({"values": uneven(_1_1=torch.nan)}, "values hold NaN or infinity"),
        ({"values": uneven(_1_2=torch.inf)}, "values hold NaN or infinity"),
        ({"layer": -1}, "layer is -1: expected a whole number of at least 0"),
        ({"layer": 1.5}, "layer is 1.5"),
        ({"at": "first"}, "at is 'first': expected 'last', 'all', a Segment"),
        ({"at": 3.5}, "at is 3.5"),
        ({"at": ["last", None]}, r"at\[1\] is None"),
        ({"at": Segment.PAD}, "at is Segment.PAD: padding is no place"),
        ({"at": "generated"}, "at names GENERATED, which prompts never hold: say generated=True"),
        ({"at": []}, "at names no positions"),
        ({"point": "resid_mid"}, "point is 'resid_mid': expected one of 'resid_pre', 'z'"),
        ({"point": "z"}, "head is None and point 'z': the point 'z' takes a head"),
        ({"head": 1}, "head is 1 and point 'resid_post'"),
        ({"point": "z", "head": -1}, "head is -1"),
        ({"weight": 0.5}, "weight is 0.5, but 'replace' takes none"),
        ({"method": "interpolate", "weight": 1.5}, "weight is 1.5: expected .*at most 1"),
        ({"method": "interpolate", "weight": -0.1}, "weight is -0.1: expected .*at least 0"),
        ({"method": "steer", "weight": float("nan")}, "weight is nan"),
        ({"method": "steer", "values": torch.zeros(2, WIDTH)}, "values hold a vector of zeros"),
        ({"method": "scale", "values": float("inf")}, "values is inf"),
        ({"method": "scale", "values": "2"}, "values is '2'"),
        ({"generated": 1}, "generated is 1: expected True or False"),
        ({"generated": True, "values": uneven()}, ".*which generated tokens do not have"),
        ({"generated": True, "values": uneven(), "at": []}, ".*which generated tokens do not have"),
    ],
)
def test_edits_of_nothing_are_refused(options, message):
    given = {"method": "replace", "values": VALUES, "layer": 1} | options
    with pytest.raises(MaskError, match=f"^{message}"):
        icl.StateEdit(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "^layer 3 of a StateEdit is out of range: the model has layers 0 to 2"),
        (
            {"point": "z", "head": 4, "values": VALUES[:, :8]},
            "^head 4 of a StateEdit is out of range: the model has heads 0 to 3",
        ),
        (
            {"values": torch.ones(WIDTH - 1)},
            "^values of a StateEdit are of width 31, .* 'resid_post' is of width 32: expected 32",
        ),
        (
            {"point": "z", "head": 1},
            "^values of a StateEdit are of width 32, .* 'z' is of width 8: expected 8",
        ),
        ({"values": torch.ones(3, WIDTH)}, "has values for 3 prompts, but runs on 2"),
        ({"values": torch.ones(1, WIDTH)}, "has values for 1 prompts, but runs on 2"),
        ({"values": torch.ones(3, 1, WIDTH)}, "has values for 3 prompts, but runs on 2"),
        ({"values": uneven()}, "has values for 3 positions of prompt 0, where at names 1"),
        (
            {"values": torch.ones(2, 5, WIDTH), "at": "query"},
            "has values for 5 positions of prompt 0, where at names 3",
        ),
        ({"at": "instructions"}, r"^prompt 0 has no token at At\(segment=INSTRUCTIONS\)"),
        ({"at": icl.At(shot=3)}, r"^prompt 0 has no token at At\(shot=\{3\}\)"),
        ({"at": icl.At(shot={1, 4})}, "^prompt 0 has no token at"),
        ({"at": icl.At("query", "target")}, "^prompt 0 has no token at"),
        ({"at": icl.At("query", shot="each")}, "^prompt 0 has no token at"),
    ],
)
def test_edits_that_fit_neither_model_nor_prompts_are_refused(options, message):
    model, some = tiny.boot("llama"), prompts()
    edit = icl.StateEdit(**{"method": "replace", "values": VALUES, "layer": 1} | options)
    with pytest.raises(MaskError, match=message), icl.intervene(model, some, edit):
        pass
    for batch_size in (1, 2):
        with pytest.raises(MaskError):
            icl.score_targets(model, some, edit, batch_size=batch_size)
        with pytest.raises(MaskError):
            icl.generate(model, some, edit, 2, batch_size=batch_size)
        with pytest.raises(MaskError):
            icl.score_labels(model, some, ["zimo", "dode"], edit, batch_size=batch_size)
        with pytest.raises(MaskError):
            icl.states(model, some, intervention=edit, batch_size=batch_size)


def test_the_prompt_that_lacks_a_position_is_named():
    tokens = [[5, 6, 7, 8], [5, 6, 7]]
    segments = [["examples", "examples", "query", "query"], ["query"] * 3]
    some = icl.Prompts.from_tokens(tokens, segments, targets=[[6], [7]])
    edit = icl.StateEdit("add", VALUES, 1, "examples")
    message = r"^prompt 1 has no token at At\(segment=EXAMPLES\): build prompts that have one"
    for run in (
        lambda: icl.intervene(tiny.boot("llama"), some, edit).__enter__(),
        lambda: icl.states(tiny.boot("llama"), some, "examples"),
    ):
        with pytest.raises(MaskError, match=message):
            run()
    with pytest.raises(MaskError, match=r"^prompt 0 has no token at At\(part=TARGET\)"):
        icl.states(tiny.boot("llama"), some, icl.At(part="target"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": "context"}, "segment is 'context': expected some of BOS"),
        ({"segment": {Segment.QUERY}}, "segment is .*: expected a Segment"),
        ({"segment": Segment.PAD}, "segment holds Segment.PAD"),
        ({"part": "label"}, "part is 'label': expected Part.SOURCE"),
        ({"shot": 0}, "shot is 0: expected a whole number of at least 1"),
        ({"shot": "all"}, "shot is 'all': expected 'each', a shot's number"),
        ({"shot": {1.5}}, "shot"),
        ({"shot": set()}, "shot is set"),
        ({"which": "middle"}, "which is 'middle': expected one of 'all', 'first', 'last'"),
    ],
)
def test_positions_that_are_none_are_refused(options, message):
    with pytest.raises(MaskError, match=f"^{message}"):
        icl.At(**options)


def test_other_spellings_are_taken():
    assert as_places({"query", "QUERY"}) == as_places("query") == (icl.At(Segment.QUERY),)
    assert icl.At(shot=np.int64(2)) == icl.At(shot=[2]) == icl.At(shot={2})
    edit = icl.StateEdit("scale", np.float32(0.5), np.int64(1), generated=np.bool_(True))
    assert (edit.values, edit.layer, edit.generated) == (0.5, 1, True)
    assert repr(icl.StateEdit("add", torch.zeros(WIDTH), 2, ["last", "query"])) == (
        "StateEdit(method='add', values=float32[32] 0..0, layer=2, "
        "at=(At(which='last'), At(segment=QUERY)), point='resid_post', head=None, weight=1, "
        "generated=False)"
    )
    with pytest.raises(MaskError, match="^items name prompt 2, but a StateEdit has values for 2"):
        icl.StateEdit("add", VALUES, 1).take([2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": []}, MaskError, "at is []"),
        ({"at": "generated", "max_new_tokens": 0}, MaskError, "max_new_tokens is 0"),
        ({"max_new_tokens": -1}, MaskError, "max_new_tokens is -1"),
        ({"at": "nowhere"}, MaskError, "at is 'nowhere'"),
        ({"point": "resid_mid"}, MaskError, "point is 'resid_mid'"),
        ({"intervention": "mask"}, MaskError, "intervention is 'mask'"),
        ({"batch_size": 0}, MaskError, "batch_size is 0"),
        ({"token_budget": 5}, PromptError, "token_budget is 5"),
        ({"at": "generated", "max_new_tokens": 500}, PromptError, "500"),
        ({"prompts": None}, MaskError, "prompts is None"),
    ],
)
def test_states_of_nothing_are_refused(options, error, message):
    given = {"model": tiny.boot("llama"), "prompts": prompts()} | options
    with pytest.raises(error, match=re.escape(message)):
        icl.states(**given)
