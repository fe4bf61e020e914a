"""Image files: every kind through both decoders; broken ones are named, counted and skipped."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.images import BadImage, decode
from tests.data.pictures import encoded, options, photo, write_folder
from train import data
from train.config import Augment
from train.data import Plan, bad, look
from train.data.decode import decode_as_training
from train.errors import DataError, UserError

PHOTO = photo(60, 80)


def kinds():
    rgb = Image.fromarray(PHOTO)
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    grey = np.asarray(rgb.convert("L"))[..., None].repeat(3, -1)
    return {
        "jpeg": (encoded(rgb), PHOTO),
        "grey jpeg": (encoded(rgb.convert("L")), grey),
        "cmyk jpeg": (encoded(rgb.convert("CMYK")), PHOTO),
        "ycck jpeg": (ycck(rgb), PHOTO),
        "progressive jpeg": (encoded(rgb, progressive=True), PHOTO),
        "png": (encoded(rgb, "PNG"), PHOTO),
        "16-bit png": (encoded(deep, "PNG"), grey),
        "rgba png": (encoded(rgb.convert("RGBA"), "PNG"), PHOTO),
        "palette png": (encoded(rgb.quantize(256), "PNG"), PHOTO),
        "gif": (encoded(rgb.quantize(256), "GIF"), PHOTO),
        "animated gif": (animated(rgb), PHOTO),
        "bmp": (encoded(rgb, "BMP"), PHOTO),
        "webp": (encoded(rgb, "WEBP", quality=95), PHOTO),
        "tiff": (encoded(rgb, "TIFF"), PHOTO),
    }


def ycck(rgb):
    """A JPEG with the four channels YCCK, inverted, as Adobe's marker says."""
    inverted = Image.fromarray(255 - np.asarray(rgb)).convert("YCbCr")
    planes = 255 - np.asarray(inverted)  # Pillow inverts when it writes
    black = Image.new("L", rgb.size, 0)
    image = Image.merge("CMYK", [*(Image.fromarray(planes[..., c]) for c in range(3)), black])
    data = encoded(image)
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\x02" + data[transform + 1 :]


def animated(rgb):
    file = io.BytesIO()
    rgb.quantize(256).save(file, "GIF", save_all=True, append_images=[Image.new("P", rgb.size)])
    return file.getvalue()


