"""Folders of photographs: DIR/train/CLASS/… and DIR/val/CLASS/…, or DIR/CLASS/… for both."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train.data.sources.arrays import HELD_OUT, synonym
from train.data.split import Split
from train.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", *HELD_OUT)


class Files(Split):
    """Image files, each read when it is needed.

    Args:
        root: the folder that the paths start from.
        paths: of the images, below root.
        labels: (N,) int32.
        class_names: the classes, in the order of their labels.
    """

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
        """The payload is the file's path, in bytes."""
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
    """One split of a folder of photographs. Classes are its folders, sorted by name as strings.

    Raises:
        DataError: the folder is missing, has no such split, or its folders are not classes with
            images.
    """
    if not path:
        raise DataError("folder: needs a directory, as in folder:photos")
    check_folder(path)
    root = str(epath.Path(path))
    present = subfolders(root)
    if "train" not in present:
        return _held_out(root, present, split, path)
    split = synonym(split, [name for name in SPLITS if name in present], path)
    classes = subfolders(f"{root}/train")
    names = _names(classes)
    if split == "train":
        paths, labels = scan(f"{root}/train", classes, f"{path}/train")
        return Files(f"{root}/train", paths, labels, names)
    folders = subfolders(f"{root}/{split}")
    unknown = [name for name in _names(folders) if name not in names]
    if unknown:
        raise DataError(
            f"{path}/{split} has the class {unknown[0]!r}, which train does not have; "
            f"{nearest(unknown[0], names)}"
        )
    paths, labels = scan(f"{root}/{split}", folders, f"{path}/{split}")
    label_of = np.array([names.index(name) for name in _names(folders)], np.int32)
    return Files(f"{root}/{split}", paths, label_of[labels], names)


def _held_out(root: str, classes: list[str], split: str, path: str) -> Files:
    """One split of a folder without train/.

    The hash of a name holds out a fifth of the images, so that adding images moves none.
    """
    paths, labels = scan(root, classes, path)
    split = synonym(split, ("train", "test"), path)
    test = [hashlib.sha1(os.fsencode(name)).digest()[0] < 256 // 5 for name in paths]
    rows = np.flatnonzero(np.array(test, bool) == (split == "test"))
    if not len(rows):
        raise DataError(
            f"{path} has too few images to hold out a fifth; create {path}/train and {path}/val"
        )
    return Files(root, [paths[row] for row in rows], labels[rows], _names(classes))


def check_folder(path: str) -> None:
    """DataError unless the path is a folder."""
    if not epath.Path(path).is_dir():
        reason = "is not a folder" if epath.Path(path).exists() else "does not exist"
        raise DataError(f"{path} {reason}")


def scan(root: str, classes: list[str], shown: str) -> tuple[list[str], np.ndarray]:
    """All images of the classes, by class, then by name: the same list on every machine.

    Args:
        root: the folder of the classes.
        classes: names of its folders.
        shown: how messages call the root.

    Returns:
        Paths below root, and labels (N,) int32.

    Raises:
        DataError: there are no classes, or one has no images.
    """
    if not classes:
        loose = sum(not is_dir and is_image(name) for name, is_dir in entries(root))
        content = f"{loose} images, but no folders" if loose else "no folders"
        raise DataError(
            f"{shown} has {content}: each class needs its own folder, as in {shown}/cat/1.jpg"
        )
    paths: list[str] = []
    counts = []
    for name in classes:
        of_class = sorted(walk(root, name))
        if not of_class:
            raise DataError(
                f"{shown}/{name} has no images ({', '.join(SUFFIXES)}); "
                "remove the folder or fill it"
            )
        paths += of_class
        counts.append(len(of_class))
    return paths, np.repeat(np.arange(len(classes), dtype=np.int32), counts)


def walk(root: str, below: str) -> Iterator[str]:
    """Every image at any depth, as a path below root; follows symbolic links, not circles."""
    pending = [(below, frozenset[str]())]
    while pending:
        place, above = pending.pop()
        # Only local folders have symbolic links.
        real = os.path.realpath(f"{root}/{place}") if "://" not in root else place
        if real in above:
            continue
        for name, is_dir in entries(f"{root}/{place}"):
            if is_dir:
                pending.append((f"{place}/{name}", above | {real}))
            elif is_image(name):
                yield f"{place}/{name}"


def subfolders(path: str) -> list[str]:
    """The names of a folder's folders, sorted."""
    return sorted(name for name, is_dir in entries(path) if is_dir)


def entries(path: str) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of a folder's content, without hidden files."""
    if "://" in path:
        content = [(p.name, p.is_dir()) for p in epath.Path(path).iterdir()]
    else:
        with os.scandir(path) as scan:
            content = [(entry.name, entry.is_dir()) for entry in scan]
    return [(name, is_dir) for name, is_dir in content if not name.startswith(".")]


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return name.lower().endswith(SUFFIXES)


def _names(folders: list[str]) -> tuple[str, ...]:
    """Class names of folders, with accents in one spelling whichever file system they come from."""
    return tuple(unicodedata.normalize("NFC", name) for name in folders)
