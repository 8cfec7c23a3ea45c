"""Constraints for `make lowest`: ``python tests/lowest.py > FILE``.

Every dependency stands at the lower bound that pyproject.toml declares; the tests' own tools stand
where constraints.txt has them. All else follows from these.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def constraints() -> list[str]:
    """One ``name==version`` a line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [
        *project["project"]["dependencies"],
        *(one for some in project["project"]["optional-dependencies"].values() for one in some),
    ]
    lowest = dict(_bound(requirement) for requirement in declared)
    tools = {_bound(requirement)[0] for requirement in project["dependency-groups"]["test"]}
    exact = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in exact if "==" in line)
    tools_at = {name: pinned[name] for name in tools - lowest.keys()}
    return [f"{name}=={version}" for name, version in sorted((lowest | tools_at).items())]


def _bound(requirement: str) -> tuple[str, str]:
    """The name of a requirement, and the version from which on it is taken."""
    found = re.match(r"([A-Za-z0-9_.-]+?)>=([0-9.]+)", requirement)
    if found is None:
        raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound")
    return found[1], found[2]


if __name__ == "__main__":
    print("\n".join(constraints()))
