"""Results of the first format, as its own code wrote them (tests/former/write.py), read again."""

import hashlib
import json
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as save_safetensors
from test_files import HOSTILE, files_in, use

import icl_locate as icl
from icl_locate.context_heads.result import HeadSweepResult
from icl_locate.errors import IclLocateError, ResultError
from icl_locate.gates import GatesResult
from icl_locate.induction import AblationResult, HeadReference, HeadScores
from icl_locate.lora import LoraResult
from icl_locate.savings import MeasuredSavings

FORMER = Path(__file__).parent / "former"
KINDS = {
    "sweep": icl.SweepResult,
    "sweep_match": icl.SweepResult,
    "sweep_log_prob": icl.SweepResult,
    "sweep_custom": icl.SweepResult,
    "heads": HeadSweepResult,
    "ablation": AblationResult,
    "reference": HeadReference,
    "gates": GatesResult,
    "lora": LoraResult,
    "savings": MeasuredSavings,
}
SCORED = ("ablation", "heads", "lora", "sweep", "sweep_custom", "sweep_log_prob", "sweep_match")


@pytest.fixture(params=sorted(KINDS))
def name(request):
    return request.param


@pytest.fixture
def copies(tmp_path):
    """The files in a directory of their own."""
    for path in FORMER.glob("*.*s*n*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def held(path):
    """What two files hold, read without the package."""
    with safe_open(path.with_suffix(".safetensors"), "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return tensors, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def listed(value):
    """A field as JSON holds it, whatever sequences it is made of."""
    if isinstance(value, (tuple, list)):
        return [listed(item) for item in value]
    return listed(vars(value)) if hasattr(value, "kind") else value


def assert_holds(result, tensors, rest):
    for key, wanted in tensors.items():
        found = getattr(result, key)
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    for key, wanted in rest.items():
        if key == "arms":
            for arm, was in zip(result.arms, wanted, strict=True):
                assert {**was, "fractions": ()} == {**vars(arm), "heads": listed(arm.heads)}
        elif key != "format":
            assert listed(getattr(result, key)) == wanted, key


def write_pair(path, tensors, text):
    """Two files of the first format with JSON of one's own, its digest right."""
    digest = hashlib.sha256(text).hexdigest()
    solid = {key: tensor.contiguous() for key, tensor in tensors.items()}
    path.with_suffix(".json").write_bytes(text)
    payload = save_safetensors(solid, metadata={"json_sha256": digest})
    path.with_suffix(".safetensors").write_bytes(payload)


def test_there_is_one_of_every_form_that_there_was():
    forms = {held(FORMER / key)[1]["format"] for key in KINDS}
    assert forms == {
        f"icl_locate.{kind}/1"
        for kind in (
            "SweepResult", "HeadSweepResult", "AblationResult", "GatesResult", "LoraResult",
            "MeasuredSavings", "HeadReference",
        )
    }  # fmt: skip


def test_all_come_back_as_they_were_written(name):
    tensors, rest = held(FORMER / name)
    for path in (name, f"{name}.safetensors", f"{name}.json"):
        found = KINDS[name].load(FORMER / path)
        assert type(found) is KINDS[name]
        assert_holds(found, tensors, rest)


def test_they_are_saved_in_the_present_form(name, copies):
    """In place of the old tensors: the JSON beside them is not ours to touch."""
    before = (copies / f"{name}.json").read_bytes()
    others = files_in(copies)
    for path in (copies / "deep" / "new", copies / name):
        tensors, rest = held(FORMER / name)
        written = KINDS[name].load(copies / name).save(path)
        assert b"json_sha256" not in written.read_bytes()
        assert_holds(KINDS[name].load(path), tensors, rest)
    assert files_in(copies / "deep") == ["new.safetensors"]
    assert files_in(copies) == sorted([*others, "deep"])
    assert (copies / f"{name}.json").read_bytes() == before


@pytest.mark.parametrize("name", SCORED)
def test_intervals_come_with_them(name, copies):
    result = KINDS[name].load(FORMER / name)
    low, high = result.score_interval()
    scores = result.scores.mean(-1)
    assert low.shape == scores.shape
    assert (low <= scores + 1e-6).all() and (scores <= high + 1e-6).all()
    if name != "sweep_match":
        assert (low < high).any()
    again = KINDS[name].load(result.save(copies / "again"))
    for old, new in zip((low, high), again.score_interval(), strict=True):
        assert torch.equal(old, new)
    if name != "sweep_custom":  # where the masks act at single layers there is nothing to locate
        use(result)


def test_what_follows_from_them():
    sweep = icl.SweepResult.load(FORMER / "sweep")
    assert [found.condition for found in icl.locate(sweep, n_resamples=20)] == ["examples"]
    assert sweep.ceiling.min() > 90 and sweep.floor.max() < 10, "the embedded model, measured"
    assert icl.plots.layer_curves(sweep).data
    only = icl.SweepResult.load(FORMER / "sweep_custom")
    assert icl.layer_importance(only)
    heads = HeadSweepResult.load(FORMER / "heads")
    assert len(heads.best(3).heads) == 3 and heads.interval().shape == (2, 3, 4)
    (one, two) = AblationResult.load(FORMER / "ablation").compare(n_resamples=20)
    assert one.share == two.share == "16.7 %" and (one.n_shots, two.n_shots) == (1, 2)
    reference = HeadReference.load(FORMER / "reference")
    assert icl.HeadAblation({(0, 1)}, "mean_z", reference)
    lora = LoraResult.load(FORMER / "lora")
    assert lora.interval().shape == (2, 2)


@pytest.mark.parametrize("name", ["gates", "savings"])
def test_where_there_were_no_statistics_there_is_no_interval(name):
    result = KINDS[name].load(FORMER / name)
    assert result.statistics is None
    with pytest.raises(ResultError, match="earlier version holds no statistics .* run again"):
        result.score_interval()
    assert len(result.to_dataframe())


def test_every_flipped_bit_of_the_json_is_noticed(name, copies):
    path, draw = copies / f"{name}.json", random.Random(name)
    whole = path.read_bytes()
    for place in draw.sample(range(8 * len(whole)), 150):
        flip(path, whole, place)
        with pytest.raises(ResultError, match=f"{name}.json is damaged, or of another result"):
            KINDS[name].load(copies / name)
    for cut in (b"", whole[:-1], whole + b" "):
        path.write_bytes(cut)
        with pytest.raises(ResultError, match="put back the one that was saved with it"):
            KINDS[name].load(copies / name)


def test_every_flipped_bit_of_the_header_is_noticed(name, copies):
    path, draw = copies / f"{name}.safetensors", random.Random(name)
    whole = path.read_bytes()
    for place in draw.sample(range(8 * tensors_from(whole)), 300):
        flip(path, whole, place)
        with pytest.raises(ResultError):
            KINDS[name].load(copies / name)


@pytest.mark.parametrize("name", SCORED)
def test_flipped_bits_that_change_a_score_are_noticed(name, copies):
    """Others are not, such as a last digit: tensors of the first format have no digest."""
    path, draw, kind = copies / f"{name}.safetensors", random.Random(name), KINDS[name]
    whole, was = path.read_bytes(), kind.load(copies / name)
    begin, refused = 8 * tensors_from(whole), 0
    for place in draw.sample(range(begin, 8 * len(whole)), 400):
        flip(path, whole, place)
        try:
            found = kind.load(copies / name)
        except ResultError:
            refused += 1
            continue
        for field in {*was._tensors} & {"scores", "item_scores", "ceiling", "floor"}:
            near = {"rtol": 1e-8, "atol": 1e-11}
            torch.testing.assert_close(getattr(found, field), getattr(was, field), **near)
        for old, new in zip(was._scored(was.statistics.numpy()), scored_by(found), strict=True):
            np.testing.assert_allclose(new, old[1], rtol=1e-8, atol=1e-11)
    assert refused > 60


def scored_by(result):
    """What the statistics of a result give."""
    scorer = result.scorer()
    for totals, _ in result._scored(result.statistics.numpy()):
        rows = [scorer.score(row) for row in totals.reshape(-1, totals.shape[-1])]
        yield np.reshape(rows, totals.shape[:-1])


def flip(path, whole, place):
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)


def tensors_from(whole):
    return 8 + int.from_bytes(whole[:8], "little")


def test_every_cut_of_the_tensors_is_noticed(name, copies):
    path, draw = copies / f"{name}.safetensors", random.Random(name)
    whole = path.read_bytes()
    ends = {0, 1, 7, 8, 9, tensors_from(whole), len(whole) - 1}
    for end in ends | set(draw.sample(range(len(whole)), 20)):
        path.write_bytes(whole[:end])
        with pytest.raises(ResultError):
            KINDS[name].load(copies / name)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ResultError):
        KINDS[name].load(copies / name)


