"""Runs the cases that are marked `lab` in labs, a batch at a time, and all others here.

    pytestmark = pytest.mark.lab

Cases with the same mark share a lab. `lab(batch=3, seconds=10)` has three cases a lab at most, which ends after 10 s. See README.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guests import CHECKOUT
from harness.inside import OPTION, Inside
from harness.labs import Labs
from harness.tables import Tables
from harness.tally import Tally

LAB = Path(__file__).parent.parent / "lab"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lab")
    group.addoption("--build", metavar="DIRECTORY", default="build/release", help="what is tested (build/release)")
    group.addoption("--lab", metavar="PROGRAM", default=str(LAB), help="what cases run in (tests/lab/lab)")
    group.addoption(OPTION, metavar="FILE", help="for the harness itself, in a lab")
    group.addoption("--all-guests", action="store_true", help="other people's guests that take long, too (test_guests.py)")
    parser.addini("most_second_tries", "how many cases of a run may be run a second time")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab(batch, seconds): runs in a lab, with others that have the same mark")
    config.addinivalue_line("markers", "seldom: runs with --all-guests only")
    given = config.getoption(OPTION)
    if given is not None:
        config.pluginmanager.register(Inside(config, Path(given)), "lab-inside")
        return
    tally = Tally(config)
    config.pluginmanager.register(tally, "lab-tally")
    config.pluginmanager.register(Tables(tally.say), "lab-tables")
    config.pluginmanager.register(Outside(tally), "lab-outside")


class Outside:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if config.getoption("--all-guests"):
            return
        seldom = [item for item in items if item.get_closest_marker("seldom")]
        config.hook.pytest_deselected(items=seldom)
        items[:] = [item for item in items if item not in seldom]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        require_build(session)
        in_labs = [item for item in session.items if item.get_closest_marker("lab")]
        if session.config.option.collectonly or session.testsfailed or not in_labs:
            return None  # pytest's own loop
        here = [item for item in session.items if not item.get_closest_marker("lab")]
        for item, following in zip(here, [*here[1:], None]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            stop_if_asked(session)
        Labs(session, self._tally.say).run(in_labs)
        return True


def require_build(session: pytest.Session) -> None:
    mayfly = CHECKOUT / session.config.getoption("--build") / "mayfly"
    if any("mayfly" in getattr(item, "fixturenames", ()) for item in session.items) and not mayfly.is_file():
        raise pytest.UsageError(f"{mayfly} is not there: cmake --preset release && cmake --build --preset release")


def stop_if_asked(session: pytest.Session) -> None:
    """What -x and --maxfail ask for."""
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
