"""Data that was once read wrongly without a word, or that ended in a traceback or a hang.

Short cases of one kind, in one place: a new one is put beside its siblings.
"""

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cnnjax.images import BadImage, decode
from tests.data.pictures import encoded, options, photo
from tests.helpers import ROOT
from train import data
from train.config import Augment, Config, Data
from train.data import Plan, look
from train.data.decode import decode_as_training
from train.data.prepare import shrink
from train.data.sources import arrays, folder
from train.errors import DataError, UserError

JPEG = encoded(photo())
GREY = photo(channels=1)[..., 0]


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(JPEG)
    return root


def load(root, split="train"):
    return data.load(f"folder:{root}", split)


# Folders


@pytest.mark.parametrize(
    ("train", "held_out", "split"),
    [
        ("Training", "Testing", "test"),
        ("TRAIN", "VAL", "val"),
        ("train", "valid", "valid"),
        ("train", "valid", "val"),
        ("train", "dev", "test"),
        ("training", "Validation", "dev"),
    ],
)
def test_splits_are_known_in_any_case_and_by_synonyms(tmp_path, train, held_out, split):
    write(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{held_out}/dog/2.jpg")
    assert load(tmp_path).class_names == ("cat", "dog")
    assert load(tmp_path).root == f"{tmp_path}/{train}"
    assert load(tmp_path, split).name(0) == f"{tmp_path}/{held_out}/dog/2.jpg"
    assert load(tmp_path, split).labels.tolist() == [1]


def test_a_split_of_the_same_kind_comes_before_another(tmp_path):
    write(tmp_path, *(f"{split}/cat/1.jpg" for split in ("train", "valid", "Test")))
    assert load(tmp_path, "val").root.endswith("valid")
    assert load(tmp_path, "test").root.endswith("Test")
    write(tmp_path, "dev/cat/1.jpg")
    with pytest.raises(DataError, match="has dev and valid: which of them is 'val'"):
        load(tmp_path, "val")


def test_a_class_called_train(tmp_path):
    write(tmp_path, *(f"{name}/{i}.jpg" for name in ("bus", "car", "train") for i in range(30)))
    assert load(tmp_path).class_names == ("bus", "car", "train")


def test_folders_of_splits_without_train_are_no_classes(tmp_path):
    write(tmp_path, "val/cat/1.jpg", "test/cat/1.jpg")
    with pytest.raises(DataError, match="has test and val, but no folder train"):
        load(tmp_path)


@pytest.mark.parametrize("above", ["", "train/"])
def test_one_level_too_many_is_refused(tmp_path, above):
    write(tmp_path, *(f"{above}flowers/{name}/{i}.jpg" for name in ("cat", "dog") for i in (1, 2)))
    with pytest.raises(DataError, match=r"one class, flowers, with folders below it \(cat, dog\)"):
        load(tmp_path)
    write(tmp_path, f"{above}flowers/1.jpg")
    assert load(tmp_path).class_names == ("flowers",)


def test_suffixes_of_jpeg_are_read_and_others_counted(tmp_path, capsys):
    write(tmp_path, *(f"train/cat/{n}" for n in ("1.jfif", "2.JPE", "3.heic", "4.heic", "5.txt")))
    for _ in range(2):
        assert load(tmp_path).paths == ["cat/1.jfif", "cat/2.JPE"]
    err = capsys.readouterr().err
    assert err.count("left out: 3 (") == 1 and "(2 .heic, 1 .txt)" in err
    assert look.check(f"{tmp_path}/")["left_out"] == 3
    assert capsys.readouterr().err.count("left out: 3 (") == 1


def test_a_class_is_never_held_out_entirely(tmp_path):
    names = [f"class{k}" for k in range(40)]
    write(tmp_path, *(f"{name}/only.jpg" for name in names), *(f"many/{i}.jpg" for i in range(40)))
    train, test = load(tmp_path), load(tmp_path, "test")
    assert set(train.labels.tolist()) == set(range(41)) and set(test.labels.tolist()) == {40}


def test_an_empty_split_is_named(tmp_path):
    write(tmp_path, "cat/a.jpg", "dog/a.jpg")
    with pytest.raises(DataError, match="to hold out a fifth for the split 'test'"):
        load(tmp_path, "test")
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    with pytest.raises(DataError, match=r"the split 'val' of npz:\S+ has no examples"):
        data.load(f"npz:{tmp_path}/a.npz", "val")


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "photos", "train/cat/1.jpg")
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 2)
    assert load("~/photos").name(0) == f"{tmp_path}/photos/train/cat/1.jpg"
    assert len(data.load("npz:~/a.npz", "train")) == 2
    assert look.check("~/photos")["images"] == 1


