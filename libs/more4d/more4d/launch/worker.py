"""`python -m more4d.launch.worker OUTCOME COMMAND...`: one process of a job, and a note of how it ended.

torchrun and srun take any exit code but 0 for a failure and kill the processes that still run, which may be saving. So a
command that stopped as asked leaves a note in the folder OUTCOME and ends with 0; a failed one leaves its exit code there
too, which torchrun and srun would lose.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from more4d.launch.job import STOPPED

NOT_FOUND = 127


def run(command: Sequence[str], outcome: Path) -> int:
    """Exit code of `command`, 128 + n when signal n ended it, 0 when it stopped as asked."""
    # The command hears signals itself and decides. A handler, unlike SIG_IGN, is not inherited: the command's own
    # helper processes can still be terminated.
    signal.signal(signal.SIGTERM, lambda *_: None)
    code = _run(command)
    if code == STOPPED:
        (outcome / "stopped").touch()
        return 0
    if code:
        _note_first(outcome / "failed", code)
    return code


def _run(command: Sequence[str]) -> int:
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        os.write(2, f"more4d.launch: cannot run {command[0]!r}: {error.strerror}\n".encode())
        return NOT_FOUND
    return code if code >= 0 else 128 - code


def _note_first(file: Path, code: int) -> None:
    """The first failure is the cause; what the others then end with is not."""
    try:
        with file.open("x") as note:
            note.write(f"{code}\n")
    except FileExistsError:
        pass


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:], Path(sys.argv[1])))
