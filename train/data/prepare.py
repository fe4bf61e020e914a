"""Packs images into ArrayRecord, once, so that training reads them at random from a few large files.

`imagenet2012` runs the builder of TensorFlow Datasets on the official tars; `folder` packs a folder of photographs.
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

from train.data import decode
from train.data.sources import folder, tfds
from train.data.split import Split
from train.data.threads import ahead
from train.errors import DataError, UserError

TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def imagenet2012(tars: str, out: str = "") -> dict[str, Any]:
    """Prepares ImageNet from its two tars, of which both are looked into first; the result says where it is."""
    source = epath.Path(tars).expanduser()
    for name in TARS:
        check_tar(source, name)
    tensorflow_datasets = import_tfds()
    place = epath.Path(out).expanduser() if out else tfds.data_dir()
    builder = tensorflow_datasets.builder(
        "imagenet2012", data_dir=place, file_format="array_record"
    )
    download = tensorflow_datasets.download.DownloadConfig(manual_dir=source)
    logging.getLogger("absl").setLevel(
        logging.ERROR
    )  # it warns that the test split, which nobody has, is missing
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download)
    return described(
        builder, "tfds:imagenet2012" if place == tfds.data_dir() else f"tfds:{builder.data_path}"
    )


def check_tar(place: epath.Path, name: str) -> None:
    """DataError unless the tar is there and begins as the official one does."""
    path = place / name
    if not path.exists():
        there = (
            sorted(p.name for p in place.iterdir() if p.name.endswith(".tar"))
            if place.is_dir()
            else []
        )
        found = f"it holds {', '.join(there)}" if there else "it holds no tars"
        hint = (
            "extracted folders need no preparation: use folder:DIR"
            if place.is_dir() and not there
            else found
        )
        raise DataError(
            f"{place} must hold {' and '.join(TARS)} of image-net.org; {name} is missing, {hint}"
        )
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            first = next(iter(tar), None)
    except tarfile.TarError as error:
        raise DataError(f"{path} is no tar file: {error}") from None
    wanted = ".tar" if "train" in name else ".JPEG"
    if first is None or not first.name.endswith(wanted):
        inside = f"the first member is {first.name}" if first else "it is empty"
        raise DataError(
            f"{path} is not the official file: it should hold {wanted[1:]} files, but {inside}"
        )


def pack_folder(source: str, out: str, short_side: int = 0, quality: int = 95) -> dict[str, Any]:
    """Packs all splits of a folder into ArrayRecord below `out`; with `short_side`, larger images are scaled down to it."""
    if not epath.Path(source).is_dir():
        raise DataError(f"{source} is not a folder")
    if short_side < 0 or not 1 <= quality <= 100:
        raise UserError(
            f"--short-side={short_side} and --quality={quality} must be positive, and quality at most 100"
        )
    children = {name for name, is_dir in folder.entries(source) if is_dir}
    names = (
        [name for name in folder.SPLITS if name in children]
        if "train" in children
        else ["train", "test"]
    )
    splits = {name: folder.folder(source, name) for name in names}
    classes = splits["train"].class_names

    tensorflow_datasets = import_tfds()
    with tensorflow_datasets.core.registered.skip_registration():

        class Folder(tensorflow_datasets.core.GeneratorBasedBuilder):  # type: ignore[name-defined]
            VERSION = tensorflow_datasets.core.Version("1.0.0")
            code_path = None  # or checksums of downloads are looked for around this file
            name = _identifier(epath.Path(source).resolve().name)

            def _info(self):
                features = tensorflow_datasets.features.FeaturesDict(
                    {
                        "image": tensorflow_datasets.features.Image(shape=(None, None, 3)),
                        "label": tensorflow_datasets.features.ClassLabel(names=list(classes)),
                        "file_name": tensorflow_datasets.features.Text(),
                    }
                )
                return tensorflow_datasets.core.DatasetInfo(
                    builder=self, features=features, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(name) for name in splits}

            def _generate_examples(self, split):
                for index, (data, label) in enumerate(packed(splits[split], short_side, quality)):
                    name = splits[split].paths[index]
                    yield index, {"image": io.BytesIO(data), "label": label, "file_name": name}

    builder = Folder(data_dir=epath.Path(out).expanduser(), file_format="array_record")
    if builder.data_path.exists():
        raise DataError(f"{builder.data_path} exists already; remove it to pack {source} again")
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return described(builder, f"tfds:{builder.data_path}")


def import_tfds() -> Any:
    """TensorFlow Datasets, with its progress bars only where somebody looks on."""
    from train.data.tf import tf  # noqa: F401  (first, for it keeps TensorFlow quiet and off the accelerators)

    import tensorflow_datasets  # isort: skip

    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


def packed(split: Split, short_side: int, quality: int) -> Iterator[tuple[bytes, int]]:
    """(file, label) of every example, in order; scaled in threads where that is asked for."""

    def one(index: int) -> bytes:
        payload = split.fetch(np.array([index]))[0][0]
        try:
            data = split.load(payload)
            return shrink(data, short_side, quality)
        except (decode.BadImage, OSError) as error:
            raise DataError(
                f"{split.name(index)} cannot be read: {error}; remove it, or list all such files with "
                "python -m train.data check"
            ) from None

    with ThreadPoolExecutor() as pool:
        for future, label in zip(
            ahead(lambda i: pool.submit(one, i), iter(range(len(split))), 64), split.labels
        ):
            yield future.result(), int(label)


def shrink(data: bytes, short_side: int, quality: int) -> bytes:
    """The file itself, checked, or a JPEG whose short side has this length if it was longer."""
    image = decode.open_image(data, 3, exif=False, max_pixels=2**31)
    if not short_side or min(image.size) <= short_side:
        return data
    scale = short_side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def described(builder: Any, source: str) -> dict[str, Any]:
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    return {"source": source, "path": str(builder.data_path), "splits": counts}


def _identifier(name: str) -> str:
    """A folder's name as the name of a data set."""
    kept = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lower()).strip("_")
    return kept if kept[:1].isalpha() else f"images_{kept}".rstrip("_")
