"""The studies on a device that is not the CPU: one in play on any machine, a GPU where there is."""

import json
import subprocess
import sys
from pathlib import Path

import devices
import pytest
import torch

SCRIPT = Path(__file__).with_name("on_device.py")
PLAYED = pytest.mark.skipif(not devices.CAN_PLAY, reason="this torch has no such devices")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize(
    ("device", "tolerance"),
    [pytest.param("spare:0", 1e-6, marks=PLAYED), pytest.param("cuda:0", 1e-4, marks=GPU)],
)
def test_studies_give_what_the_cpu_gives(device, tolerance):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), device], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said, *measured = map(json.loads, done.stdout.splitlines())
    assert said["devices"] == [device]
    assert len(measured) == 38
    for one in measured:
        assert "failed" not in one, (one, done.stderr[-6000:])
        assert one["same_nans"] and one["apart"] <= tolerance * max(one["size"], 1.0), one
    assert all(one["size"] for one in measured), "each measures something"