def test_json_of_another_result_is_refused(copies):
    for name in KINDS:
        for other in set(KINDS) - {name}:
            shutil.copy(FORMER / f"{other}.json", copies / f"{name}.json")
            with pytest.raises(ResultError, match="or of another result than .*put back"):
                KINDS[name].load(copies / name)


def test_json_that_is_not_there_is_asked_for(name, copies):
    path = copies / f"{name}.json"
    path.unlink()
    words = f"of the first format, which had a .json beside it.*put back the {name}.json"
    with pytest.raises(ResultError, match=words):
        KINDS[name].load(copies / name)
    path.mkdir()
    with pytest.raises(ResultError, match=words):
        KINDS[name].load(copies / name)


def test_one_kind_is_not_taken_for_another():
    for name, kind in KINDS.items():
        for other in {*KINDS.values(), HeadScores} - {kind}:
            with pytest.raises(ResultError, match="is not a result of this kind: it holds"):
                other.load(FORMER / name)


def test_wrong_types_under_a_right_digest(name, tmp_path):
    """Each field is replaced in turn: a result comes out that can be used, or words."""
    tensors, rest = held(FORMER / name)
    path = tmp_path / "run"
    for field in rest:
        for hostile in HOSTILE:
            write_pair(path, tensors, json.dumps({**rest, field: hostile}).encode())
            with suppress(IclLocateError):
                use(KINDS[name].load(path))
        less = {key: value for key, value in rest.items() if key != field}
        write_pair(path, tensors, json.dumps(less).encode())
        with pytest.raises(ResultError, match="it lacks|not a result of this kind"):
            KINDS[name].load(path)
    for text in (b"[]", b"", b"{", b'{"a": NaN}', b"[" * 100_000, b"\xff"):
        write_pair(path, tensors, text)
        with pytest.raises(ResultError, match="damaged"):
            KINDS[name].load(path)


