"""A host whose KVM emulates kernel code (no svm or vmx flag) cannot run Linux: it is told so at once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.guests import tool

INTERNAL_ERROR = 13  # exit code


def runs_kernel_code_itself() -> bool:
    return re.search(r"^flags\b.*\b(svm|vmx)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None


def seconds_to_end(log: str) -> float:
    """From the return of the last KVM_RUN that brought an exit to the end of the process, by `strace -f -ttt -T`.

    A call's line has the time of its start and its <duration>, unless another thread's line cut it in two: the second
    half has the time of its end.
    """
    reported = ended = None
    running = set()
    for line in log.splitlines():
        thread, time = line.split()[:2]
        if returned := re.search(r"KVM_RUN.* = 0 <([\d.]+)>$", line):
            reported = float(time) + float(returned[1])
        if re.search("KVM_RUN.*unfinished", line):
            running.add(thread)
        if "ioctl resumed" in line:
            if thread in running and " = 0 <" in line:
                reported = float(time)
            running.discard(thread)
        if "exited with" in line:
            ended = float(time)
    assert reported is not None and ended is not None, "the log has no end"
    return ended - reported


if not runs_kernel_code_itself():

    @pytest.mark.timeout(450)
    def test_a_kernel_that_is_emulated_ends_within_a_second(mayfly: Path, tmp_path: Path) -> None:
        if not os.access("/dev/kvm", os.W_OK):
            pytest.skip("there is no /dev/kvm, or it may not be written to")
        # Not packed, since its own unpacking would take minutes; and small: Debian's gets to the same instruction (CMPXCHG16B)
        # after nine times as many.
        kernel, log = tool("build-kernel", "--print-path"), tmp_path / "strace"
        options = ["--kernel", str(kernel), "--memory", "96", "--append", "quiet"]
        ended = subprocess.run(
            ["strace", "-f", "-ttt", "-T", "-e", "trace=ioctl", "-o", str(log), str(mayfly), "run", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=400,
            check=False,
        )
        said = ended.stdout.decode(errors="replace")
        assert ended.returncode == INTERNAL_ERROR, said
        assert re.search("cannot emulate the guest's instruction .* at address 0x.*rip=", said), said
        assert 0 <= seconds_to_end(log.read_text()) < 1
