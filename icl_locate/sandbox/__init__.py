"""Running generated Python against tests, without trusting it."""

from icl_locate.sandbox.run import SandboxResult, run_python

__all__ = ["SandboxResult", "run_python"]
