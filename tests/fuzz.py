"""Wrong inputs at random: each has to end well, or in a sentence with a documented exit code.

python -m tests.fuzz --inputs=1000 [--seed=0] [--kinds=options,commands,folders,images,weights]

An input that raises anything else, or takes more than two minutes, is printed with its seed, which
alone makes it again: `--seed=17 --inputs=1`. The exit code is 1 if there was any.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import cnnjax
from tests.helpers import ROOT
from train import predict, recipe
from train.__main__ import main as train
from train.config import describe
from train.data.__main__ import main as data
from train.errors import UserError
from train.evaluate.__main__ import main as evaluate
from train.export.__main__ import main as export
from train.report.__main__ import main as report

LIMIT = 120  # seconds for one input; a report takes ten

RECIPE = f"--config={ROOT}/configs/lenet_mnist.py"
SHORT = [
    "--config.data.source=synthetic:28x28x1/10",
    "--config.data.batch_size=32",
    "--config.data.eval_batch_size=32",
    "--config.epochs=0.02",
    "--config.optim.warmup=0",
    "--config.parallel.devices=1",
    "--config.parallel.compile_cache=",
]
VALUES = [
    *("", "-1", "0", "1", "3", "0.5", "-0.0", "1e999", "-1e999", "nan", "1e-400", "9" * 30),
    *(
        "None",
        "true",
        "yes",
        "x",
        "x" * 999,
        "é\u202e",
        "0x10",
        "1_000",
        "٣",
        "\udcff",
        "../..",
        "~",
    ),
    *("()", "(1,)", "(1,2)", "(2,1)", "('a',)", "(nan,)", "(1", "[]", "{}", "(1,(2,))", "('=',)"),
    *("/dev/null", "/dev/zero", "/", "/nonexistent/x", "folder:", "npz:", "tfds:", "a:b", "(,)"),
]
COMMANDS: dict[str, Callable] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict.main,
    "report": report,
    "export": export,
}
NO_LONGER_RUN = {"--watch", "--coordinator", "--help"}  # they wait, as they should


class Ground:
    """What the inputs are made from: a finished run, photographs, a file of weights."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run = folder / "ground" / "run"
        train([RECIPE, *SHORT, f"--workdir={self.run}"])
        self.photos = folder / "ground" / "photos"
        rng = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (self.photos / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.photos / name / f"{number}.png")
        self.weights = folder / "ground" / "lenet5.safetensors"
        model = cnnjax.create_model("lenet5")
        variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
        preprocessing = cnnjax.weights.Preprocessing(32, channels="L")
        own = cnnjax.weights.Pretrained(model, variables, preprocessing, name="lenet5")
        cnnjax.weights.save(self.weights, own)

    def copy(self, of: Path) -> Path:
        place = self.folder / "input" / of.name
        place.parent.mkdir(exist_ok=True)
        copy: Callable = shutil.copytree if of.is_dir() else shutil.copy
        copy(of, place)
        return place


def damage(path: Path, dice: random.Random) -> str:
    """Does something to a file; returns what."""
    content = bytearray(path.read_bytes())
    what = dice.choice(["cut", "flip", "splice", "empty", "gone", "folder", "pipe", "loop", "text"])
    if what == "cut":
        path.write_bytes(content[: dice.randrange(len(content) + 1)])
    elif what == "flip" and content:
        for _ in range(dice.choice([1, 8, 200])):
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)
    elif what == "splice":
        at = dice.randrange(len(content) + 1)
        path.write_bytes(content[:at] + dice.randbytes(dice.choice([1, 40])) + content[at:])
    elif what == "text":
        texts = ["null", "[]", "3", '{"a": 1}', "{}\n[]\n", "\ufeff{}", "%!PS-Adobe", "NaN", "{"]
        path.write_text(dice.choice(texts))
    else:
        path.unlink()
        if what == "empty":
            path.touch()
        elif what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "loop":
            path.symlink_to(path.name)
    return f"{what} {path.name}"


# Each kind makes one input, and returns what it is and what runs it.