def special(root):
    """Names of images that are not files; opening the first or the last would never end."""
    os.mkfifo(root / "fifo.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "nothing.jpg").symlink_to("no")
    (root / "zero.jpg").symlink_to("/dev/zero")
    return ["fifo.jpg", "loop.jpg", "nothing.jpg", "zero.jpg"]


@pytest.mark.parametrize("augment", [Augment(), Augment(crop="area")], ids=["threads", "tf.data"])
def test_what_is_no_file_is_named_and_never_opened(tmp_path, augment, capsys):
    write(tmp_path, *(f"train/cat/{i}.jpg" for i in range(4)), "train/dog/1.jpg")
    names = {f"{tmp_path}/train/cat/{name}" for name in special(tmp_path / "train/cat")}
    split, plan = load(tmp_path), Plan(9, 9, 0)
    config = options(tmp_path, on_bad_image="skip", augment=augment)
    batch = next(data.train_batches(split, plan, config, start=0, stop=1))
    assert batch["image"].any((1, 2, 3)).all()
    assert {split.name(index) for index in split.bad} == names
    assert sum(b["mask"].sum() for b in data.eval_batches(load(tmp_path), config)) == 5
    with pytest.raises(DataError, match="cannot be read: "):
        next(data.train_batches(load(tmp_path), plan, options(tmp_path), start=0, stop=1))
    assert set(look.check(str(tmp_path))["files"]) == names
    assert "it is not a regular file" in capsys.readouterr().err


def test_held_out_examples_that_are_no_files(tmp_path):
    write(tmp_path, *(f"cat/{i}.jpg" for i in range(40)))
    special(tmp_path / "cat")
    for name in ("train", "test"):
        split = load(tmp_path, name)
        found = {split.paths[index] for index in split.unreadable}
        assert found == {path for path in split.paths if not path[4].isdigit()}


def test_a_closed_folder_is_a_sentence(tmp_path, monkeypatch):
    write(tmp_path, "cat/1.jpg", "cat/closed/2.jpg")
    scandir = os.scandir

    def refuse(path):  # root may open every folder
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", refuse)
    for command in (load, lambda root: look.check(str(root))):
        with pytest.raises(DataError, match="closed cannot be listed: Permission denied"):
            command(tmp_path)


# Pixels


def without_adobe(jpeg):
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


CMYK = encoded(Image.fromarray(photo()).convert("CMYK"))


@pytest.mark.parametrize("content", [CMYK, without_adobe(CMYK)], ids=["adobe", "no marker"])
def test_training_and_evaluation_read_the_same_cmyk(tmp_path, content):
    path = tmp_path / "train/a/x.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert np.abs(decode(content, 3).astype(int) - photo()).mean() < 5
    np.testing.assert_array_equal(
        decode_as_training(content, 3, exif=False, max_pixels=10**6), decode(content, 3)
    )
    split = load(tmp_path)
    for channels in (1, 3):
        config = options(tmp_path, size=48, channels=channels, augment=Augment(cutout=1))
        batch = next(data.train_batches(split, Plan(1, 1, 0), config, start=0, stop=1))
        evaluated = next(data.eval_batches(split, config))["image"][0].astype(int)
        assert np.abs(batch["image"][0] - evaluated).mean() < 5


class Encoded(data.Split):
    """One image file of a known size."""

    class_names, payload_is_path = ("a",), False

    def __init__(self, content, shape):
        super().__init__()
        self.content, self.image_shape = content, shape

    def __len__(self):
        return 1

    def fetch(self, indices):
        payloads = np.empty(len(indices), object)
        payloads[:] = [self.content] * len(indices)
        return payloads, np.zeros(len(indices), np.int32)


@pytest.mark.parametrize(
    ("content", "channels"),
    [
        (without_adobe(CMYK), 3),
        (encoded(photo(), "PNG"), 1),
        (encoded(photo(), "PNG"), 3),
        (encoded(Image.fromarray(photo()).quantize(200), "PNG"), 3),
        (encoded(photo(), "BMP"), 3),
        (encoded(photo()), 3),
    ],
    ids=["cmyk", "png to grey", "png", "palette", "bmp", "jpeg"],
)
def test_whole_images_are_the_same_in_training_and_evaluation(content, channels):
    split = Encoded(content, (60, 80, 3))
    config = Data(source="x", channels=channels, eval_batch_size=1, augment=Augment(cutout=1))
    batch = next(data.train_batches(split, Plan(1, 1, 0), config, start=0, stop=1))
    evaluated = next(data.eval_batches(split, config))["image"][0].astype(int)
    assert (np.abs(batch["image"][0] - evaluated).max(-1) > 6).sum() < 9  # one is cutout's


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_of_unknown_range_are_refused(kind):
    content = encoded(Image.fromarray(GREY.astype(kind)), "TIFF")
    with pytest.raises(BadImage, match=r"32-bit .* not supported: convert to 8 bits"):
        decode(content, 3)


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "PPM"])
def test_sixteen_bits_become_the_upper_eight(kind):
    content = encoded(Image.fromarray(GREY.astype(np.uint16) * 256 + 77), kind)
    np.testing.assert_array_equal(decode(content, 1)[..., 0], GREY)


