"""Reasons by kind: what differs in its numbers, names and addresses alone is counted together."""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd

from more4d.data.tables import ACCEPTED
from more4d.report.curated.tables import column, rows_where, text_of, values_of

KINDS_SHOWN = 30
"""Of a stage, and above which its free text is cut at the first colon."""
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s,;]+")
_NUMBER = re.compile(r"(?<!\w)[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf|nan)\b")
_WORD = re.compile(r"[\w-]+(?:\.[A-Za-z]\w{1,4}\b)?")
_SHORTEST_NAME = 4
"""A video that is called "a" does not make every "a" a name."""
_OTHERS = "other reasons"


@dataclass(frozen=True)
class Kind:
    """A kind of reasons: how many items have it, and one of them: its position in the journey and its own words."""

    stage: str
    text: str
    count: int
    example: int
    example_reason: str


def fold(reason: str, names: AbstractSet[str] = frozenset()) -> str:
    """What a reason says without its numbers, addresses and those of its words that are `names`: "…" and "<name>"."""
    named = _ADDRESS.sub("<address>", reason)
    words = _WORD.findall(named)
    # Most reasons name nothing: a look at all words at once spares a call for each.
    if not names.isdisjoint(words) or any("." in word for word in words):
        named = _WORD.sub(lambda word: "<name>" if _is_name(word[0], names) else word[0], named)
    return _NUMBER.sub("…", named).strip() or "no reason given"


def _is_name(word: str, names: AbstractSet[str]) -> bool:
    # A word with an ending is a file.
    return "." in word or (len(word) >= _SHORTEST_NAME and word in names)


def split_reasons(reasons: str) -> list[str]:
    """The reasons that a table's column holds, joined as `data.tables.verdict` joins them."""
    return reasons.split("; ") if reasons else [""]


def folding(journey: pd.DataFrame) -> Callable[[str], str]:
    """`fold` with the names of the journey's videos and clips; the same reason is folded once however often it occurs."""
    names = {name for key in ("videoid", "clip_id") for name in values_of(text_of(journey, key))}
    return cache(partial(fold, names=names - {""}))


def reason_kinds(journey: pd.DataFrame, folded: Callable[[str], str] | None = None) -> tuple[Kind, ...]:
    """Every kind of reason, by stage in the stages' order, the commonest first; of a part, as `folded` for the whole.

    An item with several reasons counts once in each of their kinds.
    """
    refused = rows_where(journey.loc[:, ["stage", "reason"]], column(journey, "verdict") != ACCEPTED)
    told = zip(refused.index, *(values_of(column(refused, name)) for name in ("stage", "reason")), strict=True)
    by_stage: dict[str, list[tuple[int, str]]] = {}
    for item, stage, reason in told:
        by_stage.setdefault(stage, []).append((int(item), reason))
    chosen = folded or folding(journey)
    return tuple(kind for stage, reasons in by_stage.items() for kind in _kinds_of(stage, reasons, chosen))


def _kinds_of(stage: str, reasons: list[tuple[int, str]], folded: Callable[[str], str]) -> list[Kind]:
    found: dict[str, list[tuple[int, str]]] = {}
    for item, joined in reasons:
        for reason, text in {folded(reason): reason for reason in split_reasons(joined)}.items():
            found.setdefault(reason, []).append((item, text))
    if len(found) > KINDS_SHOWN:
        found = _by_beginning(found)
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [Kind(stage, text, len(items), *items[0]) for text, items in ordered]


def _by_beginning(found: dict[str, list[tuple[int, str]]]) -> dict[str, list[tuple[int, str]]]:
    """The kinds up to their first colon: a model's own words come after it. What is left over is one kind."""
    short: dict[str, dict[int, str]] = {}
    for text, items in found.items():
        short.setdefault(text.partition(":")[0], {}).update({i: words for i, words in reversed(items)})
    largest = sorted(short, key=lambda text: (-len(short[text]), text))
    kept = {text: sorted(short[text].items()) for text in largest[:KINDS_SHOWN]}
    rest = {i: words for text in largest[KINDS_SHOWN:] for i, words in short[text].items()}
    return kept | ({_OTHERS: sorted(rest.items())} if rest else {})
