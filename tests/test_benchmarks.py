"""The benchmark of interventions at tiny size: all ways give the same, and the floor is counted."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))
import interventions
from floor import clean_flops, layer_flops, patch_flops
from patches import Patch, ablation
from random_llama import Shape

TINY = Shape(n_layers=3, d_model=64, d_mlp=128, d_head=16, n_kv_heads=2)


@pytest.mark.parametrize("part", interventions.PARTS)
def test_every_way_gives_the_same(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(interventions, "HAS_NNSIGHT", False)
    monkeypatch.setattr(interventions, "SMALL", TINY)
    config = interventions.Config(
        parts=(part,), shape=TINY, n_tokens=30, n_prompts=2, n_short=8, n_queries=3, n_masked=30,
        step=2, n_shots=2, d_vocab=400, n_runs=1, output=tmp_path,
    )  # fmt: skip
    interventions.main(config)
    rows = json.loads((tmp_path / interventions.FILES[0]).read_text())[part]
    for row in rows:
        assert row["difference"] < 1e-5
        assert row["effect"] > 1e-6 or "answers" in row["agreement"]
        assert row["seconds"]["shared"] > 0 and row["bytes"] > 0
    shown = "peers_table.md" if part == "peers" else "interventions_table.md"
    assert rows[0]["work"] in (tmp_path / shown).read_text()
    assert ("nnsight is not installed" in capsys.readouterr().out) == (part == "peers")


def test_the_floor_counts_rows_that_differ_and_are_read():
    value = ablation(TINY, 0, 0).value
    clean, mlp = clean_flops(TINY, 2, 10), 3 * 64 * 128
    own, one = 64 * 16 + mlp, layer_flops(TINY, 1, 10)
    keys = 2 * 64 * 32

    def above(*patches: Patch, n_read: int = 1) -> float:
        return (patch_flops(TINY, 2, 10, patches, n_read) - clean) / 2

    assert above() == 0
    assert above(Patch(1, value, 2)) == own + one
    assert above(Patch(2, value, 2)) == own
    assert above(Patch(0, value)) == 2 * one
    assert above(Patch(2, value)) == 0
    assert above(ablation(TINY, 1, 0)) == 10 * own + one + 9 * keys
    assert above(ablation(TINY, 2, 0), n_read=4) == 4 * own
    assert above(ablation(TINY, 0, 0), n_read=10) == 10 * own + 2 * layer_flops(TINY, 10, 10)
