"""What well-known tables of videos call their columns."""

from typing import Any, Literal

from pydantic import model_validator

from more4d.settings import Section

Layout = Literal["webvid", "openvid", "panda70m"]
_COLUMNS: dict[str, dict[str, str]] = {
    "webvid": {
        "videoid": "videoid", "contentUrl": "contentUrl", "name": "name", "duration": "duration",
        "page_dir": "page_dir",
    },
    "openvid": {"videoid": "video", "contentUrl": "video", "name": "caption", "duration": "seconds"},
    "panda70m": {"videoid": "videoID", "contentUrl": "url", "name": "caption", "timestamps": "timestamp"},
}  # fmt: skip


class SourceColumns(Section):
    """What a table calls its columns: those of the layout that it is `like`, with changes; null for one it lacks.

    - webvid: videoid, contentUrl (a link), name (the caption), duration (PT00H00M14S), page_dir
    - openvid: video (a file's name, to be joined to the table's `base`), caption, seconds; scores are not read
    - panda70m: videoID, url, timestamp and caption (lists of equal length: a row names parts of one video)
    """

    like: Layout = "webvid"
    videoid: str | None = None
    contentUrl: str  # noqa: N815 - WebVid's own name
    name: str | None = None
    """The caption; null where a captioner gives it later."""
    duration: str | None = None
    page_dir: str | None = None
    licence: str | None = None
    attribution: str | None = None
    split: str | None = None
    begin: str | None = None
    """Where in its file a row's video begins and ends: seconds, or H:MM:SS.sss."""
    end: str | None = None
    timestamps: str | None = None
    """Lists of [begin, end], as Panda-70M writes them; the captions are then a list too."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_layout(cls, given: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        return {**_COLUMNS.get(str(given.get("like", "webvid")), {}), **given} if isinstance(given, dict) else given

    def wanted(self) -> dict[str, str]:
        """Our name of a column -> the table's."""
        return {key: name for key, name in self.model_dump(exclude={"like"}).items() if name is not None}
