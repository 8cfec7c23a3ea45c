"""How a command ends: with a status and at most one line of words, whatever stopped it."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from icl_locate.errors import IclLocateError
from icl_locate.records.files import describe

FAILED = 2
STOPPED = 130  # what shells say of a program that Ctrl-C ended


def in_words(command: Callable[[], int]) -> int:
    """Run a command; returns its exit status, having said on stderr why it failed.

    Ctrl-C ends it too, and so does whatever the system refuses: a full disk, a reader of its output
    that went away.
    """
    try:
        try:
            status = command()
        except SystemExit:  # of --help
            _flush()
            raise
        _flush()
    except KeyboardInterrupt:
        # If it passed through an exec of text, such as dataclasses make, CPython would end by the
        # signal in spite of our status: it notes that, until the next one.
        exec("")  # noqa: S102
        _say("stopped; files that were written before are whole")
        return STOPPED
    except IclLocateError as error:
        _say(str(error))
    except BrokenPipeError:
        _close_stdout()
        _say("stopped, since nobody reads its output any more (broken pipe)")
    except OSError as error:
        _close_stdout()
        _say(describe(error))
    else:
        return status
    return FAILED


def _flush() -> None:
    """Have what cannot be printed said now, not by Python at the very end."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # it may be closed, or None
        sys.stderr.write(f"icl-locate: {text}\n")
        sys.stderr.flush()


def _close_stdout() -> None:
    """Let nothing be written to it again, where Python would complain at the end."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
