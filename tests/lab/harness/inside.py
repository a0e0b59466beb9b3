"""The end of the line that is in the lab: says to labs.py what becomes of each case, by lines on standard output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import GIVEN

MARK = "::lab:: "  # begins the lines that are for labs.py
OPTION = "--inside"


class Inside:
    def __init__(self, config: pytest.Config, given: Path) -> None:
        self._config = config
        config.stash[GIVEN] = json.loads(given.read_text())

    @staticmethod
    def _say(**message: Any) -> None:
        # pytest captures this stream only while a phase of a case is being run.
        sys.stdout.write(f"{MARK}{json.dumps(message)}\n")
        sys.stdout.flush()

    def pytest_sessionstart(self) -> None:
        self._say(lab=os.environ["MAYFLY_LAB"])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._say(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._say(report=self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome, "", ""
