"""Batches are a pure function of (seed, step): on any number of processes, threads and starts, at once, in flat memory."""

import hashlib
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.data.pictures import options, write_folder
from tests.helpers import ROOT
from train import data, mix
from train.config import Augment, Data
from train.data import Arrays, Plan
from train.data.sources.folder import Files
from train.errors import UserError

EVERYTHING = Augment(
    crop="area", interpolation="random", flip=True, rotate=10, randaugment=1, color="slim", lighting=0.1,
    permute_channels=True, erase=0.3, cutout=4,
)  # fmt: skip
DIGITS = Augment(flip=True, cutout=9, rotate=12, scale=0.12, shear=0.1, shift=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"))


def arrays(count=20, shape=(28, 28, 1)):
    images = np.random.RandomState(0).randint(0, 256, (count, *shape)).astype(np.uint8)
    return Arrays(images, np.arange(count, dtype=np.int32) % 10, tuple("0123456789"))


def cases(root):
    return {
        "files": (data.load(f"folder:{root}", "train"), options(root, augment=EVERYTHING)),
        "files, no chance": (
            data.load(f"folder:{root}", "train"),
            options(root, augment=Augment()),
        ),
        "arrays in numpy": (arrays(), Data(augment=DIGITS)),
        "arrays by tf.data": (
            arrays(shape=(32, 32, 3)),
            Data(augment=Augment(color="slim", flip=True)),
        ),
        "arrays resized": (
            arrays(),
            Data(size=40, augment=Augment(crop="scale", short_side=(44, 50), shift=1)),
        ),
        "arrays resized, distorted": (arrays(), Data(size=40, augment=Augment(rotate=9))),
        "arrays distorted on the host": (arrays(), Data(augment=replace(DIGITS, distort="host"))),
        "arrays as they are": (arrays(), Data()),
    }


CASES = [
    "files",
    "files, no chance",
    "arrays in numpy",
    "arrays by tf.data",
    "arrays resized",
    "arrays resized, distorted",
    "arrays distorted on the host",
    "arrays as they are",
]


@pytest.mark.parametrize("case", CASES)
def test_processes_threads_and_starts_agree(root, case):
    split, config = cases(root)[case]
    plan = Plan(len(split), 8, seed=5)

    def stream(start=0, workers=0, **share):
        config.workers = workers
        return list(data.train_batches(split, plan, config, start=start, stop=7, **share))

    whole = stream()
    assert len(whole) == 7
    for batch in whole:
        assert (
            batch["image"].shape == (8, *data.image_shape(split, config))
            and batch["image"].dtype == np.uint8
        )
        assert (
            batch["label"].shape == batch["mask"].shape == (8,)
            and batch["mask"].all()
            and batch["label"].dtype == np.int32
        )

    def equal(ours, theirs):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])

    equal(stream(workers=1), whole)
    equal(stream(workers=5), whole)
    equal(stream(start=5), whole[5:])
    for processes in (2, 4):
        shares = [stream(process=p, processes=processes) for p in range(processes)]
        equal(
            [
                {key: np.concatenate([b[key] for b in row]) for key in row[0]}
                for row in zip(*shares)
            ],
            whole,
        )
    if case == "arrays resized, distorted":
        plain = next(data.train_batches(split, plan, Data(size=40), start=0, stop=1))
        np.testing.assert_array_equal(
            whole[0]["image"], plain["image"]
        )  # the distortion is the device's
    elif config.augment != Augment():
        other = Plan(len(split), 8, seed=6)
        batch = next(data.train_batches(split, other, config, start=0, stop=1))
        assert np.mean(batch["image"] == whole[0]["image"]) < 0.9
        examples = np.concatenate([plan.indices(step) for step in range(7)])
        for key in whole[0].keys() & {
            "image",
            "affine",
        }:  # the same example, changed in another way
            again = np.concatenate([batch[key] for batch in whole])[examples == examples[0]]
            assert len(again) > 1 and (again[0] != again[1]).any()


def test_host_and_device_distort_alike():
    """The same example by the same transform, to the rounding of the bytes that the host gives."""
    wild = Augment(rotate=40, scale=0.3, shear=0.3, shift=5, flip=True)

    def first(where):
        config = Data(augment=replace(wild, distort=where))
        return next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))

    device, host = first("device"), first("host")
    assert set(device) - set(host) == {"affine"}
    warped = np.asarray(mix.warp(device["image"], device["affine"]))
    assert (warped != device["image"]).mean() > 0.9
    np.testing.assert_allclose(host["image"], warped, atol=0.52)


@pytest.mark.parametrize(
    ("side", "augment"),
    [
        (28, Augment(flip=True)),
        (64, Augment(flip=True)),
        (28, Augment(flip=True, distort="host", rotate=1e-6)),
    ],
)
def test_images_that_have_the_size_are_not_cropped(side, augment):
    """In numpy and in tf.data: said or not, the size changes nothing, as in evaluation."""
    split, plan = arrays(shape=(side, side, 1)), Plan(20, 8, 0)
    named, unnamed = (
        next(data.train_batches(split, plan, Data(size=size, augment=augment), start=0, stop=1))
        for size in (side, 0)
    )
    np.testing.assert_array_equal(named["image"], unnamed["image"])
    for image, index in zip(named["image"], plan.indices(0)):
        original = split.images[index]
        assert (image == original).all() or (image == original[:, ::-1]).all()


