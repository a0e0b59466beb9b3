"""Tables of what cases have found, printed at the end of a run: a row a case, or several of one case.

    row = Row(request.node, "guests", "guest", "debian 12")
    row.put("boots", "yes")
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

PROPERTY = "table:"  # begins the names of properties of cases that are rows


class Row:
    """A case's row counts as it is when the case has ended, also where it failed in the middle."""

    def __init__(self, item: pytest.Item, table: str, column: str, name: str) -> None:
        self._cells = {column: name}
        item.user_properties.append((PROPERTY + table, self._cells))

    def put(self, column: str, text: str) -> None:
        self._cells[column] = text


def lines_of(rows: list[dict[str, str]]) -> list[str]:
    """As in a page, with the columns of all rows; what a row has not is not known."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([row.get(column, "?") for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in cells]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]


class Tables:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rows: dict[str, dict[str, list[dict[str, str]]]] = {}  # by table, then by case

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, cells in report.user_properties:
            if name.startswith(PROPERTY) and report.when == "teardown":
                # A second try takes the first one's place.
                table = self._rows.setdefault(name.removeprefix(PROPERTY), {})
                table[report.nodeid] = [
                    dict(each) for of, each in report.user_properties if of == name and isinstance(each, dict)
                ]

    def pytest_sessionfinish(self) -> None:
        for name, cases in self._rows.items():
            self._say(f"{name}:")
            for line in lines_of([row for rows in cases.values() for row in rows]):
                self._say(line)
