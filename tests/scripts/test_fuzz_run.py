"""tests/fuzz/run: what it counts and keeps, by targets that are scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_tree import Tree

# Says what libFuzzer says at an end; where it merges, it copies what it is given.
TARGET = """
case " $* " in
  *' -merge=1 '*)
    for word in "$@"; do case $word in -*) ;; *) if [ -z "$to" ]; then to=$word; else cp "$word"/* "$to" 2>/dev/null; fi ;; esac; done
    exit 0 ;;
esac
echo "$@" >>arguments
echo "#7 DONE   cov: 30 ft: 40 corp: 1/1b exec/s: 7 rss: 1Mb"
echo "stat::number_of_executed_units: 7"
"""


@pytest.fixture
def targets(tree: Tree) -> Tree:
    """Two targets, one of which has inputs that people wrote, a dictionary and a length."""
    tree.copy("tests/fuzz/run")
    for name in ("one_fuzz", "two_fuzz"):
        tree.fake(f"build/asan/tests/fuzz/{name}", TARGET)
        (tree.path / f"tests/fuzz/{name}.cpp").touch()
    (tree.path / "tests/fuzz/one_fuzz.corpus").mkdir()
    (tree.path / "tests/fuzz/one_fuzz.corpus/written").write_text("input")
    (tree.path / "tests/fuzz/one_fuzz.dict").touch()
    (tree.path / "tests/fuzz/one_fuzz.options").write_text("[libfuzzer]\nmax_len = 77\n")
    return tree


def kept(tree: Tree) -> Path:
    return tree.path / "cache/fuzz"


def run(tree: Tree, *words: str, **environment: str) -> tuple[int, list[str]]:
    """Its status and last two lines."""
    ended = tree.run("tests/fuzz/run", *words, MAYFLY_CACHE=str(tree.path / "cache"), **environment)
    return ended.status, ended.said.splitlines()[-2:]


def test_targets_that_find_nothing_pass(targets: Tree) -> None:
    assert run(targets) == (0, ["executions=14 targets=2 crashes=0 edges=60", "2 passed, 0 failed"])


def test_a_target_that_ends_with_an_error_is_a_crash_and_counts(targets: Tree) -> None:
    targets.fake("build/asan/tests/fuzz/two_fuzz", f"{TARGET}\nexit 77")
    assert run(targets) == (1, ["executions=14 targets=2 crashes=1 edges=60", "1 passed, 1 failed"])


def test_a_target_that_is_not_built_is_a_failure(targets: Tree) -> None:
    (targets.path / "build/asan/tests/fuzz/two_fuzz").unlink()
    assert run(targets) == (1, ["executions=7 targets=1 crashes=1 edges=30", "1 passed, 1 failed"])


def test_inputs_that_cannot_be_unpacked_are_a_failure(targets: Tree) -> None:
    (targets.path / "tests/fuzz/two_fuzz.corpus.tar.zst").write_text("no archive")
    assert run(targets) == (1, ["executions=7 targets=1 crashes=1 edges=30", "1 passed, 1 failed"])


def test_a_target_is_given_its_time_its_dictionary_and_its_length(targets: Tree) -> None:
    assert run(targets, "one", FUZZ_SECONDS="3")[0] == 0
    words = (targets.path / "arguments").read_text().split()
    assert {"-max_total_time=3", "-dict=tests/fuzz/one_fuzz.dict", "-max_len=77"} <= set(words)


def test_hours_are_shared_by_the_targets(targets: Tree) -> None:
    assert run(targets, "--hours", "1", "--jobs", "1")[0] == 0
    assert "-max_total_time=1800" in (targets.path / "arguments").read_text().split()


def test_nothing_is_kept_unless_that_is_asked_for(targets: Tree) -> None:
    assert run(targets)[0] == 0
    assert not kept(targets).exists()


def test_inputs_and_executions_are_kept(targets: Tree) -> None:
    for _ in range(2):
        assert run(targets, "--seconds", "1", "one")[0] == 0
    assert (kept(targets) / "one_fuzz/written").read_text() == "input"
    status, said = run(targets, "--sum")
    assert (status, said[0].split(), said[1]) == (
        0, ["one_fuzz", "14", "30"], "executions=14 targets=1 crashes=0 edges=30")


def test_the_cache_is_where_that_of_all_others_is(targets: Tree) -> None:
    caches = targets.path / "caches"
    for environment, kept_in in (
        ({"MAYFLY_CACHE": "", "XDG_CACHE_HOME": str(caches)}, caches / "mayfly/fuzz"),
        ({"MAYFLY_CACHE": "", "XDG_CACHE_HOME": "", "HOME": str(targets.path)}, targets.path / ".cache/mayfly/fuzz"),
    ):
        assert targets.run("tests/fuzz/run", "--seconds", "1", "one", **environment).status == 0
        assert (kept_in / "one_fuzz/written").read_text() == "input"


@pytest.mark.parametrize("words", [["--bogus"], ["no_such_target"], ["--seconds"], ["--hours", "many"]])
def test_arguments_that_it_does_not_know_end_it(targets: Tree, words: list[str]) -> None:
    assert run(targets, *words)[0] == 2
    assert not (targets.path / "arguments").exists()
