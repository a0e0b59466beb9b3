"""The harness itself: what it counts, runs a second time and ends with, by labs that are none."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest

from harness.cache import MOST_ENTRIES, cached
from harness.process import ended_within
from harness.templates import described_host

LAB_TESTS = Path(__file__).parent

# Runs the command that follows -- here, and says that it were a lab. `$ENDS_WITH`, if there is one, is its exit status.
FAKE_LAB = """\
#!/bin/sh
echo start >>labs
while [ "$1" != -- ]; do shift; done
shift
MAYFLY_LAB=${FAKE_LAB:-software} "$@"
status=$?
exit "${ENDS_WITH:-$status}"
"""

# What the cases below begin with.
HEAD = """\
import os, pathlib, signal
import pytest
from harness.artifacts import artifact
pytestmark = pytest.mark.lab(batch=3, seconds=10)

def first_time(name):
    seen = pathlib.Path("seen-" + name)
    first = not seen.exists()
    seen.touch()
    return first

"""


@dataclass
class Run:
    status: int
    said: str

    @property
    def last(self) -> str:
        return self.said.splitlines()[-1]

    @property
    def before_last(self) -> str:
        return self.said.splitlines()[-2]


class Tree:
    """A directory with cases in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        limit = re.search(r"^most_second_tries = .*", LAB_TESTS.with_name("pytest.ini").read_text(), re.MULTILINE)
        assert limit is not None
        options = f"addopts = -qq --no-summary --tb=short\nconsole_output_style = classic\ntimeout = 5\n{limit[0]}\n"
        (path / "pytest.ini").write_text(f"[pytest]\n{options}pythonpath = {LAB_TESTS}\n")
        (path / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
        (path / "lab").write_text(FAKE_LAB)
        (path / "lab").chmod(0o755)

    def prepare(self, cases: str, *options: str) -> list[str]:
        """The command that runs them."""
        (self.path / "test_toy.py").write_text(HEAD + dedent(cases))
        return [sys.executable, "-m", "pytest", "--lab", str(self.path / "lab"), *options, "test_toy.py"]

    def run(self, cases: str, *options: str, **environment: str) -> Run:
        command = self.prepare(cases, *options)
        # Not what the pytest around this one has for its own.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        ended = subprocess.run(
            command,
            cwd=self.path,
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(ended.stdout)  # shown where an assertion fails
        return Run(ended.returncode, ended.stdout)

    @property
    def labs(self) -> int:
        """How many were started."""
        return (self.path / "labs").read_text().count("start")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


GOOD = """\
@pytest.mark.parametrize("number", range({}))
def test_good(number):
    pass
"""
BAD = """\
def test_bad():
    assert 1 == 2
"""
# Fails at the first try.
ONCE = """\
@pytest.mark.parametrize("number", range({}))
def test_once(number):
    assert not first_time(str(number))
"""


def test_cases_of_several_batches_are_counted(tree: Tree) -> None:
    run = tree.run(GOOD.format(4))
    assert (run.status, run.last, tree.labs) == (0, "4 passed, 0 failed", 2)


def test_modules_share_a_lab_where_they_say_the_same_of_it(tree: Tree) -> None:
    (tree.path / "test_twin.py").write_text(HEAD + dedent(GOOD.format(1)))
    (tree.path / "test_stranger.py").write_text(HEAD.replace("seconds=10", "seconds=11") + dedent(GOOD.format(1)))
    run = tree.run(GOOD.format(1), "test_stranger.py", "test_twin.py")
    assert (run.status, run.last, tree.labs) == (0, "3 passed, 0 failed", 2)


def test_a_line_a_case_is_said(tree: Tree) -> None:
    assert "ok      good[0] (0 s)" in tree.run(GOOD.format(1)).said


def test_a_run_without_cases_fails(tree: Tree) -> None:
    run = tree.run("")
    assert (run.status != 0, run.last) == (True, "0 passed, 1 failed")


def test_a_run_of_cases_that_are_not_there_fails(tree: Tree) -> None:
    run = tree.run(GOOD.format(2), "-k", "other")
    assert (run.status != 0, run.last) == (True, "0 passed, 1 failed")


def test_a_module_that_cannot_be_collected_fails(tree: Tree) -> None:
    run = tree.run("raise RuntimeError('this module is broken')")
    assert (run.status != 0, run.last) == (True, "0 passed, 1 failed")
    assert "this module is broken" in run.said


def test_a_second_try_counts_as_a_pass(tree: Tree) -> None:
    run = tree.run(GOOD.format(1) + ONCE.format(2))
    assert (run.status, run.last) == (0, "3 passed, 0 failed")
    assert run.before_last == "2 of them at the second try: once[0] once[1]"


def test_what_the_first_try_said_is_shown(tree: Tree) -> None:
    assert "assert not True" in tree.run(ONCE.format(1)).said


def test_a_second_try_is_in_a_fresh_lab(tree: Tree) -> None:
    tree.run(ONCE.format(1))
    assert tree.labs == 2


def test_a_case_that_fails_twice_is_a_failure(tree: Tree) -> None:
    run = tree.run(GOOD.format(1) + BAD)
    assert (run.status, run.last, tree.labs) == (1, "1 passed, 1 failed", 2)
    assert "at the second try" not in run.said
    assert "FAILED  bad, for good" in run.said


def test_no_more_cases_than_the_limit_are_tried_again(tree: Tree) -> None:
    run = tree.run(ONCE.format(5))
    assert (run.status, run.last) == (1, "3 passed, 2 failed")


def test_on_hardware_nothing_is_tried_again(tree: Tree) -> None:
    run = tree.run(GOOD.format(1) + ONCE.format(1), FAKE_LAB="native")
    assert (run.status, run.last, tree.labs) == (1, "1 passed, 1 failed", 1)


def test_a_failure_of_a_fixture_is_one_failure(tree: Tree) -> None:
    cases = """
    @pytest.fixture
    def broken():
        yield
        raise RuntimeError("it cannot be put away")

    def test_of_it(broken):
        assert False
    """
    run = tree.run(cases)
    assert (run.status, run.last) == (1, "0 passed, 1 failed")


def test_skips_are_counted_and_say_why(tree: Tree) -> None:
    cases = """
    def test_of_another_machine():
        pytest.skip("this is none")
    """
    run = tree.run(GOOD.format(1) + dedent(cases))
    assert (run.status, run.last) == (0, "1 passed, 0 failed, 1 skipped")
    assert "skipped of_another_machine: this is none" in run.said


def test_a_case_that_takes_too_long_fails(tree: Tree) -> None:
    cases = """
    @pytest.mark.timeout(1)
    def test_endless():
        signal.pause()
    """
    run = tree.run(GOOD.format(1) + dedent(cases), FAKE_LAB="native")
    assert (run.status, run.last) == (1, "1 passed, 1 failed")
    assert "Timeout >1.0s" in run.said


# Ends its lab before it ends itself.
DEADLY = """\
def test_deadly():
    if {}:
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)

"""


def test_a_lab_that_dies_fails_the_case_that_it_ran(tree: Tree) -> None:
    run = tree.run(GOOD.format(1) + DEADLY.format("True") + BAD.replace("1 == 2", "True").replace("bad", "after"))
    assert (run.status, run.last, tree.labs) == (1, "2 passed, 1 failed", 2)
    assert "the lab ended with -9 in this case" in run.said


def test_a_case_whose_lab_died_is_tried_again(tree: Tree) -> None:
    run = tree.run(DEADLY.format('first_time("deadly")') + GOOD.format(1))
    assert (run.status, run.last) == (0, "2 passed, 0 failed")
    assert run.before_last == "1 of them at the second try: deadly"


def test_a_lab_that_never_starts_fails_every_case(tree: Tree) -> None:
    (tree.path / "lab").write_text("#!/bin/sh\necho start >>labs; echo lab: broken; exit 125\n")
    run = tree.run(GOOD.format(2))
    assert (run.status, run.last) == (1, "0 passed, 2 failed")
    assert "lab: broken" in run.said


def test_a_lab_that_fails_after_its_cases_is_a_failure(tree: Tree) -> None:
    run = tree.run(GOOD.format(2), ENDS_WITH="125")
    assert (run.status, run.last) == (1, "2 passed, 1 failed")
    assert "it ended with 125 after its last case" in run.said


def test_artifacts_are_made_outside_and_only_those_that_are_named(tree: Tree) -> None:
    cases = """
    @artifact
    def word(directory):
        assert "MAYFLY_LAB" not in os.environ
        (directory / "word").write_text("made outside")
        return directory / "word"

    @artifact
    def unwanted(directory):
        raise OSError("nobody wants it")

    def test_reads_it(word):
        assert os.environ["MAYFLY_LAB"] == "software"
        assert word.read_text() == "made outside"
    """
    run = tree.run(cases)
    assert (run.status, run.last) == (0, "1 passed, 0 failed")


def test_an_artifact_is_told_what_is_tested_and_in_which_lab(tree: Tree) -> None:
    cases = """
    @artifact
    def told(directory, build, lab):
        (directory / "told").write_text(f"{build} {lab}")
        return directory / "told"

    def test_of_it(told):
        build, lab = map(pathlib.Path, told.read_text().split())
        assert build.is_absolute() and build.parts[-2:] == ("build", "other")
        assert lab == pathlib.Path.cwd() / "lab"
    """
    assert tree.run(cases, "--build", "build/other").last == "1 passed, 0 failed"


def test_what_is_cached_is_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_CACHE", str(tmp_path))
    fills: list[Path] = []

    def fill(place: Path) -> None:
        fills.append(place)
        assert list(place.iterdir()) == [], "an attempt that failed has left something"
        (place / "half").touch()
        if len(fills) == 1:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        cached("things", "key", fill)
    assert not (tmp_path / "things/key").exists()
    for _ in range(2):
        assert cached("things", "key", fill) == tmp_path / "things/key"
    assert (tmp_path / "things/key/half").exists()
    assert len(fills) == 2


def test_what_was_not_asked_for_longest_leaves_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAYFLY_CACHE", str(tmp_path))
    for age, name in enumerate(["asked-for-again", *(f"old-{number}" for number in range(MOST_ENTRIES - 1))]):
        os.utime(cached("things", name, lambda _: None), (age, age))
    cached("things", "asked-for-again", lambda _: None)
    cached("things", "new", lambda _: None)
    left = {each.name for each in (tmp_path / "things").iterdir()}
    assert left == {"new", "asked-for-again", *(f"old-{number}" for number in range(1, MOST_ENTRIES - 1))}


def test_an_artifact_that_cannot_be_made_is_a_failure(tree: Tree) -> None:
    cases = """
    @artifact
    def broken(directory):
        raise OSError("no kernel is to be had")

    def test_of_it(broken):
        pass
    """
    run = tree.run(cases)
    assert (run.status, run.last) == (1, "0 passed, 1 failed")
    assert "no kernel is to be had" in run.said


def test_the_build_that_is_tested_is_known_in_the_lab(tree: Tree) -> None:
    cases = """
    def test_of_it(pytestconfig):
        assert pytestconfig.getoption("--build") == "build/other"
    """
    assert tree.run(cases, "--build", "build/other").last == "1 passed, 0 failed"


def test_a_report_that_is_cut_off_is_a_failure(tree: Tree) -> None:
    cases = """
    def test_cut_off():
        os.write(int(os.environ["STDOUT"]), b'::lab:: {"report": {')
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    """
    # Beside pytest's own standard output, which is not the lab's while a case is being run.
    (tree.path / "lab").write_text(FAKE_LAB.replace('"$@"\n', 'STDOUT=3 "$@" 3>&1\n'))
    run = tree.run(cases, FAKE_LAB="native")
    assert (run.status, run.last) == (1, "0 passed, 1 failed")
    assert "the lab ended with -9 in this case" in run.said


def test_a_lab_ends_with_its_pytest(tree: Tree) -> None:
    (tree.path / "lab").write_text("#!/bin/sh\necho $$ >process.new; mv process.new process; read line <held\n")
    os.mkfifo(tree.path / "held")
    held = os.open(tree.path / "held", os.O_RDWR)
    with subprocess.Popen(tree.prepare(GOOD.format(1)), cwd=tree.path, stdout=subprocess.DEVNULL) as tests:
        while not (tree.path / "process").exists():
            assert not ended_within(tests, 0.01)
        lab = os.pidfd_open(int((tree.path / "process").read_text()))
        tests.kill()
    assert select.select([lab], [], [], 10)[0], "the lab is still there"
    os.close(lab)
    os.close(held)


def test_cases_without_the_mark_run_here(tree: Tree) -> None:
    (tree.path / "test_here.py").write_text("import os\ndef test_here():\n    assert 'MAYFLY_LAB' not in os.environ\n")
    run = tree.run(GOOD.format(1), "test_here.py")
    assert (run.status, run.last, tree.labs) == (0, "2 passed, 0 failed", 1)


def test_a_failure_of_a_case_here_is_counted_at_once(tree: Tree) -> None:
    (tree.path / "test_here.py").write_text("def test_here():\n    assert False\n")
    run = tree.run(GOOD.format(1), "test_here.py")
    assert (run.status, run.last) == (1, "1 passed, 1 failed")


def test_the_report_for_machines_has_each_case_once(tree: Tree) -> None:
    run = tree.run(GOOD.format(2) + ONCE.format(1) + BAD, "--junitxml=report.xml")
    assert run.last == "3 passed, 1 failed"
    suite = ElementTree.parse(tree.path / "report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "0")
    assert sorted(case.get("name", "") for case in suite) == ["test_bad", "test_good[0]", "test_good[1]", "test_once[0]"]


def test_templates_are_built_anew_where_the_cpu_is_another() -> None:
    def cpu(flags: str = "fpu sse hypervisor", mhz: str = "2299.998", model: str = "A") -> list[object]:
        one = f"model name\t: {model}\nstepping\t: 1\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\nvmx flags\t: a b\n"
        return described_host(f"processor\t: 0\n{one}\nprocessor\t: 1\n{one.replace(mhz, '17.0')}")

    assert cpu() == cpu(mhz="2300.004"), "measured anew when this host was started"
    assert cpu() != cpu(mhz="2600.000")
    assert cpu() != cpu(model="B")
    assert cpu() != cpu(flags="fpu hypervisor")
    assert cpu(flags="fpu") == cpu(flags="fpu", mhz="800.000"), "it varies with the load where it is no virtual CPU's"
