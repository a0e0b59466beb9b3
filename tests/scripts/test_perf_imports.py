"""What the benchmarks take from the lab's harness is there: no suite runs them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

PERF = Path(__file__).parents[2] / "perf"


def scripts() -> list[Path]:
    return [each for each in sorted(PERF.iterdir()) if each.is_file() and each.read_bytes().startswith(b"#!/usr/bin/python3")]


@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)
def test_takes_what_the_harness_has(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness"):
            module = importlib.import_module(node.module or "")
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert missing == [], f"{script} takes them from {node.module}"
