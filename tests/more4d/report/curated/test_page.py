"""The report's folder, and its page in a real Chromium: no console error, no request that fails or leaves the machine."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from more4d.data.hashing import hash_file
from more4d.data.shards import EncodedSample, TrajSceneDataset, write_encoded
from more4d.report.curated.gallery import Job, choose, draw, jobs
from more4d.report.curated.journey import follow
from more4d.report.curated.page import Limits, chosen_rows, gather, write_report
from more4d.report.curated.reasons import reason_kinds
from more4d.report.curated.scores import read_limits
from more4d.report.curated.tables import TABLES, read_tables
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.more4d.report.curated.conftest import (
    FORMULA,
    HOSTILE,
    clip_row,
    make_tables,
    source_row,
    write_workspace,
)

Tables = dict[str, pd.DataFrame]
SOME = Limits(rendered=10, real=10, listed=10)


def report(root: Path, out: Path, limits: Limits = SOME) -> Path:
    folders = {stage: root / "datasets" / stage for stage in TABLES}
    facts = gather(read_tables(folders), read_limits(folders), folders["trajscene"], seed=0, limits=limits)
    out.mkdir(exist_ok=True)
    write_report(facts, map(draw, jobs(chosen_rows(facts), folders, facts.tables)), out, limits)
    return out


@pytest.fixture(scope="module")
def folder(some_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(some_workspace, tmp_path_factory.mktemp("report"))


@contextmanager
def loaded(browser: Browser, folder: Path, *, scripts: bool = True, width: int = 1200) -> Iterator[Page]:
    """The page with all its pictures fetched; at its end nothing may have failed, and nothing been asked elsewhere."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, java_script_enabled=scripts)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else faults.append(f"asked: {r.url}"))
    page.goto((folder / "index.html").as_uri())
    yield page
    page.close()
    assert faults == []


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    with loaded(browser, folder) as opened:
        yield opened


def test_the_page_says_what_became_of_every_row(page: Page) -> None:
    text = page.locator("body").inner_text()
    for words in (
        "seed 0", "6 source rows gave 5 videos, these 7 windows, and these 3 samples", "5 of 6 rows (83.3%), 1 rejected",
        "4 of 7 windows (57.1%), 3 rejected", "only 23% of the points are visible (below 30%)", "gone.mp4 does not exist",
        "not for commercial use", "Every row and every window has a verdict", "street-00004",
    ):  # fmt: skip
        assert words in text
    assert page.locator("#scores svg[role=img][aria-label]").count() >= 10
    assert page.locator("#funnel h3", has_text="Distractors").count() == 1


def test_every_real_clip_is_in_the_gallery_with_what_there_is_of_it(page: Page) -> None:
    panels = {
        sheet.locator("h3").inner_text(): sheet.locator("figcaption").all_inner_texts()
        for sheet in page.locator(".sheet").all()
    }
    frames = ["first frame", "middle frame", "last frame"]
    assert panels["street-00000"] == [
        *frames, "tracks", "depth", "points, own camera, last frame", "mask, own camera, last frame: 83% covered",
        "points, camera circle left, last frame", "mask, camera circle left, last frame: 83% covered",
    ]  # fmt: skip
    assert panels["street-00004"] == frames and panels["park-00000"] == frames
    assert panels["park-00004"] == [*frames, "depth"], "it has depth, and no tracks: stage tracks refused it"
    assert panels["gone"] == []
    assert {"r0-00000", "r1-00000", "r2-00000"} <= set(panels)


def test_every_picture_loads_and_says_what_it_is(page: Page) -> None:
    page.evaluate("document.querySelectorAll('img').forEach((image) => image.loading = 'eager')")
    pictures = page.locator(".sheet img")
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") >= 300
    assert all(picture.get_attribute("alt") for picture in pictures.all()) and pictures.count() > 20


def test_the_depth_has_a_scale_in_metres(page: Page) -> None:
    depth = page.locator(".sheet", has_text="street-00000").locator("figure", has_text="depth").first
    assert depth.locator(".scale span").all_inner_texts() == ["4 m", "4 m", "4 m"]


