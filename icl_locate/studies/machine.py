"""What ran it: versions, the commit of this package, and the machine."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("icl_locate", "torch", "transformers", "transformer_lens", "sacrebleu")
_SECONDS = 10  # that git may take


def describe_run(devices: Iterable[Any] = (), *packages: str) -> dict[str, Any]:
    """The part of a recipe that says what ran: versions, the package's commit, the machine.

    Args:
        devices: where the model's weights lie; of none, where torch would put them.
        packages: further ones whose versions count.
    """
    return {
        "versions": versions(*packages),
        "commit": commit(),
        "hardware": hardware(devices),
    }


def versions(*more: str) -> dict[str, str]:
    """The versions of Python, of what ran, and of more packages."""
    found = {package: version(package) for package in (*_PACKAGES, *more)}
    return {"python": platform.python_version(), **found}


def hardware(devices: Iterable[Any] = ()) -> dict[str, Any]:
    """The machine as far as numbers may depend on it; nothing that names it.

    >>> sorted(hardware(["cpu"]))  # doctest: +NORMALIZE_WHITESPACE
    ['cores', 'cpu', 'cpu_capability', 'devices', 'gpus', 'matmul_precision', 'platform', 'threads']
    """
    return {
        **_machine(),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "devices": sorted({str(device) for device in devices}),
    }


@cache
def commit() -> str:
    """The commit of this package where it runs from a checkout, or what was installed.

    "+changes" follows where files differ from it. It is found out once, and never fails.
    """
    home = Path(__file__).resolve().parents[2]
    if (home / ".git").exists():
        head = _git(home, "rev-parse", "HEAD")
        if head:
            changed = _git(home, "status", "--porcelain", "--", "icl_locate")
            return head + ("+changes" if changed else "")
    return _installed() or f"none: release {version('icl_locate')}"


def _installed() -> str:
    """The commit that was installed, where it was installed from a repository by its address."""
    try:
        said = json.loads(distribution("icl_locate").read_text("direct_url.json") or "{}")
        return str(said["vcs_info"]["commit_id"])
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return ""


def _git(home: Path, *words: str) -> str:
    """What git says of a checkout; nothing if there is no git, or it fails."""
    program = shutil.which("git")
    if program is None:
        return ""
    try:
        said = subprocess.run(  # noqa: S603 - its own words alone
            [program, "-C", str(home), "--no-optional-locks", *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            env={name: it for name, it in os.environ.items() if not name.startswith("GIT_")},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()


@cache
def _machine() -> dict[str, Any]:
    """What stays as it is while a process runs."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    found = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpus": gpus,
    }
    return found | ({"cuda": str(torch.version.cuda)} if gpus else {})


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
