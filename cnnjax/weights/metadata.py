"""The known published files: location, hash, licence, accuracy and preprocessing.

Accuracies are top-1 and top-5 in percent on the ImageNet validation set, one centre crop, as the
publisher states them; for faces, accuracy on LFW. A licence is that of the weights: a licence that
covers only a repository's code is not listed. None means not published or not verified.

Most of it is the table.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.spelling import choice
from cnnjax.weights.read import digest


@dataclass(frozen=True)
class Preprocessing:
    """From an image on disk to the network's input.

    A call does the last step, from pixels to normalised values. The fields describe the steps
    before. With `resize`, the short side is scaled to it and a square of `size` is cut from the
    centre. Otherwise the central `fraction` of both sides is scaled to a square of `size`,
    whatever the aspect ratio.

    Attributes:
        size: side of the square in pixels.
        mean: one value for each channel, in the network's order, or one for all. Range 0 to 255.
        std: the same for the standard deviation.
        resize: length in pixels of the short side before the crop, or None.
        fraction: the central part of each side that is used if `resize` is None.
        interpolation: of the scaling.
        antialias: whether the scaling filters when it shrinks.
        channels: the order in which the network reads them: RGB, BGR or L.
    """

    size: int
    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    resize: int | None = None
    fraction: float = 1.0
    interpolation: str = "bilinear"
    antialias: bool = True
    channels: str = "RGB"

    def __call__(self, images: Any) -> Any:
        """uint8 (…, H, W, C) in RGB, numpy or jax, to the network's input, float32.

        It takes images as they are: the resize and the crop are part of a call of `Pretrained`.
        """
        x = images.astype(np.float32)
        if self.channels == "BGR":
            x = x[..., ::-1]
        shape = (1,) * (x.ndim - 1) + (-1,)
        mean, std = (np.array(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return (x - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`, also after JSON, which turns tuples into lists."""
        values: Any = {key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()}
        return cls(**values)


class Record(NamedTuple):
    """One published file.

    Attributes:
        source: the publisher: a key of `SOURCES`.
        model: our name of the model.
        file: the file's name.
        where: URL of the folder, archive or page that holds it.
        preprocessing: of the images that it was trained with.
        top1: accuracy in percent; see the top of this file.
        top5: the same.
        hash: "sha256:…" or "md5:…", with as many digits as are published.
        licence: of the weights.
        tag: tells several weights of one model apart.
        background: class 0 of 1001 is not one of ImageNet's; `load` drops it.
        note: anything else to know.
    """

    source: str
    model: str
    file: str
    where: str
    preprocessing: Preprocessing
    top1: float | None = None
    top5: float | None = None
    hash: str | None = None
    licence: str | None = None
    tag: str | None = None
    background: bool = False
    note: str = ""