def test_verdicts_of_every_stage_come_with_values_and_limits(page: Page) -> None:
    rows = page.locator(".sheet", has=page.locator("h3", has_text="street-00004")).locator(".values tbody tr")
    assert rows.count() == 1 and "motion 0.0012 (at least 0.01)" in rows.first.inner_text()
    assert rows.first.locator(".beyond").all_inner_texts() == ["motion 0.0012"]
    accepted = page.locator(".sheet", has=page.locator("h3", has_text="street-00000"))
    accepted.locator("summary").click()
    assert accepted.locator(".values tbody th").all_inner_texts() == list(TABLES)[1:]


def test_the_gallery_can_be_filtered(page: Page) -> None:
    form, shown = page.locator("#gallery form"), page.locator(".sheet:visible")
    everything = shown.count()
    form.locator("[name=verdict]").select_option("accepted")
    assert shown.count() == 3 and form.locator("output").inner_text() == f"3 of {everything} shown"
    form.locator("[name=origin]").select_option("real")
    assert shown.locator("h3").all_inner_texts() == ["street-00000"]
    form.locator("[name=verdict]").select_option("")
    form.locator("[name=stage]").select_option("tracks")
    assert shown.locator("h3").all_inner_texts() == ["park-00004"]
    form.locator("[name=stage]").select_option("")
    form.locator("[name=words]").fill("NAME OF STREET")
    assert shown.locator("h3").all_inner_texts() == ["street-00004"], "it has no caption of its own yet"
    form.locator("[name=words]").fill("Street-")
    assert shown.count() == 2


def test_a_reason_leads_to_the_sheet_of_its_example_even_where_a_filter_hides_it(page: Page) -> None:
    page.locator("#gallery form [name=verdict]").select_option("accepted")
    page.locator("#reasons a", has_text="only 23%").click()
    target = page.locator(".sheet:target")
    target.wait_for(state="visible")
    assert target.locator("h3").inner_text() == "park-00004"


def test_the_list_of_rejected_rows_can_be_searched(page: Page) -> None:
    rows = page.locator("#rejected tbody tr:visible")
    assert rows.count() == 5
    page.locator("#rejected form [name=words]").fill("camera moves")
    assert rows.count() == 1
    page.locator("#rejected form [name=stage]").select_option("source")
    assert rows.count() == 0


def test_without_scripts_everything_is_shown(browser: Browser, folder: Path) -> None:
    with loaded(browser, folder, scripts=False) as opened:
        assert opened.locator(".sheet:visible").count() == 8 and opened.locator("form:visible").count() == 0


def test_a_narrow_window_does_not_break_the_page(browser: Browser, folder: Path) -> None:
    with loaded(browser, folder, width=360) as opened:
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_words_are_shown_as_words(browser: Browser, tmp_path: Path) -> None:
    videos = [source_row("a", name=HOSTILE, attribution=HOSTILE, licence=HOSTILE, source_table=HOSTILE)]
    videos += [source_row(HOSTILE, HOSTILE, distractor=HOSTILE), source_row("c", FORMULA, name=FORMULA)]
    tables = make_tables(videos, [clip_row(videos[0]), clip_row(videos[0], 4, HOSTILE)], captions={"caption": HOSTILE})
    out = report(write_workspace(tmp_path, tables), tmp_path / "out")
    with loaded(browser, out) as opened:
        assert opened.evaluate("window.hacked ?? null") is None
        text = opened.locator("body").inner_text()
        assert text.count(HOSTILE) >= 8 and "49" not in opened.locator("#gallery h3").all_inner_texts()
        assert opened.locator("#gallery img[src=x], #rejected img").count() == 0
    rows = list(csv.DictReader((out / "rejected.csv").open(newline="")))
    assert [row["reason"] for row in rows] == [HOSTILE, "'" + FORMULA, HOSTILE]


def test_the_same_tables_give_the_same_bytes(some_workspace: Path, folder: Path, tmp_path: Path) -> None:
    again = report(some_workspace, tmp_path / "again")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) and len(files) > 20
    assert [hash_file(folder / file) for file in files] == [hash_file(again / file) for file in files]


