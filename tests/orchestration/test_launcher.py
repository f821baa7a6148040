import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from more4d_orchestration import launcher
from more4d_orchestration.launcher import Job, JobFailedError, LineSplitter, LocalLauncher

LAUNCHER = LocalLauncher(grace_seconds=1)


def _until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_lines_of_both_streams_arrive_in_order(tmp_path: Path) -> None:
    lines: list[str] = []
    LAUNCHER.launch(Job("s", "echo one; echo two >&2; printf three", tmp_path), lines.append)
    assert lines == ["one", "two", "three"]


def test_lines_arrive_while_the_job_still_runs(tmp_path: Path) -> None:
    def on_line(line: str) -> None:
        (tmp_path / line).touch()

    LAUNCHER.launch(Job("s", "echo go; while [ ! -e go ]; do sleep 0.05; done; echo done", tmp_path), on_line)
    assert (tmp_path / "done").exists()


def test_the_environment_and_folder_are_the_jobs_and_python_is_this_one(tmp_path: Path) -> None:
    lines: list[str] = []
    command = "echo $WHO; pwd; python -c 'import sys; print(sys.executable)'"
    LAUNCHER.launch(Job("s", command, tmp_path, {"WHO": "me"}), lines.append)
    assert lines[:2] == ["me", str(tmp_path)]
    assert Path(lines[2]).parent == Path(sys.executable).parent


def test_a_failure_carries_exit_code_and_the_end_of_the_output(tmp_path: Path) -> None:
    command = "for i in $(seq 100); do echo line $i; done; echo broken >&2; exit 3"
    with pytest.raises(JobFailedError, match="stage s: .* exit code 3") as caught:
        LAUNCHER.launch(Job("s", command, tmp_path), lambda line: None)
    assert caught.value.code == 3
    assert caught.value.tail.splitlines()[-2:] == ["line 100", "broken"]
    assert len(caught.value.tail.splitlines()) == 40


def test_a_killed_job_names_the_signal(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="killed by SIGKILL"):
        LAUNCHER.launch(Job("s", "kill -9 $$", tmp_path), lambda line: None)


def test_an_interruption_ends_the_whole_process_group(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.extend(int(pid) for pid in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LAUNCHER.launch(Job("s", "sleep 300 & echo $$ $!; wait", tmp_path), interrupt)
    assert len(pids) == 2
    assert _until(lambda: not any(_alive(pid) for pid in pids))


def test_a_job_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LAUNCHER.launch(Job("s", "trap '' TERM; echo $$; while :; do sleep 0.1; done", tmp_path), interrupt)
    assert _until(lambda: not _alive(pids[0]))


def test_what_a_job_leaves_running_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    lines: list[str] = []
    LAUNCHER.launch(Job("s", "sleep 300 & echo $!", tmp_path), lines.append)
    assert _until(lambda: not _alive(int(lines[0])))


def test_a_signal_to_the_waiting_process_ends_the_job(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\nfrom more4d_orchestration.launcher import Job, LocalLauncher\n"
        "LocalLauncher(grace_seconds=1).launch(Job('s', 'echo $$ > pid; sleep 300', Path.cwd()), print)\n"
    )
    waiting = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        assert _until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        os.kill(waiting.pid, signal.SIGINT)
        assert waiting.wait(20) != 0
    finally:
        waiting.kill()
    assert _until(lambda: not _alive(int((tmp_path / "pid").read_text())))


def test_a_signal_while_the_job_is_being_started_ends_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start_and_interrupt(job: Job) -> subprocess.Popen[bytes]:
        started.append(start(job))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    start = launcher._start
    monkeypatch.setattr(launcher, "_start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        LocalLauncher(grace_seconds=1).launch(Job("s", "sleep 300", tmp_path), print)
    assert not _alive(started[0].pid)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_progress_bars_are_logged_by_their_last_state_and_not_too_often() -> None:
    now = [0.0]
    splitter = LineSplitter(bar_seconds=10, clock=lambda: now[0])
    assert splitter.feed(b"start\n\r 1%|") == ["start"]
    assert splitter.feed(b"\r 2%|") == []
    now[0] = 11
    assert splitter.feed(b"\r 3%|") == [" 3%|"]
    assert splitter.feed(b"\r 4%|\r100%|\nend\r\n\nrest") == ["100%|", "end"]
    assert splitter.flush() == ["rest"]


def test_characters_split_between_reads_stay_whole() -> None:
    splitter = LineSplitter(bar_seconds=10)
    head, tail = "größe\n".encode()[:3], "größe\n".encode()[3:]
    assert splitter.feed(head) + splitter.feed(tail) == ["größe"]
