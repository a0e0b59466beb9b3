"""check: what it chooses, runs and counts, with CTest itself and fakes of the builds and the suites."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fake_tree import CHECKOUT, Run, Tree

LAB, LINUX = "tests/lab/test_lab.py", "tests/lab/test_linux.py"
UNIT = "build/release/tests/unit_tests"
SCRIPTS = ("tests/check/suite", "tests/check/processes.py", "tests/check/CMakeLists.txt", "tests/pytest.ini")


@pytest.fixture(name="checkout")
def fixture_checkout(tree: Tree) -> Tree:
    tree.copy("check", ".ci/run", *SCRIPTS)
    tree.fake(".ci/install-packages", 'echo "$@" >>installed')
    # The builds are fakes; what configures the tests is not.
    tree.fake("bin/cmake", f'[ "$1" = -S ] || {{ echo "$@" >>built; exit "${{BUILD_STATUS:-0}}"; }}; exec {shutil.which("cmake")} "$@"')
    for script in ("build-kernel", "fetch-stock-kernel"):
        tree.fake(f"rootfs-tools/{script}", "")
    tree.fake("tests/lab/lab", "")
    # Suites of pytest are fakes, too: programs in their files' places.
    suites = tree.path / "tests/check/CMakeLists.txt"
    suites.write_text(re.sub(r"set\(pytest .*\)", "set(pytest)", suites.read_text()))
    return tree


def says(tree: Tree, script: str, *lines: str, status: int = 0) -> None:
    """Makes the command of a suite one that prints this."""
    tree.fake(script, f"printf '%s\\n' {shlex.join(lines)}; exit {status}")


def googletest(tree: Tree, *cases: str, status: int = 0) -> None:
    """Makes the unit tests a binary whose report has these cases, each what its element holds."""
    report = "<testsuites><testsuite>%s</testsuite></testsuites>" % "".join(
        f'<testcase name="case" status="run">{case}</testcase>' for case in cases)
    tree.fake(UNIT, 'for word; do case $word in --gtest_output=xml:*) report=${word#*xml:} ;; esac; done\n'
              f"printf %s {shlex.quote(report)} >$report; exit {status}")


def last(run: Run) -> tuple[bool, str]:
    """Whether it succeeded, and its last line."""
    return run.status == 0, run.said.splitlines()[-1]


def before_last(run: Run) -> str:
    return run.said.splitlines()[-2]


# --- Programs that count -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "status", "expected"),
    [
        (["7 passed, 0 failed"], 0, (True, "7 passed, 0 failed")),
        (["5 passed, 2 failed"], 1, (False, "5 passed, 2 failed")),
        (["0 passed, 0 failed"], 0, (False, "0 passed, 1 failed")),
        (["0 passed, 0 failed, 2 skipped"], 0, (False, "0 passed, 1 failed, 2 skipped")),
        (["no count"], 0, (False, "0 passed, 1 failed")),
        ([], 0, (False, "0 passed, 1 failed")),
        (["7 passed, 0 failed"], 1, (False, "7 passed, 1 failed")),
        (["7 passed, 0 failed", "and then something"], 0, (False, "0 passed, 1 failed")),
        (["skipped this: no reason", "1 passed, 0 failed, 1 skipped"], 0, (True, "1 passed, 0 failed, 1 skipped")),
    ],
)
def test_a_program_is_counted_by_its_last_line(
    checkout: Tree, lines: list[str], status: int, expected: tuple[bool, str]
) -> None:
    says(checkout, LAB, *lines, status=status)
    run = checkout.run("./check", "lab")
    assert last(run) == expected
    assert before_last(run) == "0 of them at the second try"


def test_second_tries_are_passes_that_are_counted_and_named(checkout: Tree) -> None:
    says(checkout, LAB, "2 of them at the second try: a b", "7 passed, 0 failed")
    run = checkout.run("./check", "lab")
    assert last(run) == (True, "7 passed, 0 failed")
    assert before_last(run) == "2 of them at the second try: lab/a lab/b"


def test_more_than_three_second_tries_a_run_are_failures(checkout: Tree) -> None:
    says(checkout, LAB, "3 of them at the second try: a b c", "7 passed, 0 failed")
    says(checkout, LINUX, "1 of them at the second try: d", "5 passed, 0 failed")
    run = checkout.run("./check", "lab", "linux")
    assert last(run) == (False, "11 passed, 1 failed")
    assert before_last(run) == "4 of them at the second try: lab/a lab/b lab/c linux/d"


@pytest.mark.parametrize("command", [("./check", "--strict"), (".ci/run",)])
def test_a_skip_is_a_failure_where_strict(checkout: Tree, command: tuple[str, ...]) -> None:
    says(checkout, LAB, "skipped this: no reason", "1 passed, 0 failed, 1 skipped")
    run = checkout.run(*command, "lab")
    assert last(run) == (False, "1 passed, 1 failed, 0 skipped")
    assert "  lab: this: no reason" in run.said.splitlines()


def test_where_strict_it_says_that_nothing_was_skipped(checkout: Tree) -> None:
    says(checkout, LAB, "1 passed, 0 failed")
    assert last(checkout.run(".ci/run", "lab")) == (True, "1 passed, 0 failed, 0 skipped")


# --- GoogleTest binaries -------------------------------------------------------------------------------------------------

FAILURE = '<failure message="no"/>'
SKIPPED = '<skipped message="some_test.cpp:7&#x0A;no reason"/>'


@pytest.mark.parametrize(
    ("cases", "status", "expected"),
    [
        (["", "", ""], 0, (True, "3 passed, 0 failed")),
        (["", FAILURE + FAILURE], 1, (False, "1 passed, 1 failed")),
        (["", "", SKIPPED], 0, (True, "2 passed, 0 failed, 1 skipped")),
        ([], 0, (False, "0 passed, 1 failed")),
        # A sanitizer's report at its end, and a failure that the status does not tell.
        (["", ""], 23, (False, "2 passed, 1 failed")),
        (["", FAILURE], 0, (False, "1 passed, 1 failed")),
    ],
)
def test_a_binary_is_counted_by_its_report(
    checkout: Tree, cases: list[str], status: int, expected: tuple[bool, str]
) -> None:
    googletest(checkout, *cases, status=status)
    assert last(checkout.run("./check", "unit")) == expected


def test_a_binary_that_died_before_its_report_fails_whatever_it_printed(checkout: Tree) -> None:
    checkout.fake(UNIT, "echo '[  PASSED  ] 3 tests.'; kill -SEGV $$")
    assert last(checkout.run("./check", "unit")) == (False, "0 passed, 1 failed")


def test_a_skip_of_a_binary_is_named_where_strict(checkout: Tree) -> None:
    googletest(checkout, "", SKIPPED)
    run = checkout.run(".ci/run", "unit")
    assert last(run) == (False, "1 passed, 1 failed, 0 skipped")
    assert "  unit: some_test.cpp:7: no reason" in run.said.splitlines()


# --- What is chosen, and in what order -------------------------------------------------------------------------------------


def test_quick_runs_the_unit_and_integration_tests_of_the_release(checkout: Tree) -> None:
    googletest(checkout, "", "")
    shutil.copy(checkout.path / UNIT, checkout.path / "build/release/tests/integration_tests")
    (checkout.path / "build/release/tests/integration").mkdir()
    (checkout.path / "build/release/tests/integration_tests").rename(
        checkout.path / "build/release/tests/integration/integration_tests")
    assert last(checkout.run("./check", "--quick")) == (True, "4 passed, 0 failed")
    assert (checkout.path / "built").read_text().splitlines() == ["--preset release", "--build --preset release"]


def test_a_suite_that_is_not_there_is_refused_by_name(checkout: Tree) -> None:
    run = checkout.run("./check", "lab", "labs")
    assert run.status == 2
    assert run.said.startswith("check: there is no suite labs; there are: format layers scripts ")
    assert not (checkout.path / "installed").exists()


def test_a_build_that_fails_is_one_failure_and_what_needs_it_is_not_run(checkout: Tree) -> None:
    googletest(checkout, "")
    run = checkout.run("./check", "unit", "integration", "attacks", BUILD_STATUS="1")
    assert last(run) == (False, "0 passed, 1 failed")
    assert run.said.count("not run, since what it needs failed") == 3


def test_packages_that_cannot_be_installed_end_it(checkout: Tree) -> None:
    checkout.fake(".ci/install-packages", "exit 1")
    assert last(checkout.run("./check", "lab")) == (False, "0 passed, 1 failed")


def test_packages_of_other_peoples_clients_are_installed_for_them_alone(checkout: Tree) -> None:
    for suite, script in (("lab", LAB), ("clients", "tests/client")):
        says(checkout, script, "1 passed, 0 failed")
        checkout.run("./check", suite)
    assert (checkout.path / "installed").read_text().splitlines() == ["build guests lab check", "build guests lab check clients"]


def test_each_suite_has_tests_and_each_test_a_suite(tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", CHECKOUT / "tests/check", "-B", tmp_path], check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.run(["ctest", "--test-dir", tmp_path, "--show-only=json-v1"], check=True, capture_output=True).stdout
    labels = set()
    for each in json.loads(shown)["tests"]:
        properties = {each["name"]: each["value"] for each in each["properties"]}
        labels.update(properties.get("LABELS", []))
        assert "LABELS" in properties or "FIXTURES_SETUP" in properties
    listed = subprocess.run([CHECKOUT / "check", "none"], stderr=subprocess.PIPE, text=True, check=False).stderr
    assert labels == set(re.sub(".*there are: ", "", listed).split())


# --- What is printed, and what is left ---------------------------------------------------------------------------------------


def test_a_failing_suite_shows_the_end_of_its_log_and_names_it(checkout: Tree) -> None:
    says(checkout, LAB, "the cause", "0 passed, 1 failed", status=1)
    run = checkout.run("./check", "lab")
    assert "    | the cause" in run.said.splitlines()
    assert "    all of it: build/check/lab.log" in run.said.splitlines()
    assert (checkout.path / "build/check/lab.log").read_text() == "the cause\n0 passed, 1 failed\n"


def test_a_table_at_its_end_has_the_time_of_each(checkout: Tree) -> None:
    says(checkout, LAB, "sleep", "1 passed, 0 failed, 1 skipped")
    run = checkout.run("./check", "lab")
    assert re.search(r"^ +passed +failed +skipped +seconds +of CPU$", run.said, re.MULTILINE)
    assert re.search(r"^lab +1 +0 +1 +\d+ +\d+$", run.said, re.MULTILINE)
    assert re.search(r"^build-lab +0 +0 +0 +\d+ +\d+$", run.said, re.MULTILINE)
    assert re.search(r"^all of it in \d+ min \d+ s$", run.said, re.MULTILINE)


def test_tables_of_a_suite_are_repeated(checkout: Tree) -> None:
    says(checkout, LAB, "guests:", "| guest | boots |", "| ----- | ----- |", "| hello | yes   |", "", "1 passed, 0 failed")
    said = checkout.run("./check", "lab").said.splitlines()
    first = said.index("    | guest | boots |")
    assert said[first : first + 3] == ["    | guest | boots |", "    | ----- | ----- |", "    | hello | yes   |"]


def alive(file: Path) -> bool:
    """Whether the process whose id a file has is there."""
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


# A process in a session of its own whose parent has ended.
LETS_GO = "setsid sh -c 'echo $$ >let-go; exec sleep 1000' & while [ ! -s let-go ]; do sleep 0.01; done"


def test_what_a_suite_left_behind_has_ended_before_the_next_begins(checkout: Tree) -> None:
    checkout.fake(LAB, f"{LETS_GO}; echo '1 passed, 0 failed'")
    assert last(checkout.run("./check", "lab")) == (True, "1 passed, 0 failed")
    assert not alive(checkout.path / "let-go")


def test_a_suite_that_takes_too_long_fails_and_leaves_nothing(checkout: Tree) -> None:
    file = checkout.path / "tests/check/CMakeLists.txt"
    file.write_text(file.read_text().replace("TIMEOUT 5400", "TIMEOUT 2"))
    checkout.fake(LAB, f"{LETS_GO}; sleep 1000")
    run = checkout.run("./check", "lab")
    assert last(run) == (False, "0 passed, 1 failed")
    assert "    FAILED: it took longer than its time limit" in run.said.splitlines()
    assert not alive(checkout.path / "let-go")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_all_that_it_began(checkout: Tree, number: signal.Signals) -> None:
    checkout.fake(LAB, f"{LETS_GO}; sleep 1000")
    environment = {**os.environ, "PATH": f"{checkout.path}/bin:{os.environ['PATH']}"}
    check = subprocess.Popen(["./check", "lab"], cwd=checkout.path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (checkout.path / "let-go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    check.send_signal(number)
    assert check.wait(60) == 128 + number
    assert not alive(checkout.path / "let-go")


def test_two_at_once_in_a_tree_are_refused(checkout: Tree) -> None:
    checkout.fake(LAB, "./check lab >second 2>&1; echo $? >>second; echo '1 passed, 0 failed'")
    checkout.run("./check", "lab")
    assert (checkout.path / "second").read_text() == (
        "check: another one is at work in this tree; wait for it, or clone the repository\n1\n")
