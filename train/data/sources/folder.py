"""Folders of photographs: DIR/train/CLASS/… and DIR/val/CLASS/…, or DIR/CLASS/… for both.

Half of it recognises layouts of folders that are almost right, and says so.
"""

import hashlib
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from etils import epath

from cnnjax.spelling import nearest
from train import files
from train.data.sources.arrays import MissingSplit, split_kind, synonym
from train.data.split import Split
from train.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)

_reported: set[PurePath] = set()  # the folders whose left-out files this process has reported


class Entry(NamedTuple):
    """One name in a folder; `why` says why it must not be opened, and is empty otherwise."""

    name: str
    is_dir: bool
    why: str


class Files(Split):
    """Image files, each read when it is needed.

    Args:
        root: the folder that the paths start from.
        paths: of the images, below root.
        labels: (N,) int32, or (N, K) int32 zeros and ones.
        class_names: the classes, in the order of their labels.
        unreadable: the places of paths that are not regular files, and why.
    """

    image_shape = (None, None, 3)
    labels_at_hand = True
    payload_is_path = True

    def __init__(
        self,
        root: str,
        paths: list[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        unreadable: dict[int, str] | None = None,
    ):
        super().__init__()
        self.root, self.paths, self._labels, self.class_names = root, paths, labels, class_names
        self.unreadable = unreadable or {}

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
        return files.read(os.fsdecode(payload))

    def name(self, index: int | str) -> str:
        path = self.paths[int(index)]  # a table's may be absolute, or on remote storage
        return path if "://" in path else os.path.join(self.root, path)


def folder(path: str, split: str) -> Files:
    """One split of a folder of photographs. Classes are its folders, sorted by name as strings.

    The folders of splits may be called in any case, and as `arrays.SPLITS` lists.

    Raises:
        DataError: the folder is missing, has no such split, or its folders are not classes with
            images.
    """
    if not path:
        raise DataError("folder: needs a directory, as in folder:photos")
    root = check_folder(path)
    splits = splits_of(root, path)
    if not splits:
        return _held_out(root, subfolders(root), split, path)
    train = synonym("train", splits, path)
    if splits == [train] and split_kind(split) in ("val", "test"):
        raise MissingSplit(
            f"{path} has no split {split!r}: create {path}/{split}, or use {path}/{train}, of "
            "which a fifth is held out"
        )
    split = synonym(split, splits, path)
    classes = subfolders(f"{root}/{train}")
    names = _names(classes)
    if split == train:
        _check_level(f"{root}/{train}", classes, f"{path}/{train}")
        paths, labels, unreadable = scan(f"{root}/{train}", classes, f"{path}/{train}")
        return Files(f"{root}/{train}", paths, labels, names, unreadable)
    folders = subfolders(f"{root}/{split}")
    unknown = [name for name in _names(folders) if name not in names]
    if unknown:
        raise DataError(
            f"{path}/{split} has the class {unknown[0]!r}, which train does not have; "
            f"{nearest(unknown[0], names)}"
        )
    paths, labels, unreadable = scan(f"{root}/{split}", folders, f"{path}/{split}")
    label_of = np.array([names.index(name) for name in _names(folders)], np.int32)
    return Files(f"{root}/{split}", paths, label_of[labels], names, unreadable)


def splits_of(root: str, path: str) -> list[str]:
    """The folders that are splits; none if the folders of `root` are classes.

    A folder called train is a class if it holds images, no folders, and stands beside folders that
    are not called as splits.

    Raises:
        DataError: the folders are splits, but none of them is for training.
    """
    present = subfolders(root)
    splits = [name for name in present if split_kind(name)]
    train = [name for name in splits if split_kind(name) == "train"]
    if train and splits != present:
        content = [entry for name in train for entry in entries(f"{root}/{name}")]
        holds_images = any(not entry.is_dir and is_image(entry.name) for entry in content)
        if holds_images and not any(entry.is_dir for entry in content):
            return []
    if train:
        return splits
    if splits == present and any(subfolders(f"{root}/{name}") for name in splits):
        raise DataError(f"{path} has {' and '.join(splits)}, but no folder train")
    return []


def _check_level(root: str, classes: list[str], shown: str) -> None:
    """DataError if the folders below the classes are splits, or the classes themselves, or if one
    of the classes is a whole data set.
    """
    inside = [subfolders(f"{root}/{name}") for name in classes]
    if len(classes) > 1 and all(names and all(map(split_kind, names)) for names in inside):
        raise DataError(
            f"{shown} has the splits ({', '.join(inside[0])}) inside of the classes: "
            f"the splits are the upper folders, as in {shown}/{inside[0][0]}/{classes[0]}"
        )
    for name, names in zip(classes, inside):
        below = [inner for inner in names if split_kind(inner)]
        if below and splits_of(f"{root}/{name}", f"{shown}/{name}"):
            raise DataError(
                f"{shown}/{name} is no class, since it has splits ({', '.join(below)}): "
                f"for its images use {shown}/{name}"
            )
    if len(classes) != 1:
        return
    place = f"{root}/{classes[0]}"
    if any(not entry.is_dir and is_image(entry.name) for entry in entries(place)):
        return
    below = [name for name in subfolders(place) if next(walk(place, name), None)]
    if below:
        raise DataError(
            f"{shown} has one class, {classes[0]}, with folders below it ({', '.join(below[:5])}); "
            f"if these are the classes, use {shown}/{classes[0]}"
        )


def _held_out(root: str, classes: list[str], split: str, path: str) -> Files:
    """One split of a folder without train/: train, test, or all.

    The hash of a name holds out a fifth of the images, so that adding images moves none. Of a class
    whose images would all be held out, the one with the largest hash is for training.
    """
    _check_level(root, classes, path)
    paths, labels, unreadable = scan(root, classes, path)
    split = synonym(split, ("train", "test", "all"), path)
    digests = [hashlib.sha1(os.fsencode(name)).digest() for name in paths]
    test = np.array([digest[0] < 256 // 5 for digest in digests], bool)
    for label in np.setdiff1d(np.arange(len(classes)), labels[~test]):
        test[max(np.flatnonzero(labels == label), key=lambda row: digests[row])] = False
    rows = np.flatnonzero((test == (split == "test")) | (split == "all"))
    if not len(rows):
        raise DataError(
            f"{path} has too few images to hold out a fifth for the split {split!r}; "
            f"create {path}/train and {path}/val"
        )
    of_split = {new: unreadable[old] for new, old in enumerate(rows.tolist()) if old in unreadable}
    return Files(root, [paths[row] for row in rows], labels[rows], _names(classes), of_split)


def check_folder(path: str) -> str:
    """The path of a folder, with ~ expanded.

    Raises:
        DataError: there is no such folder.
    """
    place = epath.Path(path).expanduser()
    try:
        if not place.is_dir():
            reason = "is not a folder" if place.exists() else "does not exist"
            raise DataError(f"{path} {reason}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return str(place)


def scan(root: str, classes: list[str], shown: str) -> tuple[list[str], np.ndarray, dict[int, str]]:
    """All images of the classes, by class, then by name: the same list on every machine.

    Args:
        root: the folder of the classes.
        classes: names of its folders.
        shown: how messages call the root.

    Returns:
        Paths below root, labels (N,) int32, and the places of the paths that must not be opened,
        with the reasons.

    Raises:
        DataError: there are no classes, or one has no images.
    """
    if not classes:
        loose = sum(not entry.is_dir and is_image(entry.name) for entry in entries(root))
        content = f"{loose} images, but no folders" if loose else "no folders"
        raise DataError(
            f"{shown} has {content}: each class needs its own folder, as in {shown}/cat/1.jpg"
        )
    found: list[tuple[str, str]] = []
    counts = []
    left_out: Counter[str] = Counter()
    for name in classes:
        of_class = sorted(walk(root, name, left_out))
        if not of_class:
            raise DataError(
                f"{shown}/{name} has no images ({', '.join(SUFFIXES)}); "
                "remove the folder or fill it"
            )
        found += of_class
        counts.append(len(of_class))
    report_left_out(shown, left_out)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    unreadable = {place: why for place, (_, why) in enumerate(found) if why}
    return [path for path, _ in found], labels, unreadable


def report_left_out(shown: str, left_out: Counter[str]) -> None:
    """Says once, and in the first process alone, how many files are left out.

    What was said of a folder is not said again of the folders below it.
    """
    folder = PurePath(shown)
    if not left_out or not _reported.isdisjoint((folder, *folder.parents)):
        return
    _reported.add(folder)
    jax = sys.modules.get("jax")
    if jax and jax.distributed.is_initialized() and jax.process_index():
        return
    suffixes = ", ".join(
        f"{count} {suffix or 'without'}" for suffix, count in left_out.most_common(5)
    )
    print(
        f"{shown}: files without the suffix of an image are left out: {left_out.total()} "
        f"({suffixes})",
        file=sys.stderr,
        flush=True,
    )


def walk(root: str, below: str, left_out: Counter[str] | None = None) -> Iterator[tuple[str, str]]:
    """Every image at any depth; follows symbolic links, not circles.

    Args:
        root: a folder.
        below: the folder below root that is searched.
        left_out: counts the suffixes of the files that are not images.

    Yields:
        A path below root, and why it must not be opened; empty for a regular file.
    """
    pending = [(below, frozenset[str]())]
    while pending:
        place, above = pending.pop()
        # Only local folders have symbolic links.
        real = os.path.realpath(f"{root}/{place}") if "://" not in root else place
        if real in above:
            continue
        for name, is_dir, why in entries(f"{root}/{place}"):
            if is_dir:
                pending.append((f"{place}/{name}", above | {real}))
            elif is_image(name):
                yield f"{place}/{name}", why
            elif left_out is not None:
                left_out[os.path.splitext(name)[1].lower()] += 1


def subfolders(path: str) -> list[str]:
    """The names of a folder's folders, sorted."""
    return sorted(entry.name for entry in entries(path) if entry.is_dir)


def entries(path: str) -> list[Entry]:
    """A folder's content, without hidden files.

    Raises:
        DataError: the folder cannot be listed.
    """
    if "://" in path:
        content = [Entry(p.name, p.is_dir(), "") for p in epath.Path(path).iterdir()]
    else:
        try:
            with os.scandir(path) as scan:
                content = [_entry(entry) for entry in scan]
        except OSError as error:
            place = os.path.normpath(path)
            raise DataError(f"the folder {place} cannot be listed: {error.strerror}") from None
    return [entry for entry in content if not entry.name.startswith(".")]


def _entry(entry: os.DirEntry) -> Entry:
    try:
        is_dir = entry.is_dir()
        return Entry(entry.name, is_dir, "" if is_dir or entry.is_file() else files.NOT_A_FILE)
    except OSError as error:  # a link to itself
        return Entry(entry.name, False, error.strerror or str(error))


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return name.lower().endswith(SUFFIXES)


def _names(folders: list[str]) -> tuple[str, ...]:
    """Class names of folders, with accents in one spelling whichever file system they come from."""
    return tuple(unicodedata.normalize("NFC", name) for name in folders)