def test_twelve_bits_become_the_upper_eight():
    """A TIFF of two rows of two pixels of 12 bits, which Pillow does not write."""
    pixels = bytes.fromhex("FF0801000FF0")
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory += struct.pack("<HHII", 279, 4, 1, len(pixels))
    header = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    content = header + pixels + struct.pack("<H", len(tags) + 1) + directory + bytes(4)
    assert decode(content, 1).ravel().tolist() == [0xFF, 0x80, 0x00, 0xFF]


def test_packing_keeps_the_way_up():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(photo(200, 300), exif=exif)
    upright = decode(content, 3, exif=True)
    for turned in (False, True):
        packed = decode(shrink(content, 64, 95), 3, exif=turned)
        assert packed.shape == (96, 64, 3)
        small = np.asarray(Image.fromarray(upright).resize((64, 96), Image.Resampling.BICUBIC))
        assert np.abs(packed.astype(int) - small).mean() < 3
    assert shrink(content, 0, 95) == shrink(content, 200, 95) == content


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho 10.0; touch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(BadImage, match="no image format of JPEG, PNG"):
        decode(content, 3)
    assert not (tmp_path / "started").exists()


def test_photographs_of_phones_with_two_pictures_are_read():
    file = io.BytesIO()
    first = Image.fromarray(photo())
    first.save(file, "MPO", save_all=True, append_images=[first.resize((8, 8))])
    assert np.abs(decode(file.getvalue(), 3).astype(int) - photo()).mean() < 5


# Arrays


def npz(place, **changes):
    content = {"images": np.zeros((24, 8, 8), np.uint8), "labels": np.arange(24) % 4, **changes}
    np.savez(place / "a.npz", **{name: x for name, x in content.items() if x is not None})
    return f"npz:{place}/a.npz"


LABELS = np.arange(24) % 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"labels": np.where(LABELS, LABELS, 2**32 - 1).astype(np.uint32), "names": "abcd"},
            "has the label 4294967295, but there are 4 class names",
        ),
        (
            {"labels": np.where(LABELS, LABELS, 2**32), "names": "abcd"},
            "has the label 4294967296, but there are 4 class names",
        ),
        ({"labels": LABELS - 1}, "has the label -1; labels count from 0"),
        ({"labels": np.int64(1)}, "labels must be integers of shape (N,), got int64 ()"),
        (
            {"labels": 2**40 + LABELS},
            "has 4 different labels, the largest of which is 109951162777",
        ),
        (
            {"labels": np.array([20180412, 20180413] * 12)},
            "has 2 different labels, the largest of which is 20180413; labels count from 0",
        ),
        (
            {"labels": np.array([5, 17, 99] * 8)},
            "has 3 different labels, the largest of which is 99",
        ),
        ({"labels": np.array([2**64 - 1] * 24, np.uint64)}, "has 1 different labels"),
        ({"images": np.zeros((24, 3, 8, 8), np.uint8)}, "looks like (N, C, H, W), channels first"),
        ({"labels": np.array([{}] * 24, object)}, "pickled Python objects, which are never loaded"),
    ],
)
def test_arrays_that_are_refused(tmp_path, changes, sentence):
    names = changes.pop("names", None) if "names" in changes else None
    changes = {**changes, "class_names": np.array(list(names)) if names else None}
    with pytest.raises(DataError) as caught:
        data.load(npz(tmp_path, **changes), "train")
    assert sentence in str(caught.value)


