"""tests/filters_used: which tests it runs, by a strace that says what they called."""

from __future__ import annotations

import pytest
from fake_tree import Tree

# The first tests call close; the others, of which the filter has all but those, sync.
STRACE = """
while [ "$1" != -o ]; do shift; done
case "$*" in *--gtest_filter=\\**) call=sync ;; *) call=close ;; esac
echo "$call" >>runs
printf 'seccomp(1, 0, 0x1) = 0\\n%s(3) = 0\\n' "$call" >"$2.1"
echo "[==========] 5 tests from 2 test suites ran. (7 ms total)"
"""


@pytest.fixture
def filters(tree: Tree) -> Tree:
    tree.copy("tests/filters_used")
    tree.fake("bin/strace", STRACE)
    return tree


def result(tree: Tree, *entries: str) -> tuple[int, str, list[str]]:
    """Its status, its last line, and what was run: with a filter of these lines."""
    lines = "".join(f"{entry}\n" for entry in entries)
    tree.fake("build/release/mayfly-seccompile", f"cat <<'END'\n{lines}END")
    ended = tree.run("tests/filters_used")
    return ended.status, ended.said.splitlines()[-1], (tree.path / "runs").read_text().split()


def test_others_are_not_run_where_the_first_tests_use_each_line(filters: Tree) -> None:
    assert result(filters, "every 1 close needed", "every 2 sync rare") == (0, "2 passed, 0 failed", ["close"])


def test_others_are_run_where_a_line_is_left(filters: Tree) -> None:
    assert result(filters, "every 1 close needed", "every 2 sync needed") == (0, "2 passed, 0 failed", ["close", "sync"])


def test_a_line_that_none_of_all_tests_uses_fails(filters: Tree) -> None:
    assert result(filters, "every 1 close needed", "every 2 reboot needed") == (1, "1 passed, 1 failed", ["close", "sync"])


def test_tests_that_break_off_fail(filters: Tree) -> None:
    filters.fake("bin/strace", f"{STRACE}".replace("ran. (", "run ("))
    assert result(filters, "every 1 close needed") == (1, "0 passed, 1 failed", ["close"])
