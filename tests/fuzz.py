"""Wrong inputs at random: each has to end well, or in a sentence with a documented exit code.

python -m tests.fuzz --inputs=1000 [--seed=0] [--jobs=2] [--kinds=options,commands,folders,…]

An input that raises anything else, or takes more than five minutes, is printed with its seed, which
alone makes it again: `--seed=17 --inputs=1`. The exit code is 1 if there was any.

Each process runs many inputs, and compiled programs are kept on disk: what an input costs is
tracing, not compiling.

One generator of inputs for each kind.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
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
from concurrent.futures import ProcessPoolExecutor, as_completed
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
from train.export import programs
from train.export.__main__ import main as export
from train.report.__main__ import main as report

LIMIT = 300  # seconds for one input, on a busy machine

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
FEW = "--images=8"  # examples in a report
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
        self.run, self.photos = folder / "ground/run", folder / "ground/photos"
        self.weights = folder / "ground/lenet5.safetensors"
        self.input = folder / f"input-{os.getpid()}"  # where an input is

    def make(self) -> None:
        """Once, for all processes."""
        train([RECIPE, *SHORT, f"--workdir={self.run}"])
        rng = np.random.default_rng(0)
        for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
            (self.photos / name).mkdir(parents=True)
            for number in range(4):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.photos / name / f"{number}.png")
        model = cnnjax.create_model("lenet5")
        variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
        preprocessing = cnnjax.weights.Preprocessing(32, channels="L")
        own = cnnjax.weights.Pretrained(model, variables, preprocessing, name="lenet5")
        cnnjax.weights.save(self.weights, own)

    def copy(self, of: Path) -> Path:
        place = self.input / of.name
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
    return override, lambda: train([RECIPE, *SHORT, override, f"--workdir={ground.input}/run"])


def commands(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """An option of a command with a value that may be wrong."""
    name = dice.choice(sorted(COMMANDS))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        COMMANDS[name](["--help"])
    flags = sorted({*re.findall(r"(?<![\w-])--[a-z][a-z_-]+", out.getvalue())} - NO_LONGER_RUN)
    wrong = f"{dice.choice(flags)}={dice.choice(VALUES)}"
    arguments = [f"--workdir={ground.copy(ground.run)}"]
    if name == "train":
        arguments += [RECIPE, *SHORT]
    if name == "predict":
        arguments.append(str(ground.photos / "val/cat/0.png"))
    if name == "export":
        arguments.append(f"--out={ground.input}/program")
    if name == "report":
        arguments.append(FEW)
    return f"{name} {wrong}", lambda: COMMANDS[name]([*arguments, wrong])


def folders(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """A run folder of which one file is damaged."""
    run = ground.copy(ground.run)
    what = damage(dice.choice(sorted(p for p in run.rglob("*") if p.is_file())), dice)
    name = dice.choice(["train", "evaluate", "evaluate", "train", "evaluate", "report"])
    arguments = {"train": [RECIPE, *SHORT], "report": [FEW]}.get(name, [])
    return f"{what}, then {name}", lambda: COMMANDS[name]([*arguments, f"--workdir={run}"])


def images(ground: Ground, dice: random.Random) -> tuple[str, Callable]:
    """A folder of photographs of which one is damaged, in one of several formats."""
    photos = ground.copy(ground.photos)
    kind = dice.choice(["png", "jpeg", "gif", "bmp", "tiff", "webp"])
    target = photos / dice.choice(["train", "train", "val"]) / f"cat/9.{kind}"
    Image.open(photos / "val/cat/0.png").save(target)
    what = damage(target, dice)
    if dice.random() < 0.5:
        return f"{what}, then check", lambda: data(["check", str(photos)])
    bad = dice.choice(["error", "skip"])
    arguments = [
        *(RECIPE, *SHORT, f"--config.data.source=folder:{photos}", "--config.data.size=28"),
        *("--config.data.channels=1", f"--config.data.on_bad_image={bad}"),
        *("--config.data.batch_size=4", "--config.epochs=1", "--config.model.num_classes=0"),
        f"--workdir={ground.input}/run",
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


_ground: list[Ground] = []  # of this process


def prepare(folder: Path) -> Ground:
    """Prepares a process for inputs."""
    for key, value in {
        "jax_platforms": "cpu",
        "jax_compilation_cache_dir": str(folder / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(key, value)
    # An exported program is checked in a process of its own, whatever the input was.
    programs.check_elsewhere = lambda *_, **__: {"difference": 0.0, "agreement": 1.0}
    os.environ["HOME"] = str(folder)
    os.chdir(folder)
    _ground[:] = [Ground(folder)]
    return _ground[0]


def one(kind: str, seed: int) -> tuple[int, str, str, str, str, float]:
    """(seed, kind, description, code, sentence, seconds of computing) of one input."""
    (ground,) = _ground
    shutil.rmtree(ground.input, ignore_errors=True)
    ground.input.mkdir()
    began = time.process_time()
    description, run = KINDS[kind](ground, random.Random(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, said = outcome(run)
    if code not in ("0", "fault") and (not said.strip() or "Traceback" in said):
        code = "fault"
    return seed, kind, description, code, said, time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--kinds", default=",".join(KINDS))
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    codes: Counter[str] = Counter()
    costs: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder).make()
        pool = ProcessPoolExecutor(
            args.jobs, multiprocessing.get_context("spawn"), prepare, (folder,)
        )
        with pool:
            seeds = range(args.seed, args.seed + args.inputs)
            futures = [pool.submit(one, kinds[seed % len(kinds)], seed) for seed in seeds]
            for future in as_completed(futures):
                seed, kind, description, code, said, seconds = future.result()
                codes[code] += 1
                costs[kind] += seconds
                if code == "fault":
                    text = f"--seed={seed} {kind}: {description!r}\n{said}"
                    print(text, file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - began)
    cost = {kind: round(costs[kind]) for kind in kinds}
    result = {"inputs": args.inputs, "codes": dict(codes), "seconds": seconds, "computing": cost}
    print(json.dumps(result))
    return 1 if codes["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
