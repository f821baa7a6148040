"""Which captions describe what a 4D scene can be made of, behind one interface; the embedded judge is a rule set.

Two criteria, after the paper's section 3 and appendix D, in our own words.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from more4d.curation.vocabulary import (
    CAMERA_MOTIONS,
    DRIVEN_MOTIONS,
    PAST,
    PLURALS,
    SELF_MOTIONS,
    STILL,
    SUBJECTS,
    UNCOUNTABLE,
)

CRITERIA = {
    "countable": "one or more things are named that could be counted",
    "self_motion": "they move by themselves or change their shape, not carried by wind, water or the camera",
}


@dataclass(frozen=True)
class Answer:
    """One criterion's flag with its reason; None where the judge could not decide."""

    flag: bool | None
    reason: str


@dataclass(frozen=True)
class Judgement:
    """A caption's answers by criterion, one for each of CRITERIA."""

    clip_id: str
    answers: dict[str, Answer]


class Judge(Protocol):
    """Judges captions, in their order; many at once, as a server would be asked."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge_all(self, captions: Iterable[tuple[str, str]]) -> Iterator[Judgement]: ...


class RuleJudge:
    """Looks for known words in the caption: subjects that can be counted and motions of their own."""

    name = "rules"
    version = "1"

    def judge_all(self, captions: Iterable[tuple[str, str]]) -> Iterator[Judgement]:
        """A judgement of each (clip id, caption)."""
        for clip_id, caption in captions:
            words = base_forms(caption)
            yield Judgement(clip_id, {"countable": _countable(words), "self_motion": _self_motion(words)})


def judge(name: str) -> Judge:
    """The judge called `name`. Raises ValueError listing the known."""
    known: dict[str, Judge] = {RuleJudge.name: RuleJudge()}
    if name not in known:
        raise ValueError(f"unknown judge {name!r}; the judges are {', '.join(known)}")
    return known[name]


def base_forms(caption: str) -> list[frozenset[str]]:
    """For each word of the caption, the base forms that it may have: 'foxes' may be a fox, 'running' may be run."""
    return [_forms(word) for word in re.findall(r"[a-z]+(?:-[a-z]+)*", caption.lower())]


def _forms(word: str) -> frozenset[str]:
    forms = {word, PLURALS.get(word, word), PAST.get(word, word)}
    for ending, replacements in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            forms |= {stem + replacement for replacement in replacements}
            # "running", "jogged": the last letter was doubled.
            if ending in ("ing", "ed") and stem[-1] == stem[-2]:
                forms.add(stem[:-1])
    return frozenset(forms)


_ENDINGS = (("s", ("",)), ("es", ("",)), ("ies", ("y",)), ("ing", ("", "e")), ("ed", ("", "e")), ("ied", ("y",)))


def _countable(words: list[frozenset[str]]) -> Answer:
    subjects = _known(words, SUBJECTS)
    if subjects:
        return Answer(True, f"names {', '.join(subjects)}")
    uncountable = _known(words, UNCOUNTABLE)
    if uncountable:
        return Answer(False, f"names only {', '.join(uncountable)}, which cannot be counted")
    return Answer(False, "names no subject that the rules know")


def _self_motion(words: list[frozenset[str]]) -> Answer:
    if still := _known(words, STILL):
        return Answer(False, f"says that nothing moves: {', '.join(still)}")
    if camera := _known(words, CAMERA_MOTIONS):
        return Answer(False, f"the camera moves: {', '.join(camera)}")
    if own := _known(_verbs(words), SELF_MOTIONS):
        return Answer(True, f"moves by itself: {', '.join(own)}")
    if driven := _known(words, DRIVEN_MOTIONS):
        return Answer(False, f"moved from outside alone: {', '.join(driven)}")
    return Answer(False, "names no motion that the rules know")


def _verbs(words: list[frozenset[str]]) -> list[frozenset[str]]:
    """The words without those that are rather nouns: "waves" is a motion only of a subject named before."""
    verbs, subject_named = [], False
    for forms in words:
        if subject_named or not forms & (SUBJECTS | UNCOUNTABLE):
            verbs.append(forms)
        subject_named |= bool(forms & SUBJECTS)
    return verbs


def _known(words: list[frozenset[str]], vocabulary: frozenset[str]) -> list[str]:
    """The known words in the caption's order, once each."""
    return list(dict.fromkeys(form for forms in words for form in sorted(forms & vocabulary)))
