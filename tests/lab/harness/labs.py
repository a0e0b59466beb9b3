"""Runs cases in labs, a batch at a time, and hands their reports to pytest out here as they come."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.artifacts import make, named_by
from harness.guests import CHECKOUT
from harness.inside import MARK, OPTION
from harness.tally import SECOND_TRY

# A lab that says nothing for so long hangs: whatever a case waits for has less time.
LONGEST_SILENCE = 300
# One CPU, since others work on this machine meanwhile.
LAB_OPTIONS = ("--cpus", "1", "--memory", "3072", "--silence", str(LONGEST_SILENCE))

# Networks and mounts of a batch are its own, where it may have any: the lab may be this very machine.
OWN_NAMESPACES = '[ "$(id -u)" -ne 0 ] || exec unshare --net --mount -- "$@"; exec "$@"'
# A software CPU takes a tenth of a second for each of the parts that are left out.
LEFT_OUT = ("cacheprovider", "debugging", "doctest", "faulthandler", "junitxml", "legacypath", "logging", "nose", "pastebin")

# Of a lab, unless its mark says otherwise. A start costs as much as three small cases, so the cases of a suite share one: what it
# has translated of the kernels and programs is there for the next case, and a lab that dies takes one case along.
LIMITS = {"batch": 100, "seconds": 3600}


@dataclass
class Batch:
    """The cases of one lab, and what is known of them."""

    items: list[pytest.Item]
    seconds: int
    reports: dict[str, list[pytest.TestReport]] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    running: str | None = None
    any_failed: bool = False

    @property
    def left(self) -> list[pytest.Item]:
        return [item for item in self.items if item.nodeid not in self.finished]


def limits_of(item: pytest.Item) -> dict[str, int]:
    mark = item.get_closest_marker("lab")
    assert mark is not None
    return LIMITS | mark.kwargs


def command_of(config: pytest.Config, batch: Batch, given: Path) -> list[str]:
    """Runs a batch in a lab, which ends with this process, whatever ends that."""
    plugins = [f"-pno:{name}" for name in LEFT_OUT] + ["-ppytest_timeout"]
    return [
        *("setpriv", "--pdeathsig", "TERM", config.getoption("--lab"), *LAB_OPTIONS, "--timeout", str(batch.seconds), "--"),
        *("env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", "sh", "-c", OWN_NAMESPACES, "sh"),
        *(sys.executable, "-m", "pytest", *plugins, "--build", config.getoption("--build"), OPTION, str(given)),
        *(item.nodeid for item in batch.items),
    ]


class Labs:
    def __init__(self, session: pytest.Session, say: Callable[[str], None]) -> None:
        self._session = session
        self._hook = session.config.hook
        self._say = say
        self._most_second_tries = int(session.config.getini("most_second_tries"))
        self._waiting: deque[pytest.Item] = deque()
        self._tried_again: set[str] = set()
        self._software = True  # until a lab says that it is none

    def run(self, items: list[pytest.Item]) -> None:
        with tempfile.TemporaryDirectory(prefix="mayfly-lab-") as directory:
            given = Path(directory, "given.json")
            try:
                given.write_text(json.dumps(self._make_artifacts(items, Path(directory))))
            except (OSError, subprocess.CalledProcessError) as error:
                self._fail("what guests are made of", f"cannot be made: {error}")
                return
            self._waiting.extend(items)
            while self._waiting and not (self._session.shouldfail or self._session.shouldstop):
                self._run_batch(self._next_batch(), given)

    def _make_artifacts(self, items: list[pytest.Item], directory: Path) -> dict[str, str]:
        config = self._session.config
        known = {"build": CHECKOUT / config.getoption("--build"), "lab": Path(config.getoption("--lab"))}
        return {name: str(make(name, directory, **known)) for name in named_by(items)}

    def _next_batch(self) -> Batch:
        """The cases that wait, as long as their marks are the same: modules that may share a lab say the same of it."""
        limits = limits_of(self._waiting[0])
        batch = Batch([self._waiting.popleft()], limits["seconds"])
        while self._waiting and limits_of(self._waiting[0]) == limits and len(batch.items) < limits["batch"]:
            batch.items.append(self._waiting.popleft())
        return batch

    def _run_batch(self, batch: Batch, given: Path) -> None:
        config = self._session.config
        command = command_of(config, batch, given)
        with subprocess.Popen(
            command, cwd=config.rootpath, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as lab:
            assert lab.stdout is not None
            try:
                for line in lab.stdout:
                    self._take(batch, line.decode(errors="replace"))
            except BaseException:
                lab.terminate()  # it ends its machine before it ends itself
                raise
        if batch.left:
            self._blame(batch, f"the lab ended with {lab.returncode} in this case")
        elif lab.returncode != (pytest.ExitCode.TESTS_FAILED if batch.any_failed else pytest.ExitCode.OK):
            self._fail("the lab", f"it ended with {lab.returncode} after its last case")

    def _take(self, batch: Batch, line: str) -> None:
        """One line of what the lab says."""
        if not line.startswith(MARK):
            if line.strip():
                self._say(line.rstrip())
            return
        try:
            message = json.loads(line[len(MARK) :])
        except json.JSONDecodeError:  # cut off by the lab's end: its case has no report
            self._say(line.rstrip())
            return
        if "lab" in message:
            self._software = message["lab"] == "software"
        if "started" in message:
            batch.running = message["started"]
        if "report" in message:
            report = self._hook.pytest_report_from_serializable(config=self._session.config, data=message["report"])
            batch.reports.setdefault(report.nodeid, []).append(report)
            if report.when == "teardown":
                batch.running = None
                self._finish(batch, report.nodeid, batch.reports[report.nodeid])

    def _finish(self, batch: Batch, nodeid: str, reports: list[pytest.TestReport]) -> None:
        item = next(item for item in batch.items if item.nodeid == nodeid)
        batch.finished.append(nodeid)
        failure = next((report for report in reports if report.failed), None)
        batch.any_failed = batch.any_failed or failure is not None
        if failure is not None and self._may_be_tried_again(nodeid):
            self._tried_again.add(nodeid)
            self._waiting.append(item)
            failure.outcome = SECOND_TRY  # type: ignore[assignment]
            reports = [failure]
        for report in reports:
            self._hook.pytest_runtest_logreport(report=report)

    def _may_be_tried_again(self, nodeid: str) -> bool:
        """In software only: README.md names the causes. On hardware a failure is one at once."""
        return self._software and nodeid not in self._tried_again and len(self._tried_again) < self._most_second_tries

    def _blame(self, batch: Batch, reason: str) -> None:
        """A lab has ended too early: the case that ran then failed, and those after it wait for another lab."""
        left = batch.left
        blamed = next((item for item in left if item.nodeid == batch.running), left[0])
        self._waiting.extendleft(reversed([item for item in left if item is not blamed]))
        before = [report for report in batch.reports.get(blamed.nodeid, []) if report.when == "setup"]
        self._finish(batch, blamed.nodeid, [*before, *reports_of_failure(blamed.nodeid, blamed.location, reason)])

    def _fail(self, name: str, reason: str) -> None:
        """A failure that is no case's."""
        for report in reports_of_failure(f"harness::{name}", (str(self._session.path), None, name), reason):
            self._hook.pytest_runtest_logreport(report=report)


def reports_of_failure(nodeid: str, location: tuple[str, int | None, str], reason: str) -> list[pytest.TestReport]:
    return [
        pytest.TestReport(nodeid, location, {}, "failed", reason, "call"),
        pytest.TestReport(nodeid, location, {}, "passed", None, "teardown"),
    ]