def test_wrong_tensors_are_refused(name, tmp_path):
    tensors, rest = held(FORMER / name)
    text, path = json.dumps(rest).encode(), tmp_path / "run"
    write_pair(path, tensors, text)
    KINDS[name].load(path)
    for key in tensors:
        write_pair(path, {k: v for k, v in tensors.items() if k != key}, text)
        with pytest.raises(ResultError, match=f"it lacks {key}"):
            KINDS[name].load(path)
        write_pair(path, tensors | {key: tensors[key].to(torch.int8)}, text)
        with pytest.raises(ResultError):
            KINDS[name].load(path)


def test_a_metric_of_ones_own_that_is_no_mean_is_not_scored_again(tmp_path):
    """What its statistics give is not in the file: it loads, and has no interval."""
    tensors, rest = held(FORMER / "sweep_custom")
    rest["provenance"]["metric_is_mean"] = False
    changed = tensors | {"scores": tensors["scores"] + 1}
    write_pair(tmp_path / "run", changed, json.dumps(rest).encode())
    found = icl.SweepResult.load(tmp_path / "run")
    with pytest.raises(ResultError, match="'longest' is not part of icl_locate"):
        found.score_interval()


def test_commands_take_them_for_results_of_an_earlier_version(copies):
    from icl_locate.cli.earlier import check_earlier
    from icl_locate.cli.sweep import SweepConfig

    path = copies / "sweep.safetensors"
    with pytest.raises(IclLocateError, match="in the way, and no result of this version"):
        check_earlier(SweepConfig(output=copies), path)
    check_earlier(replace(SweepConfig(output=copies), overwrite=True), path)


def test_what_a_class_alone_reads_is_not_called_damaged(tmp_path):
    """Whoever reads any file, or goes on from a checkpoint, says that it is of the first format."""
    from icl_locate.records.checkpoint import load_checkpoint
    from icl_locate.records.sealed import read_rest

    path = next(Path(__file__).with_name("former").glob("*.safetensors"))
    for read in (read_rest, lambda it: load_checkpoint(it, "icl_locate.GateCheckpoint/2", {})):
        with pytest.raises(ResultError, match="is of the first format, which had a .json beside"):
            read(path)
