"""Claims about the stages captions and selection when a model answers."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from more4d.data.tables import TooManyRejectsError, read_table, verdict, write_table
from more4d.data.video import write_video
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.registry import get_stage
from pydantic import ValidationError

VIDEO = {"frames": 5, "height": 32, "width": 48, "fps": 8}
CAPTIONS = {"captioner": "vlm", "min_words": 3, "max_characters": 200, "max_rejected_share": 1}
SELECTION = {"judge": "llm", "max_rejected_share": 1}
KEY = "sk-very-secret-0123456789"


def _run(root: Path, name: str, params: dict[str, Any]) -> StageResult:
    stage = get_stage(name)
    video, section = VideoSpec.model_validate(VIDEO), stage.section.model_validate(params)
    return run_stage(stage, params=section, video=video, seed=3, workers=1, root=root)


def _write_clips(root: Path, count: int) -> None:
    folder = root / "datasets" / "clips"
    folder.mkdir(parents=True)
    for n in range(count):
        write_video(folder / f"{n}.mp4", np.full((17, 32, 48, 3), 10 * n, np.uint8), 8)
    rows = [{"clip_id": f"c{n}", "path": f"{n}.mp4", "name": f"own words of {n}"} | verdict([]) for n in range(count)]
    write_table(folder / "clips.parquet", pd.DataFrame(rows))


def _write_captions(root: Path, count: int) -> None:
    (root / "datasets" / "captions").mkdir(parents=True)
    rows = [{"clip_id": f"c{n}", "caption": f"{n} dogs run"} | verdict([]) for n in range(count)]
    write_table(root / "datasets" / "captions" / "captions.parquet", pd.DataFrame(rows))


def _rows(root: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in read_table(root / "datasets" / name / f"{name}.parquet").to_dict("records")}


def _server(chat: Any, **changes: Any) -> dict[str, Any]:
    given = {"base_url": chat.url, "model": "m", "timeout_s": 5, "retries": 0, "concurrency": 2, "attempts": 2}
    return given | {"prices": {"prompt": 2, "completion": 10}} | changes


def _caption(say: Any) -> Any:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        urls = [part["image_url"]["url"] for part in body["messages"][1]["content"] if "image_url" in part]
        say(json.dumps({"caption": f"  A dog &amp; a cat\nrun over {len(urls)} meadows. "}))(handler, body)

    return answer


def test_a_models_captions_are_cleaned_and_accounted_for(chat: Any, say: Any, tmp_path: Path) -> None:
    _write_clips(tmp_path, 3)
    chat.otherwise = _caption(say)
    metrics = _run(tmp_path, "captions", CAPTIONS | {"server": _server(chat)}).metrics
    row = _rows(tmp_path, "captions")["c1"]
    assert row["caption"] == "A dog & a cat run over 3 meadows."
    made = {key: row[key] for key in ("captioner", "captioner_version", "model", "attempts", "undecided", "verdict")}
    assert made == {
        "captioner": "vlm:m", "captioner_version": "caption-1", "model": "m", "attempts": 1, "undecided": False,
        "verdict": "accepted",
    }  # fmt: skip
    assert (metrics["prompt_tokens"], metrics["completion_tokens"], metrics["cost"]) == (300, 30, 0.0009)


@pytest.mark.parametrize(("undecided", "kept"), [("reject", False), ("keep", True)])
def test_a_clip_without_a_usable_caption_is_rejected_or_keeps_its_tables_under_that_name(
    chat: Any, say: Any, tmp_path: Path, undecided: str, kept: bool
) -> None:
    _write_clips(tmp_path, 2)
    chat.script, chat.otherwise = [say(""), say("no JSON")], _caption(say)
    params = CAPTIONS | {"server": _server(chat, concurrency=1), "undecided": undecided}
    assert _run(tmp_path, "captions", params).metrics["undecided"] == 1
    row = _rows(tmp_path, "captions")["c0"]
    assert (row["undecided"], row["attempts"], row["prompt_tokens"]) == (True, 2, 200)
    if kept:
        assert (row["verdict"], row["caption"], row["captioner"]) == ("accepted", "own words of 0", "table")
    else:
        assert row["verdict"] == "rejected"
        assert row["reason"].startswith("undecided: no usable answer in 2 attempts, the last: answer: Invalid JSON")


def test_a_server_for_plain_text_captions_as_it_likes(chat: Any, say: Any, tmp_path: Path) -> None:
    _write_clips(tmp_path, 1)
    chat.otherwise = say("A dog runs {fast} over a meadow")
    _run(tmp_path, "captions", CAPTIONS | {"server": _server(chat, answers="text")})
    assert _rows(tmp_path, "captions")["c0"]["caption"] == "A dog runs {fast} over a meadow"
    assert "JSON" not in json.dumps(chat.asked[0])


def test_both_criteria_are_asked_for_and_recorded_with_reasons(chat: Any, say: Any, tmp_path: Path) -> None:
    _write_captions(tmp_path, 1)
    chat.script = [say('{"reason": "dogs are countable", "flag": true}'), say('{"reason": "asleep", "flag": false}')]
    with pytest.raises(TooManyRejectsError, match="1 x self_motion no: asleep"):
        _run(tmp_path, "selection", SELECTION | {"server": _server(chat, concurrency=1)})
    systems = [body["messages"][0]["content"] for body in chat.asked]
    assert "clearly be counted" in systems[0]
    assert "move by itself" in systems[1]
    assert json.loads(chat.asked[0]["messages"][1]["content"]) == {"caption": "0 dogs run"}


@pytest.mark.parametrize(("undecided", "accepted"), [("reject", "rejected"), ("keep", "accepted")])
def test_undecided_is_a_verdict_of_its_own_and_what_becomes_of_it_is_a_parameter(
    chat: Any, say: Any, tmp_path: Path, undecided: str, accepted: str
) -> None:
    _write_captions(tmp_path, 2)
    chat.script = [say('{"reason": "a", "flag": "yes"}'), say(None, refusal="no")]
    server = _server(chat, concurrency=1)
    metrics = _run(tmp_path, "selection", SELECTION | {"server": server, "undecided": undecided}).metrics
    row = _rows(tmp_path, "selection")["c0"]
    assert (row["countable"], row["self_motion"], row["verdict"]) == ("undecided", "yes", accepted)
    assert "no usable answer in 2 attempts, the last: refused: no" in row["countable_reason"]
    assert (metrics["undecided"], metrics["countable_share"]) == (1, 0.5)
    assert (row["attempts"], row["prompt_tokens"], row["judge"]) == (3, 300, "llm:m")
    assert row["judge_version"] == "countable-1+self_motion-1"


def test_keeping_the_undecided_keeps_none_that_a_criterion_refuses(chat: Any, say: Any, tmp_path: Path) -> None:
    _write_captions(tmp_path, 2)
    chat.script = [say(""), say(""), say('{"reason": "asleep", "flag": false}')]
    params = SELECTION | {"server": _server(chat, concurrency=1), "undecided": "keep"}
    _run(tmp_path, "selection", params)
    row = _rows(tmp_path, "selection")["c0"]
    assert (row["countable"], row["verdict"], row["reason"]) == ("undecided", "rejected", "self_motion no: asleep")


def test_another_wording_is_asked_with_and_named_by_its_hash(chat: Any, tmp_path: Path) -> None:
    _write_captions(tmp_path, 1)
    (tmp_path / "mine.txt").write_text("Is there a dog? {result: <flag>}")
    _run(tmp_path, "selection", SELECTION | {"server": _server(chat), "prompt_files": {"countable": "mine.txt"}})
    assert any(body["messages"][0]["content"].startswith("Is there a dog? {result: <flag>}\n\n") for body in chat.asked)
    version = _rows(tmp_path, "selection")["c0"]["judge_version"]
    assert re.fullmatch(r"countable-file-[0-9a-f]{12}\+self_motion-1", version)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("captions", CAPTIONS, "give captions.server"),
        ("captions", CAPTIONS | {"captioner": "gpt"}, "'table' or 'vlm'"),
        ("selection", SELECTION, "give selection.server"),
        (
            "selection",
            {"judge": "rules", "max_rejected_share": 1, "prompt_files": {"nice": "a"}},
            "criteria are countable",
        ),
        ("selection", SELECTION | {"server": {"base_url": "http://a/v1", "model": "m", "retry": 3}}, "retry"),
    ],
)
def test_parameters_that_do_not_fit_together_are_refused(name: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        get_stage(name).section.model_validate(params)


def _start(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "more4d.stages", "selection", "--root", str(root)]
    return subprocess.Popen(command, env=os.environ | {"MY_KEY": KEY, "OPENAI_LOG": "debug"}, stderr=subprocess.PIPE)


def test_killed_in_mid_run_and_started_again_it_asks_nothing_twice(chat: Any, say: Any, tmp_path: Path) -> None:
    """The first run is answered 23 times, then left hanging; the second must ask for the other 17 alone."""
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    params = {"judge": "llm", "server": _server(chat, concurrency=4, api_key_env="MY_KEY"), "max_rejected_share": 1}
    for root in (killed, alone):
        _write_captions(root, 20)
        (root / "params.yaml").write_text(yaml.safe_dump({"video": VIDEO, "seed": 0, "selection": params}))
    answered: Counter[str] = Counter()
    hang = threading.Event()

    def answer(handler: Any, body: dict[str, Any]) -> None:
        with chat.lock:
            stuck = sum(answered.values()) >= 23 and not hang.is_set()
            if not stuck:
                answered[json.dumps(body["messages"])] += 1
        if stuck:
            hang.wait(20)
            return
        flag = "false" if "7 dogs" in body["messages"][1]["content"] else "true"
        say(f'{{"reason": "r {KEY}", "flag": {flag}}}')(handler, body)

    chat.otherwise = answer
    process = _start(killed)
    _wait_for(killed / ".cache" / "answers", 23)
    process.send_signal(signal.SIGKILL)
    logged = process.communicate()[1]
    assert not (killed / "datasets" / "selection").exists()
    hang.set()
    again = _start(killed)
    logged += again.communicate()[1]
    assert again.returncode == 0, logged.decode()
    assert len(answered) == 40
    assert set(answered.values()) == {1}
    _same_as_a_run_left_alone(killed, alone)
    assert _rows(killed, "selection")["c3"]["countable_reason"] == "r ***"
    _nowhere(KEY, killed, logged)


def _wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(list(folder.rglob("*.json"))) < count:
        assert time.monotonic() < deadline, "the stage does not get on"
        time.sleep(0.02)


def _same_as_a_run_left_alone(killed: Path, alone: Path) -> None:
    process = _start(alone)
    logged = process.communicate()[1]
    assert process.returncode == 0, logged.decode()
    for file in ("datasets/selection/selection.parquet", "results/metrics/selection.json"):
        assert (killed / file).read_bytes() == (alone / file).read_bytes()


def _nowhere(key: str, root: Path, logged: bytes) -> None:
    assert key.encode() not in logged
    assert not [file for file in root.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]
