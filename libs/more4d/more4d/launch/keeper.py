"""`python -m more4d.launch.keeper FOLDER LOCK`: runs a local job to its end and writes down how it ended.

It writes the receipt too, and holds the submission's lock (the descriptor LOCK) until then: whoever submits may be
killed at any moment, and the same key still starts one job.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from more4d.launch.job import STOPPED, Job, Receipt
from more4d.launch.receipts import write_receipt, write_whole


def keep(folder: Path, lock: int) -> None:
    """Run the job described in `folder`/job.json; its exit code is in `folder`/exit afterwards."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    job = Job.model_validate_json((folder / "job.json").read_text())
    write_receipt(_receipt(folder, job))
    os.close(lock)
    outcome = folder / "attempt-0"
    # `python` in the command is the interpreter that submitted, as it is the site's on a cluster.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, **job.variables()}
    code = subprocess.run(_node(job, outcome), cwd=job.cwd, env=environment, check=False).returncode
    write_whole(folder / "exit", f"{_settle(code, outcome)}\n")


def _receipt(folder: Path, job: Job) -> Receipt:
    me = psutil.Process()
    return Receipt(
        launcher="local",
        key=folder.name,
        job_id=str(me.pid),
        folder=folder,
        submitted=time.time(),
        digest=job.digest(),
        started=me.create_time(),
    )


def _node(job: Job, outcome: Path) -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = [f"--processes={job.processes}", "--address=127.0.0.1", f"--port={port}", f"--outcome={outcome}"]
    return [sys.executable, "-m", "more4d.launch.node", *place, "--", *job.command]


def _settle(code: int, outcome: Path) -> int:
    """The command's own exit code, which torchrun does not pass on."""
    if code == 0:
        return STOPPED if (outcome / "stopped").exists() else 0
    noted = outcome / "failed"
    return int(noted.read_text()) if noted.exists() else (code if code > 0 else 128 - code)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