def test_labels_that_leave_classes_out_are_right_with_class_names(tmp_path):
    names = np.array([f"n{i}" for i in range(100)])
    split = data.load(npz(tmp_path, labels=np.array([5, 17, 99] * 8), class_names=names), "train")
    assert len(split.class_names) == 100 and set(split.labels.tolist()) == {5, 17, 99}
    assert (
        data.load(npz(tmp_path, labels=LABELS.astype(np.uint64)[:, None]), "train").labels.max()
        == 3
    )


def test_class_names_of_bytes(tmp_path):
    names = np.array([b"cat", b"dog", "Möwe".encode(), b"x"])
    split = data.load(npz(tmp_path, class_names=names), "train")
    assert split.class_names == ("cat", "dog", "Möwe", "x")


def test_only_the_arrays_that_are_needed_are_read(tmp_path, monkeypatch):
    images, labels = np.zeros((24, 8, 8), np.uint8), LABELS
    parts = {
        f"{axis}_{s}": x for s in ("train", "test") for axis, x in (("x", images), ("y", labels))
    }
    np.savez(tmp_path / "a.npz", **parts, other=np.array([{}], object))
    read, read_array = [], arrays._read_array

    def record(archive, name, path):
        read.append(name)
        return read_array(archive, name, path)

    monkeypatch.setattr(arrays, "_read_array", record)
    assert len(data.load(f"npz:{tmp_path}/a.npz", "test")) == 24
    assert sorted(read) == ["x_test", "y_test", "y_train"]


def test_an_array_that_no_memory_holds_is_refused_by_its_header(tmp_path):
    import zipfile

    source = npz(tmp_path)
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        for name, shape in (("images", (2**20, 1024, 1024)), ("labels", (2**20,))):
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"images is uint8 of shape .* more than 64 GiB"):
        data.load(f"npz:{tmp_path}/big.npz", "train")
    assert len(data.load(source, "train")) == 20


def test_many_channels_are_not_scaled(tmp_path):
    split = data.load(npz(tmp_path, images=np.zeros((24, 8, 8, 7), np.uint8)), "train")
    assert data.image_shape(split, Data(size=8)) == (8, 8, 7)
    with pytest.raises(UserError, match=r"7 channels cannot be scaled to data\.size=32"):
        data.image_shape(split, Data(size=32))


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (5, 1), (10, 2)])
def test_a_class_of_few_examples_is_in_both_splits(count, held):
    labels = np.repeat(np.arange(6), count)
    found = np.bincount(labels[arrays.hold_out(labels, 0.2)], minlength=6)
    assert found.tolist() == [held] * 6


def test_the_deviation_of_one_colour_is_zero(tmp_path):
    source = npz(tmp_path, images=np.full((24, 40, 40, 3), 60, np.uint8))
    assert look.stats(Config(data=Data(source=source)))["std"] == [0, 0, 0]


# TensorFlow


def test_tensorflow_leaves_the_process_as_it_was():
    code = """
import os, sys
before = dict(os.environ)
import train.data.tf as place
assert "tensorflow" not in sys.modules
from train.data.tf import tf
assert dict(os.environ) == before and tf is sys.modules["tensorflow"]
hidden = []
tf.config.set_visible_devices = lambda devices, kind: hidden.append(kind)
def load():
    vars(place).pop("tf")
    from train.data.tf import tf
load()
print(hidden)
place.keep_off_accelerators()
print(hidden)
load()
print(hidden)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert not done.stderr
    both = ["GPU", "TPU"]
    assert done.stdout.splitlines() == [str(hidden) for hidden in ([], both, both + both)]
