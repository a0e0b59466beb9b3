"""A tree with the scripts that a case tests and fakes of what they call: nothing is built, installed or started."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Run:
    status: int
    said: str


class Tree:
    def __init__(self, path: Path) -> None:
        self.path = path

    def copy(self, *scripts: str) -> None:
        """From the checkout."""
        for script in scripts:
            (self.path / script).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / script, self.path / script)

    def fake(self, script: str, text: str) -> None:
        """A script of the shell; those in bin/ come first in PATH."""
        path = self.path / script
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> Run:
        ended = subprocess.run(
            command,
            cwd=self.path,
            env={**os.environ, "PATH": f"{self.path}/bin:{os.environ['PATH']}", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(ended.stdout)  # shown where an assertion fails
        return Run(ended.returncode, ended.stdout)