# torchvision's reference transforms: antialiased bilinear, 256 to 224 and 342 to 299 pixels.
IMAGENET: dict[str, Any] = dict(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
TORCH_224 = Preprocessing(224, resize=256, **IMAGENET)
# GoogLeNet and Inception-v3 come from TensorFlow and take [-1, 1]. torchvision normalises as usual
# and undoes that inside the model (`transform_input`).
TORCH_224_SYMMETRIC = Preprocessing(224, resize=256)
TORCH_299_SYMMETRIC = Preprocessing(299, resize=342)
TIMM_224 = TORCH_224
TIMM_299 = Preprocessing(299, resize=341, interpolation="bicubic")  # crop_pct 0.875
TIMM_299_GLUON = Preprocessing(299, resize=341, interpolation="bicubic", **IMAGENET)
TIMM_299_WIDE = Preprocessing(299, resize=333, interpolation="bicubic")  # crop_pct 0.8975
# TF-slim evaluates on the central 87.5 % of both sides and scales without antialiasing.
SLIM_224 = Preprocessing(224, fraction=0.875, antialias=False)
SLIM_299 = Preprocessing(299, fraction=0.875, antialias=False)
SLIM_VGG = Preprocessing(
    224, mean=(123.68, 116.78, 103.94), std=(1.0,), resize=256, antialias=False
)
# Keras publishes the values only. The crop is that of the implementation the weights come from.
KERAS_VGG = Preprocessing(
    224, mean=(103.939, 116.779, 123.68), std=(1.0,), resize=256, channels="BGR"
)
KERAS_299 = SLIM_299
# Faces, already aligned and cropped.
FACE = Preprocessing(160, std=(128.0,))

TORCH = "https://download.pytorch.org/models/"
HUB = "https://huggingface.co/timm/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
CADENE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
SLIM = "http://download.tensorflow.org/models/"
FACENET = "https://github.com/davidsandberg/facenet"
FACENET_PORT = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"

APACHE, BSD = "Apache-2.0", "BSD-3-Clause"


def torchvision(
    model: str,
    file: str,
    top1: float,
    top5: float,
    preprocessing: Preprocessing = TORCH_224,
    note: str = "",
) -> Record:
    """The file's name has 8 digits of the SHA-256. No licence of the weights is stated."""
    digits = file.removesuffix(".pth").rpartition("-")[2]
    hash = f"sha256:{digits}"
    return Record("torchvision", model, file, TORCH, preprocessing, top1, top5, hash, note=note)


def timm(
    model: str,
    tag: str,
    top1: float,
    top5: float | None,
    preprocessing: Preprocessing = TIMM_224,
    licence: str = BSD,
) -> Record:
    """A file on the hub, where each model has a folder and all files have the same name."""
    file, where = "model.safetensors", f"{HUB}{model}.{tag}"
    facts: dict[str, Any] = dict(licence=licence, tag=tag)
    return Record("timm", model, file, where, preprocessing, top1, top5, **facts)


def timm_release(
    model: str,
    tag: str,
    file: str,
    preprocessing: Preprocessing,
    where: str = TIMM,
    background: bool = True,
) -> Record:
    """The same weights, from before the hub.

    The hash is in the file's name. Ports from TensorFlow still have the background class.
    """
    digits = file.removesuffix(".pth").rpartition("-")[2]
    facts: dict[str, Any] = dict(hash=f"sha256:{digits}", tag=tag, background=background)
    return Record("timm", model, file, where, preprocessing, **facts)


def keras(
    model: str,
    folder: str,
    top: str,
    no_top: str,
    top1: float,
    top5: float,
    preprocessing: Preprocessing,
) -> tuple[Record, ...]:
    """The file with the classifier and the one without. Keras itself checks these MD5 sums."""
    stem, where = f"{folder}_weights_tf_dim_ordering_tf_kernels", f"{KERAS}{folder}/"
    whole = Record("keras", model, f"{stem}.h5", where, preprocessing, top1, top5, f"md5:{top}")
    trunk = Record("keras", model, f"{stem}_notop.h5", where, preprocessing, hash=f"md5:{no_top}")
    return whole, trunk._replace(note="no classifier")


def slim(
    model: str,
    archive: str,
    file: str,
    top1: float | None,
    top5: float | None,
    preprocessing: Preprocessing,
) -> Record:
    """An archive with a checkpoint: Inceptions have 1001 classes, VGG 1000. No hashes."""
    where, tag = f"{SLIM}{archive}.tar.gz", "adv" if "adv" in archive else None
    facts: dict[str, Any] = dict(tag=tag, background=preprocessing is not SLIM_VGG)
    return Record("slim", model, file, where, preprocessing, top1, top5, **facts)


def facenet(file: str, where: str, lfw: float, tag: str, identities: int) -> Record:
    """A network trained on a data set of faces. No hashes are published."""
    facts: dict[str, Any] = dict(tag=tag, note=f"LFW accuracy; {identities} identities")
    return Record("facenet", "inception_resnet_v1_facenet", file, where, FACE, lfw, **facts)


# fmt: off
RECORDS: tuple[Record, ...] = (
    torchvision("alexnet_owt", "alexnet-owt-7be5be79.pth", 56.522, 79.066),
    torchvision("vgg11", "vgg11-8a719046.pth", 69.020, 88.628),
    torchvision("vgg11_bn", "vgg11_bn-6002323d.pth", 70.370, 89.810),
    torchvision("vgg13", "vgg13-19584684.pth", 69.928, 89.246),
    torchvision("vgg13_bn", "vgg13_bn-abd245e5.pth", 71.586, 90.374),
    torchvision("vgg16", "vgg16-397923af.pth", 71.592, 90.382),
    torchvision("vgg16_bn", "vgg16_bn-6c64b313.pth", 73.360, 91.516),
    torchvision("vgg19", "vgg19-dcbb9e9d.pth", 72.376, 90.876),
    torchvision("vgg19_bn", "vgg19_bn-c79401a0.pth", 74.218, 91.842),
    torchvision("inception_v1_bn", "googlenet-1378be20.pth", 69.778, 89.530, TORCH_224_SYMMETRIC,
                note="its auxiliary heads are untrained"),
    torchvision("inception_v3", "inception_v3_google-0cc3c7bd.pth", 77.294, 93.450,
                TORCH_299_SYMMETRIC),
    torchvision("inception_v3", "inception_v3_google-1a9a5a14.pth", 77.294, 93.450,
                TORCH_299_SYMMETRIC, note="an earlier name of the same weights"),
    timm("vgg11", "tv_in1k", 69.050, None),
    timm("vgg11_bn", "tv_in1k", 70.374, None),
    timm("vgg13", "tv_in1k", 69.950, None),
    timm("vgg13_bn", "tv_in1k", 71.560, None),
    timm("vgg16", "tv_in1k", 71.594, None),
    timm("vgg16_bn", "tv_in1k", 73.354, None),
    timm("vgg19", "tv_in1k", 72.400, None),
    timm("vgg19_bn", "tv_in1k", 74.230, None),
    timm("inception_v3", "tf_in1k", 77.866, 93.644, TIMM_299, APACHE),
    timm("inception_v3", "tf_adv_in1k", 77.598, 93.726, TIMM_299, APACHE),
    timm("inception_v3", "tv_in1k", 77.472, 93.468, TIMM_299, APACHE),
    timm("inception_v3", "gluon_in1k", 78.806, 94.372, TIMM_299_GLUON, APACHE),
    timm("inception_v4", "tf_in1k", 80.144, 94.982, TIMM_299, APACHE),
    timm("inception_resnet_v2", "tf_in1k", 80.434, 95.312, TIMM_299_WIDE, APACHE),
    timm("inception_resnet_v2", "tf_ens_adv_in1k", 79.998, 94.940, TIMM_299_WIDE, APACHE),
    timm_release("inception_v3", "tf_in1k", "tf_inception_v3-e0069de4.pth", TIMM_299),
    timm_release("inception_v3", "tf_adv_in1k", "adv_inception_v3-9e27bd63.pth", TIMM_299),
    timm_release("inception_v3", "gluon_in1k", "gluon_inception_v3-9f746940.pth", TIMM_299_GLUON,
                 background=False),
    timm_release("inception_v4", "tf_in1k", "inceptionv4-8e4777a0.pth", TIMM_299, CADENE),
    timm_release("inception_resnet_v2", "tf_in1k", "inception_resnet_v2-940b1cd6.pth",
                 TIMM_299_WIDE),
    timm_release("inception_resnet_v2", "tf_ens_adv_in1k",
                 "ens_adv_inception_resnet_v2-2592a550.pth", TIMM_299_WIDE),
    *keras("vgg16", "vgg16", "64373286793e3c8b2b4e3219cbf3544b",
           "6d6bbae143d832006294945121d1f1fc", 71.3, 90.1, KERAS_VGG),
    *keras("vgg19", "vgg19", "cbe5617147190e668d6c5d5026f83318",
           "253f8cb515780f3b799900260a226db6", 71.3, 90.0, KERAS_VGG),
    *keras("inception_v3", "inception_v3", "9a0d58056eeedaa3f26cb7ebd46da564",
           "bcbd6486424b2319ff4ef7d526e38f63", 77.9, 93.7, KERAS_299),
    *keras("inception_resnet_v2", "inception_resnet_v2", "e693bd0210a403b3192acc6073ad2e96",
           "d19885ff4a710c122648d3b5c3b684e4", 80.3, 95.3, KERAS_299),
    slim("vgg16", "vgg_16_2016_08_28", "vgg_16.ckpt", 71.5, 89.8, SLIM_VGG),
    slim("vgg19", "vgg_19_2016_08_28", "vgg_19.ckpt", 71.1, 89.8, SLIM_VGG),
    slim("inception_v1_bn", "inception_v1_2016_08_28", "inception_v1.ckpt", 69.8, 89.6, SLIM_224),
    slim("inception_v2_slim", "inception_v2_2016_08_28", "inception_v2.ckpt", 73.9, 91.8, SLIM_224),
    slim("inception_v3", "inception_v3_2016_08_28", "inception_v3.ckpt", 78.0, 93.9, SLIM_299),
    slim("inception_v3", "adv_inception_v3_2017_08_18", "adv_inception_v3.ckpt", None, None,
         SLIM_299),
    slim("inception_v4", "inception_v4_2016_09_09", "inception_v4.ckpt", 80.2, 95.2, SLIM_299),
    slim("inception_resnet_v2", "inception_resnet_v2_2016_08_30",
         "inception_resnet_v2_2016_08_30.ckpt", 80.4, 95.3, SLIM_299),
    slim("inception_resnet_v2", "ens_adv_inception_resnet_v2_2017_08_18",
         "ens_adv_inception_resnet_v2.ckpt", None, None, SLIM_299),
    facenet("model-20180402-114759.ckpt-275", FACENET, 99.65, "vggface2", 8631),
    facenet("model-20180408-102900.ckpt-90", FACENET, 99.05, "casia", 10575),
    facenet("20180402-114759-vggface2.pt", FACENET_PORT, 99.65, "vggface2", 8631),
    facenet("20180408-102900-casia-webface.pt", FACENET_PORT, 99.05, "casia", 10575),
)
# fmt: on


def records_of(source: str, model: str) -> list[Record]:
    """The records of a source's files for a model."""
    return [record for record in RECORDS if (record.source, record.model) == (source, model)]


def find(path: Path, source: str, model: str, tag: str = "") -> tuple[Record | None, str]:
    """Looks a file up by its hash, its name or its tag.

    Returns:
        The record, or None, and what to tell the user about the match, or "".

    Raises:
        ValueError: there is no such tag, or no record at all.
    """
    rows = records_of(source, model)
    if not rows:
        raise ValueError(f"no record of {source}'s {model}: RECORDS needs one")
    tags = list(dict.fromkeys(row.tag for row in rows if row.tag))
    if tag:
        choice("model", f"{model}.{tag}", [f"{model}.{name}" for name in tags] or [model])
    kinds = {row.hash.partition(":")[0] for row in rows if row.hash} if path.is_file() else set()
    digests = {kind: digest(path, kind) for kind in kinds}

    for row in rows:
        kind, _, published = (row.hash or "").partition(":")
        if published and digests.get(kind, "").startswith(published):
            other = tag and tag != row.tag
            return row, f"{path} is {model}.{row.tag}, not {model}.{tag}" if other else ""
    name = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name)
    by_name = [row for row in rows if row.file == name]
    if len(by_name) == 1 and by_name[0].hash and digests:
        kind, _, published = by_name[0].hash.partition(":")
        published += "…" if len(published) < len(digests[kind]) else ""
        # The published accuracy does not hold for this file.
        unknown = by_name[0]._replace(hash=None, top1=None, top5=None)
        return unknown, (
            f"{path} is not the published file: "
            f"its {kind} is {digests[kind]}, the published one {published}"
        )
    # timm's files all have one name; the tag is in the name of the hub's folder.
    place = str(path.absolute())
    by_tag = [row for row in rows if row.tag and (row.tag == tag or f"{model}.{row.tag}" in place)]
    if by_tag or len(by_name) == 1:
        return (by_tag or by_name)[0], ""
    like = f"{model}.{tags[0]}" if tags else rows[0].file
    several = f" (choose by model='{model}.TAG': {', '.join(tags)})" if len(tags) > 1 else ""
    return None, (
        f"no record of {path.name}: assuming the preprocessing of {source}'s {like}{several}"
    )