def test_the_host_distorts_behind_a_function_that_hides_the_shape(tmp_path):
    hidden = "tf.numpy_function(lambda x: 255 - x, [image], tf.uint8)"
    code = f"import tensorflow as tf\ndef invert(image, _):\n    return {hidden}\n"
    (tmp_path / "own.py").write_text(code)
    config = Data(augment=Augment(rotate=9, distort="host", custom=f"{tmp_path / 'own.py'}:invert"))
    ours = next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))
    config.augment = replace(config.augment, distort="device")
    theirs = next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))
    np.testing.assert_allclose(
        ours["image"], mix.warp(theirs["image"], theirs["affine"]), atol=0.52
    )


def test_options_without_effect_change_nothing():
    def first(**options):
        config = Data(size=40, augment=Augment(rotate=9, **options))
        return next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))["image"]

    for ineffective in ({"magnitude": 5.0}, {"area": (0.5, 1.0)}, {"short_side": (300, 300)}):
        np.testing.assert_array_equal(first(**ineffective), first())


def test_an_interpolation_is_heeded_without_a_random_crop():
    def first(interpolation):
        config = Data(size=40, augment=Augment(rotate=9, interpolation=interpolation))
        return next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))["image"]

    assert (first("nearest") != first("bicubic")).any()
    with pytest.raises(UserError, match="did you mean bicubic"):
        first("bicubik")


def test_another_process_makes_the_same_bytes(root):
    code = f"""
import hashlib
from tests.data.pictures import options
from tests.data.test_pipeline import EVERYTHING
from train import data
split = data.load("folder:{root}", "train")
batches = data.train_batches(split, data.Plan(len(split), 8, 3), options("{root}", augment=EVERYTHING), start=2, stop=4)
print(*[hashlib.sha256(b["image"].tobytes()).hexdigest() for b in batches])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    split = data.load(f"folder:{root}", "train")
    batches = data.train_batches(
        split, Plan(len(split), 8, 3), options(root, augment=EVERYTHING), start=2, stop=4
    )
    assert done.stdout.split() == [
        hashlib.sha256(b["image"].tobytes()).hexdigest() for b in batches
    ], done.stderr


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 12])
def test_evaluation_covers_each_example_once(root, processes, batch_size):
    split, config = data.load(f"folder:{root}", "val"), options(root, eval_batch_size=batch_size)
    parts = [
        list(data.eval_batches(split, config, process=p, processes=processes))
        for p in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1  # or the collectives of one would wait for ever
    whole = [
        np.concatenate([b[key] for step in zip(*parts) for b in step])
        for key in ("image", "label", "mask")
    ]
    images, labels, mask = whole
    assert mask.sum() == len(split) and mask[: len(split)].all()
    assert labels[mask].tolist() == split.labels.tolist()
    np.testing.assert_array_equal(images[mask], data.read(split, np.arange(len(split)), config))
    assert not images[~mask].any()
    assert sum(b["mask"].sum() for b in data.eval_batches(split, config, limit=3)) == 3


def test_resuming_at_the_end_of_an_epoch_of_imagenet_starts_within_a_second(root):
    """The position is all there is: 1.28 million examples, of which the last batches of the 90th epoch come next."""
    few = data.load(f"folder:{root}", "train")
    repeated = [few.paths[i % len(few)] for i in range(1_281_167)]
    split = Files(few.root, repeated, np.zeros(len(repeated), np.int32), few.class_names)
    config = options(root, batch_size=64)
    list(
        data.train_batches(few, Plan(len(few), 8, 0), config, start=0, stop=1)
    )  # TensorFlow is loaded, and warm
    best, steps = 9.0, 1_281_167 // 64
    for attempt in range(4):  # other processes may be busy
        step = 90 * steps - 10 + attempt
        began = time.perf_counter()
        plan = Plan(len(split), 64, seed=1)
        batch = next(data.train_batches(split, plan, config, start=step, stop=step + 1))
        best = min(best, time.perf_counter() - began)
        assert len(batch["label"]) == 64
        if best < 1:
            break
    assert best < 1


def test_memory_stays_flat(root):
    """Ten thousand batches leave nothing behind."""
    split, config = (
        data.load(f"folder:{root}", "train"),
        options(root, size=16, augment=Augment(crop="area", flip=True)),
    )
    plan = Plan(len(split), 4, seed=0)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    def run(steps):
        for _ in data.train_batches(split, plan, config, start=0, stop=steps):
            pass

    run(500)
    before = resident()
    run(10_000)
    assert resident() - before < 30


def test_arrays_need_no_tensorflow():
    code = """
import sys
import numpy as np
from train import data
from train.config import Augment, Data
for source, augment in (("synthetic:28x28x1/10", Augment()), ("synthetic:28x28x1/10", Augment(rotate=9, flip=True, cutout=5)),
                        ("synthetic:40x40x3/5", Augment())):
    split = data.load(source, "train")
    config = Data(source=source, augment=augment, size=0 if augment != Augment() else 32)
    next(data.train_batches(split, data.Plan(len(split), 8, 0), config, start=0, stop=1))
    next(data.eval_batches(split, config))
print("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert done.stdout.split() == ["False"], done.stderr


def test_the_throughput_of_the_data_is_measured():
    from train.benchmark.reading import measure, photograph

    assert 60_000 < len(photograph(0)) < 140_000
    result = measure(examples=192, rounds=1)
    assert result["train_per_second"] > 0 and 0 < result["train_over_decode"] < 3
