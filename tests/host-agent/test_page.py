"""The page of the example of a host agent (--status-port), in a browser without a window, with bare-metal guests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.host_agent import Agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")

CLONES = 2
REQUESTS = 7


class Drawn(HTMLParser):
    """The texts of what has an id, the bars' counts, and the rows of the table."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.bars: list[int] = []
        self.points: list[str] = []
        self.rows: list[list[str]] = []
        self._id = ""
        self._in_cell = False
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._id = given.get("id", "")
        self._in_cell = tag == "td"
        if tag == "rect":
            self.bars.append(int(given["data-count"]))
        elif tag == "polyline":
            self.points = given["points"].split()
        elif tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        self._id, self._in_cell = "", False

    def handle_data(self, data: str) -> None:
        if self._id:
            self.texts[self._id] = data
        if self._in_cell:
            self.rows[-1].append(data)


def drawn(url: str, room: Path, virtual_ms: int) -> Drawn:
    """The page, so long after its start by the browser's clock."""
    browser = shutil.which("chromium")
    assert browser is not None, "chromium is missing: .ci/install-packages check"
    # Its sandbox is not for root.
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={room}/browser",
        f"--virtual-time-budget={virtual_ms}", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return Drawn(done.stdout)


def test_a_browser_draws_the_numbers(build: Path, mayfly: Path, room: Path) -> None:
    directory = room / "agent"
    directory.mkdir()
    options = {"--kernel": build / "guests/function", "--clones": CLONES, "--port": 0, "--status-port": 0, "--deadline-ms": 60_000}
    agent = Agent(build / "tests/host-agent/host_agent", directory, mayfly, options, {})
    try:
        agent.wait_until_ready()
        url = f"http://127.0.0.1:{agent.status_port}/"
        empty = drawn(url, room, 500)
        assert empty.texts["answered"] == "0" and empty.bars == []
        for number in range(REQUESTS):
            assert agent.ask("POST", "/", f"hello {number}")[0] == 200
        agent.wait_for_stats(ready=CLONES)
        page = drawn(url, room, 4500)
        assert page.texts.get("trouble", "") == ""
        assert page.texts["answered"] == str(REQUESTS)
        assert page.texts["unanswered"] == "0 refused, 0 failed, 0 late, 0 unasked"
        assert page.texts["alive"] == str(CLONES)
        assert re.fullmatch(r"\d+\.\d", page.texts["rate"]), page.texts
        assert re.fullmatch(r"[0-9.]+ MiB", page.texts["memory"]), page.texts
        assert f"of {CLONES} monitors" in page.texts["private"]
        assert sum(page.bars) == REQUESTS, page.bars
        assert len(page.points) >= 3, "it asks each second"
        times = [row for row in page.rows if row]
        assert len(times) == 3
        for row in times:
            assert len(row) == 4 and all(re.fullmatch(r"[0-9.]+ (µs|ms|s)", cell) for cell in row), row
        agent.end(mayfly)
    finally:
        agent.process.kill()
        agent.process.wait()
