"""Batches are a pure function of (seed, step), for any number of processes and threads."""

import hashlib
import os
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.data.pictures import options, seconds_to_a_batch, write_folder
from tests.helpers import ROOT
from train import data, mix
from train.config import Augment, Data
from train.data import Arrays, Plan
from train.data.sources.folder import Files
from train.errors import UserError

EVERYTHING = Augment(
    crop="area",
    interpolation="random",
    flip=True,
    rotate=10,
    randaugment=1,
    color="slim",
    lighting=0.1,
    permute_channels=True,
    erase=0.3,
    cutout=4,
)
DIGITS = Augment(flip=True, cutout=9, rotate=12, scale=0.12, shear=0.1, shift=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"))


def arrays(count=20, shape=(28, 28, 1)):
    images = np.random.RandomState(0).randint(0, 256, (count, *shape)).astype(np.uint8)
    return Arrays(images, np.arange(count, dtype=np.int32) % 10, tuple("0123456789"))


SCALED = Augment(crop="scale", short_side=(44, 50), shift=1)
# The shape of the arrays (None: files) and the config of each case.
CASES = {
    "files": (None, Data(size=32, augment=EVERYTHING)),
    "files, nothing random": (None, Data(size=32)),
    "arrays in numpy": ((28, 28, 1), Data(augment=DIGITS)),
    "arrays by tf.data": ((32, 32, 3), Data(augment=Augment(color="slim", flip=True))),
    "arrays resized": ((28, 28, 1), Data(size=40, augment=SCALED)),
    "arrays resized, distorted": ((28, 28, 1), Data(size=40, augment=Augment(rotate=9))),
    "arrays distorted on the host": ((28, 28, 1), Data(augment=replace(DIGITS, distort="host"))),
    "arrays unchanged": ((28, 28, 1), Data()),
}


@pytest.mark.parametrize(
    "case", [pytest.param(x, marks=pytest.mark.parity) if x == "files" else x for x in CASES]
)
def test_processes_threads_and_starts_agree(root, case):
    shape, config = CASES[case]
    split = arrays(shape=shape) if shape else data.load(f"folder:{root}", "train")
    plan = Plan(len(split), 8, seed=5)

    def stream(start=0, workers=0, **share):
        options = replace(config, workers=workers)
        return list(data.train_batches(split, plan, options, start=start, stop=7, **share))

    whole = stream()
    assert len(whole) == 7
    for batch in whole:
        image, label, mask = batch["image"], batch["label"], batch["mask"]
        assert image.shape == (8, *data.image_shape(split, config)) and image.dtype == np.uint8
        assert label.shape == mask.shape == (8,) and mask.all() and label.dtype == np.int32

    def equal(actual, expected):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])

    equal(stream(workers=1), whole)
    equal(stream(workers=5), whole)
    equal(stream(start=5), whole[5:])
    for processes in (2, 4):
        shares = [stream(process=p, processes=processes) for p in range(processes)]
        joined = [
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*shares)
        ]
        equal(joined, whole)
    if case == "arrays resized, distorted":
        plain = next(data.train_batches(split, plan, Data(size=40), start=0, stop=1))
        np.testing.assert_array_equal(whole[0]["image"], plain["image"])  # the device distorts
    elif config.augment != Augment():
        other = Plan(len(split), 8, seed=6)
        batch = next(data.train_batches(split, other, config, start=0, stop=1))
        assert np.mean(batch["image"] == whole[0]["image"]) < 0.9
        # An example that occurs again is changed differently.
        examples = np.concatenate([plan.indices(step) for step in range(7)])
        for key in whole[0].keys() & {"image", "affine"}:
            again = np.concatenate([batch[key] for batch in whole])[examples == examples[0]]
            assert len(again) > 1 and (again[0] != again[1]).any()


def test_host_and_device_distort_alike():
    """The same transform of the same example; the host rounds to bytes."""
    strong = Augment(rotate=40, scale=0.3, shear=0.3, shift=5, flip=True)

    def first(place):
        config = Data(augment=replace(strong, distort=place))
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
def test_images_of_the_right_size_are_not_cropped(side, augment):
    """In numpy and in tf.data, as in evaluation, data.size then changes nothing."""
    split, plan = arrays(shape=(side, side, 1)), Plan(20, 8, 0)
    named, unnamed = (
        next(data.train_batches(split, plan, Data(size=size, augment=augment), start=0, stop=1))
        for size in (side, 0)
    )
    np.testing.assert_array_equal(named["image"], unnamed["image"])
    for image, index in zip(named["image"], plan.indices(0)):
        original = split.images[index]
        assert (image == original).all() or (image == original[:, ::-1]).all()


