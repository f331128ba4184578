"""What a command does whose output nobody takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence


def check_unwritable_output(program: str, command: Sequence[str], known: Mapping[str, str]) -> None:
    """A full disk is one line and exit code 1; a reader that has gone is no line, and the code of SIGPIPE."""
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=known, check=False)
    assert run.stderr == f"{program}: the output cannot be written: No space left on device\n", run
    assert run.returncode == 1, run
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=known, check=False)
    os.close(write)
    assert (run.stderr, run.returncode) == ("", 141), run
