"""Label Studio's COCO export: ``result.json``, and photos in ``images`` under whatever name they had been uploaded by.

It writes ``images/0a1b2c3d-street.jpg``, the same with backslashes, ``../../media/upload/4/0a1b2c3d-street.jpg``, the
address it had on the server, or ``/data/local-files/?d=day/street.jpg``. A photo is found by the longest end of this
path that is there, in ``images`` or beside the document, and then without the eight characters of the upload. Two
entries that lead to one file are refused. Everything else is as in COCO JSON.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from terrazzo.data.coco_document import Document
from terrazzo.data.file_tree import FileTree
from terrazzo.data.layout import Layout, NearMiss
from terrazzo.data.layouts.coco_json import Finder, coco_documents, coco_layout, is_label_studios

__all__ = ["NAME", "SHAPE", "UploadedImages", "find"]

NAME = "Label Studio COCO"
SHAPE = "result.json, images"
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")
MOST_PARTS = 20  # of a path that are tried


class UploadedImages:
    """Photos by the names that Label Studio gives them."""

    def __init__(self, root: Path) -> None:
        self._tree = FileTree(root)
        self._places = (root / "images", root)

    def find(self, name: str) -> Path | None:
        """Find a photo by the longest end of its path."""
        place = name.partition("?d=")[2] if "/local-files/" in name else re.split(r"[?#]", name)[0]
        for text in dict.fromkeys((place, unquote(place))):
            parts = [part for part in re.split(r"[/\\]", text) if part not in ("", ".", "..")][-MOST_PARTS:]
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            if parts and UPLOADED.match(parts[-1]):
                ends.append(UPLOADED.sub("", parts[-1], count=1))
            for end in ends:
                for folder in self._places:
                    file = self._tree.find(end, folder)
                    if file is not None:
                        return file
        return None


def find(root: Path) -> Layout | NearMiss | None:
    """Recognise it by a COCO document that names Label Studio."""
    documents = coco_documents(root, is_meant=is_label_studios)
    return coco_layout(NAME, root, documents, _finder) if documents else None


def _finder(root: Path, document: Path, split: str, content: Document) -> Finder:
    return UploadedImages(root).find, "images/"