def test_the_host_distorts_after_a_function_that_hides_the_shape(tmp_path):
    hidden = "tf.numpy_function(lambda x: 255 - x, [image], tf.uint8)"
    code = f"import tensorflow as tf\ndef invert(image, _):\n    return {hidden}\n"
    (tmp_path / "own.py").write_text(code)
    config = Data(augment=Augment(rotate=9, distort="host", custom=f"{tmp_path / 'own.py'}:invert"))
    host = next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))
    config.augment = replace(config.augment, distort="device")
    device = next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))
    warped = mix.warp(device["image"], device["affine"])
    np.testing.assert_allclose(host["image"], warped, atol=0.52)


def test_options_without_effect_change_nothing():
    def first(**options):
        config = Data(size=40, augment=Augment(rotate=9, **options))
        return next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))["image"]

    for ineffective in ({"magnitude": 5.0}, {"area": (0.5, 1.0)}, {"short_side": (300, 300)}):
        np.testing.assert_array_equal(first(**ineffective), first())


def test_interpolation_without_a_random_crop():
    def first(interpolation):
        config = Data(size=40, augment=Augment(rotate=9, interpolation=interpolation))
        return next(data.train_batches(arrays(), Plan(20, 8, 0), config, start=0, stop=1))["image"]

    assert (first("nearest") != first("bicubic")).any()
    with pytest.raises(UserError, match="did you mean bicubic"):
        first("bicubik")


def digests(root):
    split, config = data.load(f"folder:{root}", "train"), options(root, augment=EVERYTHING)
    batches = data.train_batches(split, Plan(len(split), 8, 3), config, start=2, stop=4)
    return [hashlib.sha256(batch["image"].tobytes()).hexdigest() for batch in batches]


@pytest.mark.parity
def test_another_process_makes_the_same_bytes(root):
    code = f"from tests.data.test_pipeline import digests; print(*digests('{root}'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == digests(root), done.stderr


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 8, 12])
def test_evaluation_reads_each_example_once(root, processes, batch_size):
    split, config = data.load(f"folder:{root}", "val"), options(root, eval_batch_size=batch_size)
    parts = [
        list(data.eval_batches(split, config, process=p, processes=processes))
        for p in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1  # collectives need as many in each process
    images, labels, mask = (
        np.concatenate([batch[key] for step in zip(*parts) for batch in step])
        for key in ("image", "label", "mask")
    )
    assert mask.sum() == len(split) and mask[: len(split)].all()
    assert labels[mask].tolist() == split.labels.tolist()
    np.testing.assert_array_equal(images[mask], data.read(split, np.arange(len(split)), config))
    assert not images[~mask].any()
    assert sum(b["mask"].sum() for b in data.eval_batches(split, config, limit=3)) == 3


@pytest.mark.parity
def test_resuming_at_the_end_of_an_epoch_of_imagenet_is_as_fast_as_a_start(root):
    """The end of the 90th epoch of 1.28 million examples, and the first step, in turn."""
    few = data.load(f"folder:{root}", "train")
    repeated = [few.paths[i % len(few)] for i in range(1_281_167)]
    split = Files(few.root, repeated, np.zeros(len(repeated), np.int32), few.class_names)
    first, last = seconds_to_a_batch(split, options(root, batch_size=64), 90 * 1_281_167 // 64 - 10)
    assert last < 2 * first + 0.2


@pytest.mark.slow
def test_memory_stays_flat(root):
    """After ten thousand batches."""
    split, config = data.load(f"folder:{root}", "train"), options(root, size=16)
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
for source, size, augment in (
    ("synthetic:28x28x1/10", 32, Augment()),
    ("synthetic:28x28x1/10", 0, Augment(rotate=9, flip=True, cutout=5)),
    ("synthetic:40x40x3/5", 32, Augment()),
):
    split = data.load(source, "train")
    config = Data(source=source, size=size, augment=augment)
    next(data.train_batches(split, data.Plan(len(split), 8, 0), config, start=0, stop=1))
    next(data.eval_batches(split, config))
print("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert done.stdout.split() == ["False"], done.stderr


@pytest.mark.parity
def test_the_benchmark_of_reading():
    from train.benchmark.reading import measure, photograph

    assert 60_000 < len(photograph(0)) < 140_000
    result = measure(examples=192, rounds=1)
    assert result["train_per_second"] > 0 and 0 < result["train_over_decode"] < 3
