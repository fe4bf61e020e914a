"""Writes a network for use elsewhere, after a check that it gives the network's answers there.

python -m train.export --workdir=runs/lenet --format=stablehlo --out=lenet.stablehlo
python -m train.export --workdir=runs/lenet --format=onnx --out=lenet.onnx
python -m train.export --workdir=runs/lenet --format=savedmodel --out=lenet
python -m train.export --workdir=runs/lenet --format=safetensors --out=lenet.safetensors
python -m train.export --workdir=runs/v3 --format=torchvision --out=inception_v3.pth
python -m train.export --pretrained=keras/vgg16 --format=onnx --out=vgg.onnx
python -m train.export --workdir=runs/lenet --format=tflite_int8 --out=lenet.tflite

torchvision, timm, keras, slim and facenet are files of values that the publishers' own code loads.

StableHLO, ONNX, SavedModel and TFLite are programs: uint8 images (N, H, W, C) of any number N to
probabilities, values included. They run without this project, in jax, ONNX runtimes, TensorFlow:
    jax.export.deserialize(bytearray(open("lenet.stablehlo", "rb").read())).call(images)
    onnxruntime.InferenceSession("lenet.onnx").run(None, {"images": images})[0]
    tensorflow.saved_model.load("lenet").signatures["serving_default"](images=images)
tflite_int8 computes in 8 bits. It needs typical images: those that the run trained on, or --data.
"""

import argparse
import sys
from pathlib import Path

from cnnjax.weights.export import WRITERS
from train import cli, data, errors
from train.errors import CheckpointError, UserError
from train.export.files import write_published, write_safetensors
from train.export.programs import PROGRAMS, typical_images, write_program
from train.options import TRANSFORM, add_weights, one_classifier
from train.own import HANDED
from train.run import Run

FILES = ("safetensors", *WRITERS)


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.export", __doc__)
    add_weights(parser)
    add = parser.add_argument
    add("--format", default="stablehlo", choices=[*PROGRAMS, *FILES])
    add("--out", required=True, help="the file to write, or the folder of a SavedModel")
    add(
        "--without-preprocessing",
        action="store_true",
        help="a program of what the network reads, instead of uint8 images",
    )
    add("--data", default="", help="tflite_int8: typical images, a data.source of a config")
    parser.no_effect(
        "without --format=tflite_int8", lambda args: args.format != "tflite_int8", "--data"
    )
    parser.no_effect(
        "on a file of values, which is no program",
        lambda args: args.format in FILES,
        *("--without-preprocessing", "--dtype"),
    )
    parser.no_effect(
        "with this --format, which computes in float32",
        lambda args: args.format in PROGRAMS and args.format != "stablehlo",
        "--dtype",
    )
    parser.no_effect(
        "on a program, which reads images of its size and has no names",
        lambda args: args.format in PROGRAMS,
        *("--class-names", *TRANSFORM),
    )
    parser.no_effect(
        "on a publisher's file, which has no place for it",
        lambda args: args.format in WRITERS,
        *("--class-names", *TRANSFORM),
    )
    args = parser.parse_args(argv)
    if not Path(args.out).resolve().parent.is_dir():
        raise UserError(f"--out={args.out}: there is no such folder")
    if args.format != "savedmodel" and Path(args.out).is_dir():
        raise UserError(f"--out={args.out} is a folder: name a file")
    classifier = one_classifier(args)
    try:
        if args.format == "safetensors":
            return write_safetensors(args.out, classifier)
        if args.format in FILES:
            return write_published(args.out, args.format, classifier)
        images = None
        if args.format == "tflite_int8":
            images = typical_images(classifier, typical(args))
        return write_program(
            args.out, args.format, classifier, not args.without_preprocessing, images
        )
    except OSError as error:
        raise CheckpointError(f"--out={args.out}: {error.strerror or error}") from None


def typical(args: argparse.Namespace) -> data.Split:
    """The images that show the ranges of values for 8 bits: the run's own, or those of --data."""
    if args.data:
        return data.load(args.data, "train")
    if not args.workdir:
        raise UserError("--format=tflite_int8 needs --data=SOURCE: folder:DIR, npz:FILE, …")
    run = Run(args.workdir[0])
    own = run.config.data.source == HANDED  # of which the images of the evaluation are kept
    return run.load_split("" if own else run.config.data.train_split)


if __name__ == "__main__":
    sys.exit(errors.run(main))