def test_what_is_left_out_is_counted(some_workspace: Path, tmp_path: Path) -> None:
    out = report(some_workspace, tmp_path / "few", Limits(rendered=0, real=1, listed=2))
    html = (out / "index.html").read_text()
    assert "Listed here are 2, real ones first; 3 are in the file alone." in html
    assert "2 more real videos are not shown" in html
    assert len((out / "rejected.csv").read_text().splitlines()) == 6


def test_the_draw_of_rendered_samples_follows_the_seed_and_keeps_every_real_clip(some_tables: Tables) -> None:
    journey = follow(some_tables)
    kinds = reason_kinds(journey)
    drawn = [choose(journey, kinds, rendered=1, real=10, seed=seed) for seed in (0, 0, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len({choice.items for choice in drawn}) == 2
    for choice in drawn:
        shown = journey.iloc[list(choice.items)]
        assert set(journey[journey["origin"] == "real"].index) <= set(shown.index)
        assert sum((shown["origin"] == "rendered") & (shown["verdict"] == "accepted")) == 1
        assert {kind.example for kind in kinds} <= set(choice.items) and choice.real_left_out == 0


def test_a_damaged_video_is_said_not_raised(some_tables: Tables, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "w", some_tables)
    (root / "datasets/source/clips/street.mp4").write_bytes(b"no video")
    assert "The video cannot be read: " in (report(root, tmp_path / "out") / "index.html").read_text()


def test_a_damaged_sample_or_label_is_said_on_its_sheet_and_stops_no_other(some_tables: Tables, tmp_path: Path) -> None:
    datasets = write_workspace(tmp_path / "w", some_tables) / "datasets"
    (datasets / "depth/park-00004.safetensors").write_bytes(b"no label")
    tar = datasets / "trajscene/train-000000.tar"
    tar.write_bytes(b"x" + tar.read_bytes()[1:])
    out = report(tmp_path / "w", tmp_path / "out")
    html = (out / "index.html").read_text()
    assert "The sample cannot be read: trajscene/train-000000.tar, bytes 0 to" in html
    assert "The depth cannot be read: park-00004.safetensors cannot be read as safetensors" in html
    assert str(tmp_path) not in html
    kinds = [path.stem.rpartition("-")[2] for path in (out / "images").iterdir()]
    assert kinds.count("depth") == 2, "of the two samples that are whole"


def test_a_damaged_part_of_a_sample_leaves_what_comes_before_it(some_workspace: Path, tmp_path: Path) -> None:
    files = TrajSceneDataset(some_workspace / "datasets/trajscene").read_files(0)
    name = TrajSceneDataset(some_workspace / "datasets/trajscene").ids[0]
    write_encoded([EncodedSample(name, files | {"render.mp4": b"x"})], tmp_path, split="train", shard_bytes=1)
    sheet = draw(Job(None, samples=tmp_path))
    assert [panel.kind for panel in sheet.panels] == ["frame", "frame", "frame", "tracks", "depth"]
    assert sheet.note.startswith(f"The sample cannot be read further: sample {name}: its render.mp4 is damaged")


def test_jobs_wait_with_reading_until_they_are_drawn(some_tables: Tables, tmp_path: Path) -> None:
    root = write_workspace(tmp_path / "w", some_tables)
    folders = {stage: root / "datasets" / stage for stage in TABLES}
    facts = gather(read_tables(folders), read_limits(folders), folders["trajscene"], seed=0, limits=SOME)
    for tar in folders["trajscene"].glob("*.tar"):
        tar.unlink()
    waiting = list(jobs(chosen_rows(facts), folders, facts.tables))
    assert sorted(job.position for job in waiting if job.samples) == [0, 1, 2]
    assert sum("is gone; the manifest names it" in draw(job).note for job in waiting) == 3


def test_pictures_are_as_wide_as_a_judge_needs(folder: Path) -> None:
    assert {Image.open(path).width for path in (folder / "images").iterdir()} == {360}