def bomb(side=20_000):
    """A PNG whose header says that it has 400 million pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(PHOTO, "PNG")[33:]


def jpeg_bomb(side=20_000):
    data = bytearray(encoded(PHOTO))
    start = data.index(b"\xff\xc0")  # the frame's header: height and width after five bytes
    data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    return bytes(data)


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"<html>404</html>", "no image format"),
    "cut jpeg": (encoded(PHOTO)[:900], "truncated|[Ii]nvalid"),
    "cut png": (encoded(PHOTO, "PNG")[:900], "truncated"),
    "header only": (encoded(PHOTO)[:20], "."),
    "png bomb": (bomb(), "20000x20000 is more than data.max_pixels"),
    "jpeg bomb": (jpeg_bomb(), "20000x20000 is more than data.max_pixels"),
}


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_file_in_training_and_evaluation(tmp_path, kind):
    content, expected = kinds()[kind]
    loose = 40 if kind in ("gif", "animated gif", "palette png") else 12
    assert np.abs(decode(content, 3).astype(int) - expected).mean() < loose / 2
    path = tmp_path / "train/a/picture.jpg"  # the suffix does not matter
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    split = data.load(f"folder:{tmp_path}", "train")
    config = options(tmp_path, size=48, augment=Augment(cutout=1), eval_batch_size=1)
    trained = next(data.train_batches(split, Plan(1, 1, 0), config, start=0, stop=1))["image"][0]
    evaluated = next(data.eval_batches(split, config))["image"][0]
    assert trained.shape == evaluated.shape == (48, 48, 3)
    assert np.abs(trained.astype(int) - evaluated).mean() < 5
    assert look.check(str(tmp_path))["bad"] == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_one_pixel_and_extreme_shapes(tmp_path, channels):
    folder = tmp_path / "train/a"
    folder.mkdir(parents=True)
    for height, width in ((1, 1), (1, 300), (300, 1)):
        red = Image.new("RGB", (width, height), "red")
        pixels = photo(height, width) if height * width > 1 else red
        (folder / f"{height}x{width}.png").write_bytes(encoded(pixels, "PNG"))
        (folder / f"{height}x{width}.jpg").write_bytes(encoded(red))
    split = data.load(f"folder:{tmp_path}", "train")
    for crop in ("area", "scale", "center"):
        config = options(tmp_path, channels=channels, augment=Augment(crop=crop, flip=True))
        batch = next(data.train_batches(split, Plan(6, 12, 0), config, start=0, stop=1))
        assert batch["image"].shape == (12, 32, 32, channels)
    assert sum(b["mask"].sum() for b in data.eval_batches(split, config)) == 6


def test_exif_rotation_is_an_option(tmp_path):
    image = Image.fromarray(PHOTO)
    tags = image.getexif()
    tags[0x0112] = 6  # orientation: turn by 90 degrees
    path = tmp_path / "train/a/turned.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(image, exif=tags))
    split = data.load(f"folder:{tmp_path}", "train")
    turned = np.rot90(PHOTO, -1)
    for exif, expected in ((False, PHOTO), (True, turned)):
        config = options(tmp_path, size=48, exif=exif, augment=Augment(cutout=1))
        evaluated = data.read(split, np.array([0]), config)[0].astype(int)
        batch = next(data.train_batches(split, Plan(1, 1, 0), config, start=0, stop=1))
        assert np.abs(evaluated - batch["image"][0]).mean() < 5
        square = expected[16:64, 6:54] if exif else expected[6:54, 16:64]
        middle, expected_middle = (x[20:28, 20:28].mean((0, 1)) for x in (evaluated, square))
        assert np.abs(middle - expected_middle).max() < 12


def test_the_reason_is_the_decoders_without_its_place_in_a_program():
    with pytest.raises(BadImage, match=r"^[\w ,.:/]+$") as caught:
        decode_as_training(BROKEN["cut jpeg"][0], 3, exif=False, max_pixels=10**6)
    assert "Invalid JPEG" in str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_an_error_that_names_the_file(tmp_path, kind):
    content, why = BROKEN[kind]
    with pytest.raises(BadImage, match=why):
        decode(content, 3)
    path = write_folder(tmp_path, train=4, held_out=2) / "train/cat/002.jpg"
    path.write_bytes(content)
    split, config = data.load(f"folder:{tmp_path}", "train"), options(tmp_path)
    with pytest.raises(DataError) as caught:
        list(data.train_batches(split, Plan(len(split), 8, 0), config, start=0, stop=2))
    assert f"{path} cannot be read: " in str(caught.value) and re.search(why, str(caught.value))
    with pytest.raises(DataError, match=f"{path} cannot be read: .*{why}"):
        list(data.eval_batches(split, config))
    assert look.check(str(tmp_path)) == {
        "images": 12,
        "bad": 1,
        "files": [str(path)],
        "left_out": 0,
    }


def test_skipping_is_counted_reported_and_independent_of_the_order(tmp_path, capsys):
    root = write_folder(tmp_path, train=20, held_out=2)
    broken = [f"{root}/train/cat/{i:03d}.jpg" for i in (3, 4, 11)] + [f"{root}/train/dog/019.jpg"]
    for name in broken:
        open(name, "wb").close()
    plan, config = Plan(40, 8, 0), options(tmp_path, on_bad_image="skip")

    def run(start=0, **share):
        split = data.load(f"folder:{root}", "train")
        return list(data.train_batches(split, plan, config, start=start, stop=12, **share)), split

    batches, split = run()
    assert sorted(split.name(i) for i in split.bad) == sorted(broken)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and lines[-1].endswith("(4 so far)")
    assert lines[0].startswith(f"skipping {root}")
    for share in ({"start": 7}, {"process": 1, "processes": 2}):
        rows = slice(4, 8) if "process" in share else slice(None)
        for a, b in zip(run(**share)[0], batches[share.get("start", 0) :]):
            np.testing.assert_array_equal(a["image"], b["image"][rows])

    whole = write_folder(tmp_path / "whole", train=20, held_out=2)
    stand_ins = {"cat/003": "cat/005", "cat/004": "cat/005", "cat/011": "cat/012"}
    stand_ins["dog/019"] = "cat/000"  # the first follows the last
    for name, other in stand_ins.items():
        content = (whole / f"train/{other}.jpg").read_bytes()
        (whole / f"train/{name}.jpg").write_bytes(content)
    other = data.load(f"folder:{whole}", "train")
    expected = data.train_batches(other, plan, config, start=0, stop=12)
    for a, b in zip(batches, expected):
        np.testing.assert_array_equal(a["image"], b["image"])

    plain = options(tmp_path, on_bad_image="skip", augment=Augment())  # threads, not tf.data
    assert len(list(data.train_batches(split, plan, plain, start=0, stop=5))) == 5
    masked = list(data.eval_batches(split, config))
    assert sum(b["mask"].sum() for b in masked) == 36
    assert sum((b["image"].any((1, 2, 3)) != b["mask"]).sum() for b in masked) == 0


def test_only_broken_images(tmp_path):
    root = write_folder(tmp_path, train=2, held_out=1)
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    split = data.load(f"folder:{root}", "train")

    def first(policy):
        config = options(root, on_bad_image=policy)
        return next(data.train_batches(split, Plan(4, 4, 0), config, start=0, stop=1))

    with pytest.raises(DataError, match="none of the 4 images"):
        first("skip")
    with pytest.raises(UserError, match="on_bad_image='ignore' is unknown"):
        first("ignore")
    assert bad.reason(split, 0, options(root)) == "the file is empty"