def options(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """An option of a recipe with a value that may be wrong."""
    flag, _, _ = dice.choice(describe())
    override = f"{flag}={dice.choice(VALUES)}"
    if dice.random() < 0.7:
        return override, lambda: recipe.load(RECIPE.removeprefix("--config="), [*SHORT, override])
    return override, lambda: train(
        [RECIPE, *SHORT, override, f"--workdir={ground.folder}/input/run"]
    )


def commands(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """An option of a command with a value that may be wrong."""
    name = dice.choice(sorted(COMMANDS))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        COMMANDS[name](["--help"])
    flags = sorted({*re.findall(r"(?<![\w-])--[a-z][a-z_-]+", out.getvalue())} - NO_LONGER_RUN)
    wrong = f"{dice.choice(flags)}={dice.choice(VALUES)}"
    arguments = [wrong, f"--workdir={ground.copy(ground.run)}"]
    if name == "train":
        arguments += [RECIPE, *SHORT]
    if name == "predict":
        arguments.append(str(ground.photos / "cat/0.png"))
    if name == "export":
        arguments.append(f"--out={ground.folder}/input/program")
    return f"{name} {wrong}", lambda: COMMANDS[name](arguments)


def folders(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """A run folder of which one file is damaged."""
    run = ground.copy(ground.run)
    what = damage(dice.choice(sorted(p for p in run.rglob("*") if p.is_file())), dice)
    name = dice.choice(["train", "evaluate", "evaluate", "train", "evaluate", "report"])
    arguments = [RECIPE, *SHORT] if name == "train" else []
    return f"{what}, then {name}", lambda: COMMANDS[name]([*arguments, f"--workdir={run}"])


def images(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """A folder of photographs of which one is damaged, in one of several formats."""
    photos = ground.copy(ground.photos)
    kind = dice.choice(["png", "jpeg", "gif", "bmp", "tiff", "webp"])
    target = photos / "cat" / f"9.{kind}"
    Image.open(photos / "cat/0.png").save(target)
    what = damage(target, dice)
    if dice.random() < 0.5:
        return f"{what}, then check", lambda: data(["check", f"folder:{photos}"])
    bad = dice.choice(["error", "skip"])
    arguments = [
        *(RECIPE, *SHORT, f"--config.data.source=folder:{photos}", "--config.data.size=28"),
        *("--config.data.channels=1", f"--config.data.on_bad_image={bad}"),
        *("--config.data.batch_size=4", "--config.epochs=1", "--config.model.num_classes=0"),
        f"--workdir={ground.folder}/input/run",
    ]
    return f"{what}, then train with {bad}", lambda: train(arguments)


def weights(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """A file of weights that is damaged, under the name that a publisher would give it."""
    path = ground.copy(ground.weights)
    what = damage(path, dice)
    source, suffix = dice.choice(
        [("cnnjax", ".safetensors")] * 4
        + [("timm", ".safetensors"), ("torchvision", ".pth"), ("keras", ".h5"), ("slim", ".ckpt")]
    )
    if path.exists() and not path.is_symlink():
        path = path.rename(path.with_suffix(suffix))
    model = None if source == "cnnjax" else "inception_v3"
    return f"{what} as {suffix} of {source}", lambda: cnnjax.weights.load(path, model, source)


KINDS = {f.__name__: f for f in (options, commands, folders, images, weights)}
# What a command or a function documents; WeightsError is a ValueError.
DOCUMENTED = (UserError, ValueError)


def outcome(run: Callable) -> tuple[str, str]:
    """('0', ''), (exit code, sentence) or ('fault', traceback)."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {LIMIT} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run()
        return "0", ""
    except SystemExit as error:
        return f"{error.code}", said.getvalue()[-200:]
    except UserError as error:
        return f"{error.exit_code}", str(error)
    except cnnjax.weights.WeightsError as error:
        return "4", str(error)
    except Exception:
        return "fault", traceback.format_exc()
    finally:
        signal.alarm(0)


def one(ground: Ground, kind: str, seed: int) -> tuple[str, str, str]:
    """(description, code, sentence) of one input."""
    place = ground.folder / "input"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    description, run = KINDS[kind](ground, random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, said = outcome(run)
    if code not in ("0", "fault") and (not said.strip() or "Traceback" in said):
        code = "fault"
    return description, code, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    jax.config.update("jax_platforms", "cpu")
    codes: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        os.chdir(folder)
        ground = Ground(Path(folder))
        for seed in range(args.seed, args.seed + args.inputs):
            kind = kinds[seed % len(kinds)]
            description, code, said = one(ground, kind, seed)
            codes[code] += 1
            if code == "fault":
                print(f"--seed={seed} {kind}: {description!r}\n{said}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began)
    print(json.dumps({"inputs": args.inputs, "codes": dict(codes), "seconds": seconds}))
    return 1 if codes["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
