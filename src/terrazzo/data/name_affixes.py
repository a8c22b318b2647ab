"""Names of masks that are those of photos and something more: ``x_mask`` for ``x``, ``mask_001`` for ``img_001``."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

__all__ = ["Affixes", "affixes_beside", "find_affixes", "same_name"]

LOOKED_AT = 24  # names, to find out what is common to all
IMAGE_WORDS = "leftimg8bit|original|images|image|photo|frame|input|orig|sat|img|rgb|src|raw|im"
MASK_WORDS = (
    "(?:label_)?ground[-_]?truth|segmentations?|annotations?|annotated|annot|masks?|labels?|labelids|trainids|semantic"
    "|seg|gt|l|lab"
)
BEFORE = re.compile(rf"(?:{IMAGE_WORDS})[-_. ]?(?=.)", re.IGNORECASE)
AFTER = re.compile(rf"(?<=.)[-_. ](?:{IMAGE_WORDS})$", re.IGNORECASE)
MASK_BEFORE = re.compile(rf"(?:{MASK_WORDS})[-_. ](?=.)", re.IGNORECASE)
MASK_AFTER = re.compile(rf"(?<=.)[-_. ](?:{MASK_WORDS})$", re.IGNORECASE)


@dataclass(frozen=True)
class Affixes:
    """What names have before and after the part that photo and mask share."""

    image: tuple[str, str]
    mask: tuple[str, str]

    def mask_of(self, image: str) -> str | None:
        """Name the mask of a photo; None where the photo is not named so."""
        before, after = self.image
        if len(image) <= len(before) + len(after) or not (image.startswith(before) and image.endswith(after)):
            return None
        return self.mask[0] + image[len(before) : len(image) - len(after)] + self.mask[1]

    def __str__(self) -> str:
        return f"{'NAME'.join(self.image)} with {'NAME'.join(self.mask)}"


def same_name(name: str) -> str:
    """Write a name in one way: macOS takes letters with accents apart, and other systems do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def find_affixes(images: Collection[str], masks: Collection[str]) -> list[Affixes]:
    """Find how masks are named after photos, of which none has a mask of exactly its name.

    Returns:
        The way, several where masks have more than one ending each, or none.
    """
    for own in _own_affixes(images):
        found: Counter[tuple[str, str]] = Counter()
        for image in _some(images):
            core = image[len(own[0]) : len(image) - len(own[1])]
            found.update(place for mask in masks for place in _around(core, mask))
        ways = [Affixes(own, affix) for affix, _ in found.most_common(4)]
        covered = {way: sum(way.mask_of(image) in masks for image in images) for way in ways}
        best = max(covered.values(), default=0)
        if best:
            return [way for way in ways if 2 * covered[way] > best]
    return []


def affixes_beside(names: Collection[str]) -> Affixes | None:
    """Tell masks from photos in one folder by a word such as ``_mask`` that half of the names have more."""
    there = set(names)
    ways: Counter[Affixes] = Counter()
    for name in names:
        cuts = [("", match[0]) for match in [MASK_AFTER.search(name)] if match]
        cuts += [(match[0], "") for match in [MASK_BEFORE.match(name)] if match]
        for before, after in cuts:
            core = name[len(before) : len(name) - len(after)]
            ways.update(
                Affixes(own, (before, after)) for own in _sided(before, after) if own[0] + core + own[1] in there
            )
    return max(ways, key=lambda way: ways[way]) if ways else None


def _sided(before: str, after: str) -> Iterator[tuple[str, str]]:
    """The photo's own affixes that go with a mask's: none, or a word in the same place."""
    yield "", ""
    mark = (before[-1:] or after[:1]) or "_"
    for word in IMAGE_WORDS.split("|"):
        yield (word + mark, "") if before else ("", mark + word)


def _own_affixes(images: Collection[str]) -> Iterator[tuple[str, str]]:
    """Nothing, and a word such as ``img_`` that all photos begin or end with."""
    yield "", ""
    for pattern in (BEFORE, AFTER):
        words = {match[0] if match else "" for match in map(pattern.search, images)}
        if len(words) == 1 and (word := words.pop()):
            if pattern is BEFORE and all(image.startswith(word) for image in images):
                yield word, ""
            elif pattern is AFTER:
                yield "", word


def _around(core: str, mask: str) -> Iterator[tuple[str, str]]:
    """What a name has before and after another, where they part between words."""
    start = mask.find(core) if core else -1
    while start >= 0:
        before, after = mask[:start], mask[start + len(core) :]
        if _parts(before, core) and _parts(core, after):
            yield before, after
        start = mask.find(core, start + 1)


def _parts(left: str, right: str) -> bool:
    """Whether a word ends between two pieces of a name: neither a number nor a word goes on."""
    if not left or not right:
        return True
    a, b = left[-1], right[0]
    return not ((a.isdigit() and b.isdigit()) or (a.isalpha() and b.isalpha() and not (a.islower() and b.isupper())))


def _some(names: Collection[str]) -> list[str]:
    ordered = sorted(names)
    return ordered[:: -(-len(ordered) // LOOKED_AT)] if ordered else []
