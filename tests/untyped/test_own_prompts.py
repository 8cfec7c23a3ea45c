"""What is given to `Prompts.from_tokens` is taken, or refused with its place."""

import numpy as np
import pytest
import torch

import icl_locate as icl
from icl_locate import Segment
from icl_locate.errors import PromptError

TOKENS = [[1, 5, 6, 7, 5], [8, 9, 8]]
SEGMENTS = [["bos", "examples", "examples", "examples", "query"], [3, 3, 4]]
SPANS = [[(0, 1, "bos"), (1, 4, Segment.EXAMPLES), (4, 5, 4)], [(2, 3, 4), (0, 2, 3)]]
TARGETS = [[6], [9, 10]]


def own(**changed):
    given = {"tokens": TOKENS, "segments": SEGMENTS, "targets": TARGETS, **changed}
    return icl.Prompts.from_tokens(**given)


def test_arrays_and_tensors_are_rows_too():
    expected = own()
    for kind in (np.array, torch.tensor):
        found = own(tokens=[kind(row) for row in TOKENS], targets=[kind(row) for row in TARGETS])
        assert found.tokens.equal(expected.tokens) and found.targets == expected.targets


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": []}, "tokens hold no prompts"),
        ({"tokens": [[], [8, 9, 8]]}, "prompt 0 of tokens is empty"),
        ({"tokens": [1, 2, 3]}, r"tokens\[0\] is 1: expected a list"),
        ({"tokens": torch.ones(2)}, r"tokens is .* expected a list of token ids for each prompt"),
        ({"tokens": torch.ones(2, 3)}, "tokens is"),
        ({"tokens": torch.ones(2, 3).bool()}, r"tokens\[0\]\[0\] is True"),
        ({"tokens": [TOKENS[0], [8, -9, 8]]}, r"tokens\[1\]\[1\] is -9: expected a whole number"),
        ({"tokens": [TOKENS[0], [8, 9.0, 8]]}, r"tokens\[1\]\[1\] is 9.0"),
        ({"tokens": [TOKENS[0], [8, "9", 8]]}, r"tokens\[1\]\[1\] is '9'"),
        ({"tokens": [TOKENS[0], [8, 2**40, 8]]}, r"tokens\[1\]\[1\] is"),
        ({"tokens": "ab"}, "tokens is 'ab'"),
        ({"segments": SEGMENTS[:1]}, "segments are given for 1 prompts, tokens for 2"),
        ({"segments": [SEGMENTS[0], [3, 4]]}, r"segments\[1\] has 2 values.* 3 tokens"),
        ({"segments": [SEGMENTS[0], [3, "answer", 4]]}, r"segments\[1\]\[1\] is 'answer'.*QUERY"),
        ({"segments": [SEGMENTS[0], [3, 9, 4]]}, r"segments\[1\]\[1\] is 9"),
        ({"segments": [SEGMENTS[0], [3, True, 4]]}, r"segments\[1\]\[1\] is True"),
        ({"segments": [SEGMENTS[0], [3, 3.0, 4]]}, r"segments\[1\]\[1\] is 3.0"),
        ({"segments": [SEGMENTS[0], [3, 0, 4]]}, r"segments\[1\] has padding at token 1"),
        ({"segments": [SEGMENTS[0], [3, 5, 4]]}, r"segments\[1\] has GENERATED at real token 1"),
        ({"segments": [SEGMENTS[0], [0, 0, 0]]}, "prompt 1 of tokens is empty"),
        ({"segments": None}, "segments is None"),
        ({"segments": [SPANS[0], [(0, 2, 3)]]}, r"segments\[1\] leave out token 2 of prompt 1"),
        ({"segments": [SPANS[0], [(0, 2, 3), (1, 3, 4)]]}, r"segments\[1\]\[1\] holds token 1 of"),
        ({"segments": [SPANS[0], [(0, 4, 3)]]}, r"segments\[1\]\[0\] runs from 0 to 4.*<= 3"),
        ({"segments": [SPANS[0], [(2, 2, 3)]]}, r"segments\[1\]\[0\] runs from 2 to 2"),
        ({"segments": [SPANS[0], [(-1, 3, 3)]]}, r"the start of segments\[1\]\[0\] is -1"),
        ({"segments": [SPANS[0], [(0, 3.5, 3)]]}, r"the stop of segments\[1\]\[0\] is 3.5"),
        ({"segments": [SPANS[0], [(0, 3)]]}, r"segments\[1\]\[0\] is \(0, 3\): expected \(start"),
        ({"segments": [SPANS[0], [(0, 3, "all")]]}, r"the segment of segments\[1\]\[0\] is 'all'"),
        ({"segments": [SPANS[0], [(0, 3, "pad")]]}, r"segments\[1\] has PAD at real token 0"),
        ({"targets": TARGETS[:1]}, "targets are given for 1 prompts, tokens for 2"),
        ({"targets": [[6], []]}, r"targets\[1\] is \[\], of no tokens"),
        ({"targets": [[6], [-1]]}, r"targets\[1\]\[0\] is -1"),
        ({"targets": [[6], "word"]}, r"targets\[1\] is 'word'.*give the tokenizer"),
        ({"targets": [6, 7]}, r"targets\[0\] is 6"),
        ({"targets": None}, "targets is None"),
        ({"attention_mask": [[1] * 5, [1, 0, 1]]}, r"attention_mask\[1\] has padding at token 1"),
        ({"attention_mask": [[1] * 5, [0, 0, 0]]}, "prompt 1 of tokens is empty"),
        ({"attention_mask": [[1] * 5, [1, 1]]}, r"attention_mask\[1\] has 2 values"),
        ({"attention_mask": [[1] * 5, [1, 1, 2]]}, r"attention_mask\[1\]\[2\] is 2"),
        ({"parts": [["none"] * 5, ["none", "verb", "none"]]}, r"parts\[1\]\[1\] is 'verb'.*SOURCE"),
        ({"shots": [[0] * 5, [0, -1, 0]]}, r"shots\[1\]\[1\] is -1"),
        ({"shots": [[0] * 5, [0, 0, 1]]}, r"shots\[1\] has 1 at real token 2.*QUERY"),
        ({"words": [[0] * 5, [0, -2, 0]]}, r"words\[1\]\[1\] is -2"),
        ({"words": [[0] * 5, [0, 0]]}, r"words\[1\] has 2 values"),
        ({"texts": ["a"]}, "texts are given for 1 prompts"),
        ({"sources": ["a", 1]}, r"sources\[1\] is 1"),
        ({"stop": "Q:"}, "stop is 'Q:': expected token ids"),
        ({"template": icl.PromptTemplate()}, "stop is 'Q:': expected token ids"),
        ({"pad_token": -1}, "pad_token is -1"),
        ({"tokenizer": "gpt2"}, "tokenizer is 'gpt2'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_by_name(changed, message):
    with pytest.raises(PromptError, match=message):
        own(**changed)
