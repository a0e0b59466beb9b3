"""Ending everything that a program began, whatever process groups it is in: `timeout` makes its own, a daemon its own session."""

import ctypes
import os
import signal
import time

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of descendants whose own parent ends, so that none of them gets lost."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants():
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, parents = [], [os.getpid()]
    while parents:
        parents = [child for parent in parents for child in children.get(parent, [])]
        found += parents
    return found


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def wait(process):
    """The exit code of a child, negative where a signal ended it; reaps orphans meanwhile."""
    while True:
        ended, status = os.wait()
        if ended == process:
            return os.waitstatus_to_exitcode(status)


def end_descendants(patience):
    """Asks all of them to end (SIGTERM); ends by force (SIGKILL) what is left after so many seconds. Needs adopt_orphans()."""
    what, deadline = signal.SIGTERM, time.monotonic() + patience
    asked = set()
    while left := descendants():
        for process in left:
            if what == signal.SIGKILL or process not in asked:
                asked.add(process)
                try:
                    os.kill(process, what)
                except ProcessLookupError:
                    pass
        reap()
        if time.monotonic() > deadline:
            what = signal.SIGKILL
        time.sleep(0.02)
    reap()
