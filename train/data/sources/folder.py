"""Folders of photographs: DIR/train/CLASS/… and DIR/val/CLASS/…, or DIR/CLASS/… of which a fixed fifth is held out."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train.data.sources.arrays import synonym
from train.data.split import Split
from train.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "val", "validation", "test")


class Files(Split):
    """Image files, each read when its turn comes."""

    image_shape = (None, None, 3)
    payload_is_path = True

    def __init__(
        self, root: str, paths: list[str], labels: np.ndarray, class_names: tuple[str, ...]
    ):
        super().__init__()
        self.root, self.paths, self._labels, self.class_names = root, paths, labels, class_names

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The payload is the file's name, in bytes."""
        payloads = np.empty(len(indices), object)
        payloads[:] = [os.fsencode(self.name(i)) for i in indices]
        return payloads, self._labels[indices]

    def load(self, payload: bytes) -> bytes:
        name = os.fsdecode(payload)
        if "://" in name:
            return epath.Path(name).read_bytes()
        with open(name, "rb") as file:
            return file.read()

    def name(self, index: int | str) -> str:
        return f"{self.root}/{self.paths[int(index)]}"


def folder(path: str, split: str) -> Files:
    """One split of a folder of photographs. Classes are its folders, in the order of their names as strings."""
    if not path:
        raise DataError("folder: needs a directory, as in folder:photos")
    root = str(epath.Path(path))
    if not epath.Path(path).is_dir():
        raise DataError(
            f"{path} is not a folder" if epath.Path(path).exists() else f"{path} does not exist"
        )
    children = {name for name, is_dir in entries(root) if is_dir}
    if "train" not in children:
        classes = sorted(children)
        paths, labels = scan(root, classes, path)
        held = np.array([_held_out(p) for p in paths], bool)
        chosen = held if synonym(split, ("train", "test"), path) == "test" else ~held
        paths = [p for p, wanted in zip(paths, chosen) if wanted]
        if not paths:
            raise DataError(
                f"{path} has too few images to hold a fifth of them out; make {path}/train and {path}/val"
            )
        return Files(root, paths, labels[chosen], _names(classes))

    split = synonym(split, [name for name in SPLITS if name in children] or list(children), path)
    classes = sorted(name for name, is_dir in entries(f"{root}/train") if is_dir)
    if split == "train":
        paths, labels = scan(f"{root}/train", classes, f"{path}/train")
        return Files(f"{root}/train", paths, labels, _names(classes))
    names, here = (
        _names(classes),
        sorted(name for name, is_dir in entries(f"{root}/{split}") if is_dir),
    )
    unknown = [name for name in _names(here) if name not in names]
    if unknown:
        raise DataError(
            f"{path}/{split} has the class {unknown[0]!r}, which train has not; {nearest(unknown[0], names)}"
        )
    paths, labels = scan(f"{root}/{split}", here, f"{path}/{split}")
    number = np.array([names.index(name) for name in _names(here)], np.int32)
    return Files(f"{root}/{split}", paths, number[labels], names)


def scan(root: str, classes: list[str], shown: str) -> tuple[list[str], np.ndarray]:
    """(paths below root, labels) of all images, by class, then by name: the same list on every machine."""
    if not classes:
        loose = sum(not is_dir and is_image(name) for name, is_dir in entries(root))
        there = f"{loose} images, but no folder" if loose else "no folders"
        raise DataError(
            f"{shown} has {there}: each class needs a folder of its own, as in {shown}/cat/1.jpg"
        )
    paths: list[str] = []
    counts = []
    for name in classes:
        found = sorted(walk(root, name))
        if not found:
            raise DataError(
                f"{shown}/{name} has no images ({', '.join(SUFFIXES)}); remove the folder or fill it"
            )
        paths += found
        counts.append(len(found))
    return paths, np.repeat(np.arange(len(classes), dtype=np.int32), counts)


def walk(root: str, below: str) -> Iterator[str]:
    """Every image under a folder, nested ones too, as paths below root; links are followed, but not in circles."""
    pending = [(below, frozenset[str]())]
    while pending:
        place, above = pending.pop()
        # Only local folders have links, which epath does not look through.
        real = os.path.realpath(f"{root}/{place}") if "://" not in root else place
        if real in above:
            continue
        for name, is_dir in entries(f"{root}/{place}"):
            if is_dir:
                pending.append((f"{place}/{name}", above | {real}))
            elif is_image(name):
                yield f"{place}/{name}"


def entries(path: str) -> list[tuple[str, bool]]:
    """(name, is it a folder) of what a folder holds; hidden files are left out."""
    if "://" in path:
        found = [(p.name, p.is_dir()) for p in epath.Path(path).iterdir()]
    else:
        with os.scandir(path) as scan:
            found = [(entry.name, entry.is_dir()) for entry in scan]
    return [(name, is_dir) for name, is_dir in found if not name.startswith(".")]


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _held_out(path: str) -> bool:
    """A fifth of all names, whatever else the folder holds: adding images moves none from one split to the other."""
    return hashlib.sha1(os.fsencode(path)).digest()[0] < 256 // 5


def _names(folders: list[str]) -> tuple[str, ...]:
    """Class names of folders: accents are written in one way, whichever file system the folder comes from."""
    return tuple(unicodedata.normalize("NFC", name) for name in folders)
