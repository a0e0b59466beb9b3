"""The end of a process, and what nobody tells, awaited with a deadline."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable

from harness.console import PATIENCE


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    if process.poll() is not None:
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    return process.poll() is not None


def until(happens: Callable[[], bool], what: str) -> None:
    """Looks again and again: for what no descriptor tells. `what` should have happened."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def exit_code(process: subprocess.Popen[bytes], name: str) -> int:
    """-N where signal N ended it."""
    assert ended_within(process, PATIENCE), f"{name} did not end"
    return process.returncode
