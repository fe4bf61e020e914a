"""Writes a network for use elsewhere, and checks what was written against the network before it says so.

python -m train.export --workdir=runs/lenet --format=stablehlo --out=lenet.stablehlo [--without-preprocessing]
python -m train.export --workdir=runs/lenet --format=onnx --out=lenet.onnx
python -m train.export --workdir=runs/lenet --format=savedmodel --out=lenet
python -m train.export --workdir=runs/lenet --format=safetensors --out=lenet.safetensors
python -m train.export --weights=vgg16.h5 --source=keras --model=vgg16 --format=onnx --out=vgg16.onnx

StableHLO, ONNX and SavedModel are programs: probabilities of images uint8 (N, H, W, C) of any number N, values included.
They run without this project, in jax, in a runtime of ONNX, in TensorFlow:
    jax.export.deserialize(bytearray(open("lenet.stablehlo", "rb").read())).call(images)
    onnxruntime.InferenceSession("lenet.onnx").run(None, {"images": images})[0]
    tensorflow.saved_model.load("lenet").signatures["serving_default"](images=images)["probabilities"]
"""

import sys
from pathlib import Path

from train import cli, errors
from train.classifier import add_weights, from_run, one_of, published
from train.errors import UserError
from train.export.programs import PROGRAMS, write_program, write_safetensors
from train.run import Run


def main(argv: list[str] | None = None) -> dict:
    parser = cli.Parser("python -m train.export", __doc__)
    add_weights(parser)
    parser.add_argument("--format", default="stablehlo", choices=[*PROGRAMS, "safetensors"])
    parser.add_argument(
        "--out", required=True, help="the file to write, or the folder of a SavedModel"
    )
    parser.add_argument(
        "--without-preprocessing",
        action="store_true",
        help="a program that reads what the network reads",
    )
    args = parser.parse_args(argv)
    one_of(args, "workdir", "weights")
    if len(args.workdir) + len(args.weights) != 1:
        raise UserError("an export is of one network")
    if args.workdir:
        seen = from_run(Run(args.workdir[0]), args.step, raw=args.raw, dtype=args.dtype, source="-")
    else:
        (seen,) = published(args)
    if not Path(args.out).resolve().parent.is_dir():
        raise UserError(f"--out={args.out}: there is no such folder")
    if args.format == "safetensors":
        return write_safetensors(args.out, seen)
    return write_program(args.out, args.format, seen, not args.without_preprocessing)


if __name__ == "__main__":
    sys.exit(errors.run(main))
