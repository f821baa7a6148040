import json
import subprocess
import sys
from pathlib import Path

import pytest
from more4d import cli
from more4d.models.bundle import Models
from more4d.models.conversion import to_published
from more4d.weights.registry import read_registry
from more4d.weights.sources import parts_of
from safetensors.torch import load_file, save_file

from tests.more4d.weights.conftest import DATA, Hub

SHIPPED = Path(__file__).parents[3] / "models" / "weights.toml"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the commands fetch to."""
    return tmp_path / "store"


def _run(command: str, registry: Path, store: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["weights", command, *arguments, "--registry", str(registry), "--store", str(store)])
    return int(stop.value.code or 0)


def test_list_is_a_table_and_json(registry: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("list", registry, store) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "size", "licence", "commercial", "present", "needed", "by"]
    assert [row.split()[0] for row in rows] == ["toy", "forbidden"] and "NO" in rows[1]
    assert _run("list", registry, store, "--json", "--preset", "wan-14b") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(f["name"], f["present"], f["bytes"]) for f in facts] == [("toy", "no", None), ("forbidden", "no", None)]


@pytest.mark.parametrize("command", ["list", "fetch", "verify", "convert"])
def test_commercial_safe_refuses_by_name_and_reason_and_names_the_replacement(
    command: str, registry: Path, store: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"list": [], "fetch": ["toy", "forbidden"], "verify": ["toy", "forbidden"]}
    extra["convert"] = ["forbidden", "--out", str(tmp_path / "out")]
    assert _run(command, registry, store, *extra[command], "--commercial-safe") == 1
    (refusal,) = capsys.readouterr().err.splitlines()
    assert refusal == ("more4d: refused: forbidden (CC BY-NC 4.0): non-commercial use alone; use toy (MIT) instead")
    assert hub.asked == [] and not (tmp_path / "out").exists()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what the command fetches; nothing is downloaded."""
    asked: list[str] = []
    monkeypatch.setattr("more4d.weights.fetch.fetch_weight", lambda w, store, say: asked.append(w.name) or store)
    return asked


@pytest.mark.parametrize("training", [False, True])
def test_a_presets_fetch_is_what_its_checkpoint_is_assembled_from(
    training: bool, store: Path, fetched: list[str]
) -> None:
    extra = ["--training"] if training else []
    assert _run("fetch", SHIPPED, store, "--preset", "wan-14b", "--no-dvc", *extra) == 0
    parts = parts_of(read_registry(SHIPPED), "wan-14b", training=training)
    assert sorted(fetched) == sorted(w.name for w in parts.values())
    assert ("wan-fun-control-14b" in fetched) is training and "unidepth-v2-vitl14" not in fetched


def test_a_presets_refusal_ends_with_the_command_that_fetches_the_rest(
    store: Path, fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("fetch", SHIPPED, store, "--preset", "wan-14b", "--commercial-safe") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("more4d: refused: moge4d-strag") and fetched == []
    command = line.split("; the rest: `more4d weights fetch ")[1].rstrip("`").split()
    assert _run("fetch", SHIPPED, store, "--no-dvc", *command) == 0
    assert "wan-fun-inp-14b" in fetched and "moge4d-strag" not in fetched


def test_fetch_and_verify_say_what_is_here(
    registry: Path, store: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registry.parent)
    hub.files["/someone/toy/resolve/main/deep/toy.bin"] = DATA
    assert _run("verify", registry, store) == 0
    assert "no weights are in" in capsys.readouterr().out
    assert _run("fetch", registry, store, "toy", "--commercial-safe") == 0
    told = capsys.readouterr().out
    assert f"toy/deep/toy.bin: {len(DATA)} bytes" in told and "is no DVC workspace" in told
    assert _run("verify", registry, store, "toy") == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("WRONG toy") and captured.err == "more4d: toy did not verify\n"


def test_a_failed_fetch_is_one_line_and_exit_code_1(
    registry: Path, store: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("fetch", registry, store, "toy") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("more4d: toy/deep/toy.bin: ") and "404" in line


def test_convert_writes_our_names(
    registry: Path, store: Path, models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {k: v.contiguous().clone() for k, v in models.vism.state_dict().items()}
    (store / "forbidden").mkdir(parents=True)
    save_file(to_published("wan_dit", ours), store / "forbidden" / "model.safetensors")
    assert _run("convert", registry, store, "forbidden", "--out", str(tmp_path / "out"), "--dtype", "bfloat16") == 0
    made = load_file(tmp_path / "out" / "forbidden.safetensors")
    assert made.keys() == ours.keys()
    assert all((made[k] == ours[k].bfloat16()).all() for k in ours)
    assert _run("convert", registry, store, "forbidden", "--out", str(tmp_path / "out")) == 2
    assert "exists; remove it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "code", "reason"),
    [
        ("fetch", [], 2, "name weights, or give --preset"),
        ("fetch", ["toy", "--training"], 2, "--training goes with --preset"),
        ("fetch", ["none"], 2, "no weight is named none"),
        ("fetch", ["--preset", "huge"], 2, "--preset"),
        ("convert", ["toy", "--out", "out"], 2, "nothing to convert"),
        ("convert", ["forbidden", "--out", "out"], 1, "run `more4d weights fetch forbidden`"),
        ("convert", ["forbidden", "--out", "out", "--dtype", "int4"], 2, "--dtype int4 is none of"),
    ],
)
def test_mistakes_are_one_line(
    command: str, arguments: list[str], code: int, reason: str, registry: Path, store: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(registry.parent)
    assert _run(command, registry, store, *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_listing_starts_without_torch() -> None:
    code = "import sys; from more4d.weights import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
