"""Writes a network for use elsewhere, after a check that it gives the network's answers there.

python -m train.export --workdir=runs/lenet --format=stablehlo --out=lenet.stablehlo
python -m train.export --workdir=runs/lenet --format=onnx --out=lenet.onnx
python -m train.export --workdir=runs/lenet --format=savedmodel --out=lenet
python -m train.export --workdir=runs/lenet --format=safetensors --out=lenet.safetensors
python -m train.export --weights=vgg16.h5 --source=keras --model=vgg16 --format=onnx --out=vgg.onnx

StableHLO, ONNX and SavedModel are programs: uint8 images (N, H, W, C) of any number N to
probabilities, values included. They run without this project, in jax, ONNX runtimes, TensorFlow:
    jax.export.deserialize(bytearray(open("lenet.stablehlo", "rb").read())).call(images)
    onnxruntime.InferenceSession("lenet.onnx").run(None, {"images": images})[0]
    tensorflow.saved_model.load("lenet").signatures["serving_default"](images=images)
"""

import sys
from pathlib import Path

from train import cli, errors
from train.classifier import TRANSFORM, add_weights, one_classifier
from train.errors import UserError
from train.export.programs import PROGRAMS, write_program, write_safetensors


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.export", __doc__)
    add_weights(parser)
    add = parser.add_argument
    add("--format", default="stablehlo", choices=[*PROGRAMS, "safetensors"])
    add("--out", required=True, help="the file to write, or the folder of a SavedModel")
    add(
        "--without-preprocessing",
        action="store_true",
        help="a program of what the network reads, instead of uint8 images",
    )
    parser.no_effect(
        "with --format=safetensors: the file holds the values, not a program",
        lambda args: args.format == "safetensors",
        *("--without-preprocessing", "--dtype"),
    )
    parser.no_effect(
        "with --format=onnx, which computes in float32",
        lambda args: args.format == "onnx",
        "--dtype",
    )
    parser.no_effect(
        "on a program, which reads images of its size and has no names",
        lambda args: args.format in PROGRAMS,
        *("--class-names", *TRANSFORM),
    )
    args = parser.parse_args(argv)
    classifier = one_classifier(args)
    if not Path(args.out).resolve().parent.is_dir():
        raise UserError(f"--out={args.out}: there is no such folder")
    if args.format == "safetensors":
        return write_safetensors(args.out, classifier)
    return write_program(args.out, args.format, classifier, not args.without_preprocessing)


if __name__ == "__main__":
    sys.exit(errors.run(main))
