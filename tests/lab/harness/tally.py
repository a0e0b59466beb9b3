"""One line a case as it ends, and the count as the last line."""

from __future__ import annotations

import pytest

SECOND_TRY = "second try"  # the outcome of a report whose case will be run once more


def name_of(nodeid: str) -> str:
    """lab/test_linux.py::test_jail[1] -> jail[1]"""
    return nodeid.partition("::")[2].replace("test_", "", 1) or nodeid


class Tally:
    """Counts cases, not reports: a case has one for each of its phases, and failed if any of them did."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._only_collects = config.option.collectonly
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._tried_again: set[str] = set()
        self._passed: set[str] = set()
        self._failed = self._skipped = 0

    def say(self, line: str) -> None:
        terminal = self._config.get_terminal_writer()
        terminal.line(line)
        terminal.flush()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome, "", ""  # nothing is printed but what this class prints

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed += 1
            self.say(f"FAILED  {report.nodeid} cannot be collected:")
            self._explain(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome == SECOND_TRY:
            self._tried_again.add(report.nodeid)
            self._say_failure(report, report.duration)
            self.say(f"{name_of(report.nodeid)} will be tried once more, since this is the software lab")
            return
        self._phases.setdefault(report.nodeid, []).append(report)
        if report.when == "teardown":
            self._finish(report.nodeid, self._phases.pop(report.nodeid))

    def _finish(self, nodeid: str, phases: list[pytest.TestReport]) -> None:
        seconds = sum(phase.duration for phase in phases)
        failures = [phase for phase in phases if phase.failed]
        skip = next((phase for phase in phases if phase.skipped), None)
        if failures:
            self._failed += 1
            for failure in failures:
                self._say_failure(failure, seconds)
            if nodeid in self._tried_again:
                self.say(f"FAILED  {name_of(nodeid)}, for good")
        elif skip is not None:
            self._skipped += 1
            # A file, a line and a reason: a tuple, or a list when it comes from a lab.
            reason = skip.longrepr[2] if isinstance(skip.longrepr, (tuple, list)) else str(skip.longrepr)
            self.say(f"skipped {name_of(nodeid)}: {reason.removeprefix('Skipped: ')}")
        else:
            self._passed.add(nodeid)
            self.say(f"ok      {name_of(nodeid)} ({seconds:.0f} s)")

    def _say_failure(self, report: pytest.TestReport, seconds: float) -> None:
        self.say(f"FAILED  {name_of(report.nodeid)} ({seconds:.0f} s), in its {report.when}:")
        self._explain(report)

    def _explain(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        texts = [report.longreprtext, *(f"--- {title}\n{text}" for title, text in report.sections)]
        for line in "\n".join(texts).splitlines():
            self.say(f"  | {line}")

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session):  # type: ignore[no-untyped-def]
        yield  # what others print at the end comes before
        if self._only_collects:
            return
        if not (self._passed or self._failed or self._skipped):
            self._failed = 1
            self.say("FAILED  there was no case to run")
        if self._failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        again = sorted(name_of(nodeid) for nodeid in self._tried_again & self._passed)
        if again:
            self.say(f"{len(again)} of them at the second try: {' '.join(again)}")
        skipped = f", {self._skipped} skipped" if self._skipped else ""
        self.say(f"{len(self._passed)} passed, {self._failed} failed{skipped}")
