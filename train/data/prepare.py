"""Packs images into ArrayRecord, so that training reads them at random from a few large files.

`imagenet2012` runs the builder of TensorFlow Datasets on the official tars; `pack_folder` packs a
folder of photographs.
"""

import contextlib
import io
import logging
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from cnnjax.images import BadImage, open_image
from train.data.sources import folder, tfds
from train.data.sources.arrays import split_kind
from train.data.split import Split
from train.data.threads import ahead
from train.errors import DataError, UserError

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def imagenet2012(tars: str, out: str = "") -> dict[str, Any]:
    """Prepares ImageNet from its two tars.

    Args:
        tars: the folder of both.
        out: where to; by default TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        {"source": as `data.source` names it, "path": its folder, "splits": {name: examples}}.

    Raises:
        DataError: a tar is missing or not the official one; checked before anything is written.
    """
    source = epath.Path(tars).expanduser()
    for name in TARS:
        check_tar(source, name)
    tensorflow_datasets = import_tfds()
    place = epath.Path(out).expanduser() if out else tfds.data_dir()
    builder = tensorflow_datasets.builder(
        "imagenet2012", data_dir=place, file_format="array_record"
    )
    download = tensorflow_datasets.download.DownloadConfig(manual_dir=source)
    # The builder warns that the unpublished test split is missing.
    logging.getLogger("absl").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download)
    is_default = place == tfds.data_dir()
    return described(builder, "tfds:imagenet2012" if is_default else f"tfds:{builder.data_path}")


def check_tar(place: epath.Path, name: str) -> None:
    """DataError unless the tar exists and begins as the official one does."""
    path = place / name
    if not path.exists():
        names = sorted(p.name for p in place.iterdir()) if place.is_dir() else []
        present = [name for name in names if name.endswith(".tar")]
        if place.is_dir() and not present:
            hint = "extracted folders need no preparation: use folder:DIR"
        else:
            hint = f"it holds {', '.join(present)}" if present else "it holds no tars"
        raise DataError(
            f"{place} must hold {' and '.join(TARS)} of image-net.org; {name} is missing, {hint}"
        )
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            first = next(iter(tar), None)
    except tarfile.TarError as error:
        raise DataError(f"{path} is not a tar file: {error}") from None
    suffix = ".tar" if "train" in name else ".JPEG"
    if first is None or not first.name.endswith(suffix):
        content = f"the first member is {first.name}" if first else "it is empty"
        raise DataError(
            f"{path} is not the official file: it should hold {suffix[1:]} files, but {content}"
        )


def pack_folder(source: str, out: str, short_side: int = 0, quality: int = 95) -> dict[str, Any]:
    """Packs all splits of a folder of photographs.

    Args:
        source: the folder, as folder:DIR reads it.
        out: where to.
        short_side: larger images are scaled down to this, and turned as their EXIF tag says;
            0: files are packed unchanged.
        quality: of the JPEG files of scaled images, 1 to 100.

    Returns:
        As `imagenet2012`.

    Raises:
        DataError: the folder or an image cannot be read, or the result already exists.
        UserError: a number is out of range.
    """
    root = folder.check_folder(source)
    if short_side < 0 or not 1 <= quality <= 100:
        raise UserError(
            f"--short-side={short_side} and --quality={quality} must be positive, "
            "and quality at most 100"
        )
    names = folder.splits_of(root, source) or ["train", "test"]
    splits = {
        "train" if split_kind(name) == "train" else name.lower(): folder.folder(source, name)
        for name in names
    }
    name = _identifier(epath.Path(root).resolve().name)
    builder = make_builder(name, splits, epath.Path(out).expanduser(), short_side, quality)
    if builder.data_path.exists():
        raise DataError(f"{builder.data_path} exists already; remove it to pack {source} again")
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return described(builder, f"tfds:{builder.data_path}")


def make_builder(
    dataset: str, splits: dict[str, folder.Files], out: epath.Path, short_side: int, quality: int
) -> Any:
    """A TFDS builder of the data set `dataset`, with these splits, in ArrayRecord below `out`."""
    tensorflow_datasets = import_tfds()
    core, features = tensorflow_datasets.core, tensorflow_datasets.features
    with core.registered.skip_registration():
        # The base comes from a package that is imported here, so the type checker does not know it.
        class Folder(core.GeneratorBasedBuilder):  # type: ignore[name-defined, misc]
            VERSION = core.Version("1.0.0")
            code_path = None  # TFDS would look for checksums next to this file
            name = dataset

            def _info(self):
                label = features.ClassLabel(names=list(splits["train"].class_names))
                image = features.Image(shape=(None, None, 3))
                columns = {"image": image, "label": label, "file_name": features.Text()}
                return core.DatasetInfo(
                    builder=self,
                    features=features.FeaturesDict(columns),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(name) for name in splits}

            def _generate_examples(self, split):
                files = packed(splits[split], short_side, quality)
                for index, (data, label) in enumerate(files):
                    name = splits[split].paths[index]
                    yield index, {"image": io.BytesIO(data), "label": label, "file_name": name}

    return Folder(data_dir=out, file_format="array_record")


def import_tfds() -> Any:
    """TensorFlow Datasets, with progress bars only on a terminal."""
    from train.data.tf import tf  # noqa: F401  (before TFDS, to keep TensorFlow off the accelerators)

    import tensorflow_datasets  # isort: skip

    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


def packed(split: Split, short_side: int, quality: int) -> Iterator[tuple[bytes, int]]:
    """(file, label) of every example in order, scaled by threads as in `shrink`.

    Raises:
        DataError: an image cannot be read.
    """

    def one(index: int) -> bytes:
        payload = split.fetch(np.array([index]))[0][0]
        try:
            return shrink(split.load(payload), short_side, quality)
        except (BadImage, OSError) as error:
            raise DataError(
                f"{split.name(index)} cannot be read: {error}; remove it; "
                "python -m train.data check lists all such files"
            ) from None

    with ThreadPoolExecutor() as pool:
        files = ahead(lambda index: pool.submit(one, index), range(len(split)), 64)
        for future, label in zip(files, split.labels):
            yield future.result(), int(label)


def shrink(data: bytes, short_side: int, quality: int) -> bytes:
    """The file itself, or, if its short side is longer than `short_side`, a JPEG scaled down to it.

    The JPEG has no EXIF tag: its pixels are turned as the file's tag says.

    Raises:
        BadImage: the file cannot be read.
    """
    image = open_image(data, 3, exif=True, max_pixels=2**31)
    if not short_side or min(image.size) <= short_side:
        return data
    scale = short_side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def described(builder: Any, source: str) -> dict[str, Any]:
    """The result of a command that prepared a data set, which is sealed."""
    tfds.seal(epath.Path(builder.data_path))
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    return {"source": source, "path": str(builder.data_path), "splits": counts}


def _identifier(name: str) -> str:
    """A folder's name as a valid name of a TFDS data set."""
    result = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower()).strip("_")
    return result if result[:1].isalpha() else f"images_{result}".rstrip("_")
