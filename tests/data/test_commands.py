"""The commands of train.data: preparing ImageNet and folders, checking, showing, statistics."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encoded, photo, write_folder
from tests.helpers import ROOT, command
from train import data, recipe
from train.__main__ import main as train
from train.config import Config
from train.data.__main__ import main
from train.errors import DataError, UserError
from train.evaluate import evaluation

SYNSETS = ("n01440764", "n01443537", "n15075141")  # the first two and the last


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """ImageNet's two files with few small photographs, some of them PNG, as in the real files."""
    place = tmp_path_factory.mktemp("tars")
    with tarfile.open(place / "ILSVRC2012_img_train.tar", "w") as outer:
        for label, synset in enumerate(SYNSETS):
            inside = io.BytesIO()
            with tarfile.open(fileobj=inside, mode="w") as inner:
                for i in range(8):
                    kind = "PNG" if i == 7 else "JPEG"
                    image = encoded(photo(40, 50, seed=10 * label + i), kind)
                    add(inner, f"{synset}_{i}.JPEG", image)
            add(outer, f"{synset}.tar", inside.getvalue())
    with tarfile.open(place / "ILSVRC2012_img_val.tar", "w") as tar:
        for i in range(1, 11):
            add(tar, f"ILSVRC2012_val_{i:08d}.JPEG", encoded(photo(40, 50, seed=100 + i)))
    return place


@pytest.mark.parity
def test_imagenet_from_tars_to_a_trained_and_evaluated_network(tars, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    missing = r"tfds:imagenet2012 is not prepared .* prepare imagenet2012 --tars=DIR"
    with pytest.raises(DataError, match=missing):
        data.load("tfds:imagenet2012", "train")
    result = main(["prepare", "imagenet2012", f"--tars={tars}"])
    assert result["source"] == "tfds:imagenet2012"
    assert result["splits"] == {"train": 24, "validation": 10}
    assert result["path"].startswith(str(tmp_path / "tfds"))
    split = data.load("tfds:imagenet2012", "train")
    assert type(split).__name__ == "Records" and len(split.class_names) == 1000
    assert split.class_names[0] == SYNSETS[0] and split.class_names[-1] == SYNSETS[-1]
    assert np.bincount(split.labels, minlength=1000)[[0, 1, 999]].tolist() == [8, 8, 8]

    (tmp_path / "recipe.py").write_text(
        "from train.config import Augment, Config, Data, Model\n\n\n"
        "def get_config():\n"
        "    data = Data(source='tfds:imagenet2012', eval_split='validation')\n"
        "    data.size, data.channels, data.batch_size, data.eval_batch_size = 28, 1, 12, 4\n"
        "    data.augment = Augment(crop='area', flip=True)\n"
        "    return Config(epochs=1, model=Model(name='lenet5'), data=data)\n"
    )
    trained = train([f"--config={tmp_path / 'recipe.py'}", f"--workdir={tmp_path / 'run'}"])
    assert trained["step"] == 2 and trained["examples"] == 10
    assert evaluation.evaluate(str(tmp_path / "run"))["top1"] == trained["top1"]


def test_tars_that_are_not_imagenet(tars, tmp_path):
    def refused(sentence):
        with pytest.raises(DataError, match=sentence):
            main(["prepare", "imagenet2012", f"--tars={tmp_path}"])

    official = (tars / "ILSVRC2012_img_train.tar").read_bytes()
    validation = tmp_path / "ILSVRC2012_img_val.tar"
    refused("ILSVRC2012_img_train.tar is missing, extracted folders need no preparation")
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(official)
    refused("img_val.tar is missing, it holds ILSVRC2012_img_train.tar")
    validation.write_bytes(b"x" * 1000)
    refused("img_val.tar is not a tar file")
    validation.write_bytes(official)
    refused("should hold JPEG files, but the first member is n01440764.tar")


def test_a_packed_folder_reads_as_the_folder(tmp_path):
    root = write_folder(tmp_path / "My photos!", train=6, held_out=3, height=90, width=120)
    whole = main(["prepare", "folder", str(root), str(tmp_path / "whole")])
    assert whole["splits"] == {"train": 12, "val": 6}
    assert whole["path"].endswith("whole/my_photos/1.0.0")
    for name in ("train", "val"):
        files, records = data.load(f"folder:{root}", name), data.load(whole["source"], name)
        assert records.class_names == files.class_names
        assert records.labels.tolist() == files.labels.tolist()
        everything = np.arange(len(files))
        contents = [files.load(payload) for payload in files.fetch(everything)[0]]
        assert records.fetch(everything)[0].tolist() == contents
    small = main(["prepare", "folder", str(root), str(tmp_path / "small"), "--short-side=60"])
    split = data.load(small["source"], "train")
    assert Image.open(io.BytesIO(split.fetch(np.array([0]))[0][0])).size == (80, 60)
    with pytest.raises(DataError, match="exists already; remove it to pack"):
        main(["prepare", "folder", str(root), str(tmp_path / "small")])
    (root / "train/cat/003.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/cat/003.jpg cannot be read: the file is empty"):
        main(["prepare", "folder", str(root), str(tmp_path / "other")])


@pytest.mark.parity
def test_check_lists_broken_files_and_ends_with_a_code(tmp_path):
    root = write_folder(tmp_path, train=3, held_out=1)
    broken = root / "train/dog/001.jpg"
    broken.write_bytes(encoded(photo())[:700])
    done = command("train.data", "check", root)
    assert done.returncode == 3
    assert f"{broken}: " in done.stderr and "Traceback" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"images": 8, "bad": 1, "files": [str(broken)], "left_out": 0}
    with pytest.raises(DataError, match="no does not exist"):
        main(["check", str(tmp_path / "no")])


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.augment.crop=area", "data.augment.flip=true", "data.augment.mixup=0.4"],
        ["data.augment.cutmix=1.0", "data.augment.noise=0.05"],
    ],
)
def test_show_draws_examples_of_training(tmp_path, overrides):
    root, out = write_folder(tmp_path / "photos"), tmp_path / "augmented.png"
    options = [f"--config.{o}" for o in [f"data.source=folder:{root}", "data.size=100", *overrides]]
    result = main(["show", f"--out={out}", *options])
    assert result["picture"] == str(out) and len(result["examples"]) == 4
    picture = np.asarray(Image.open(out))
    assert picture.shape == (4 * 118 + 2, 8 * 102 + 2, 3)
    tiles = [picture[18:118, 2 + 102 * k : 102 + 102 * k] for k in range(8)]
    assert len({tile.tobytes() for tile in tiles}) == 8


def test_show_and_stats_of_digits(tmp_path):
    recipe, out = f"--config={ROOT}/configs/lenet_mnist.py", tmp_path / "digits.png"
    assert len(main(["show", recipe, f"--out={out}"])["examples"]) == 4
    result = main(["stats", recipe, "--split=test"])
    split = data.load("mnist5k", "test")
    assert result["examples"] == result["measured"] == 1000 and result["classes"]["7"] == 100
    assert result["mean"] == [pytest.approx(split.images.mean() / 255, abs=1e-4)]
    assert result["std"] == [pytest.approx(split.images.std() / 255, abs=1e-4)]


def test_stats_of_photographs_of_any_size(tmp_path):
    root = write_folder(tmp_path, train=3, held_out=1)
    (root / "train/cat/grey.png").write_bytes(encoded(photo(30, 30, channels=1), "PNG"))
    source = f"--config.data.source=folder:{root}"
    result = main(["stats", source])
    assert result["classes"] == {"cat": 4, "dog": 3}
    assert result["measured"] == 7 and len(result["mean"]) == 3
    assert main(["stats", source, "--config.data.size=16", "--limit=2"])["measured"] == 2


def test_mistakes_on_the_command_line(tmp_path):
    for arguments, code, sentence in (
        (["check", tmp_path / "no"], 3, "does not exist"),
        (["check", tmp_path, "--fast"], 2, "unknown argument '--fast'"),
        (["chek"], 2, "invalid choice: 'chek'"),
    ):
        done = command("train.data", *arguments)
        assert done.returncode == code and sentence in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(UserError, match="--limit=0 must be a whole number of at least 1"):
        main(["stats", "--limit=0"])
    with pytest.raises(UserError, match="--quality has no effect without --short-side"):
        main(["prepare", "folder", "photos", "packed", "--quality=50"])
    with pytest.raises(UserError, match=r"has no key .data\.sorce"):
        main(["stats", "--config.data.sorce=x"])
    with pytest.raises(DataError, match="cannot be written"):
        main(["show", f"--config={ROOT}/configs/lenet_mnist.py", f"--out={tmp_path}/no/such/a.png"])


def test_check_and_stats_compare_the_classes_of_splits(tmp_path, capsys):
    root = write_folder(tmp_path / "photos", train=5, held_out=1)
    for index in range(1, 5):
        (root / f"train/cat/00{index}.jpg").unlink()
    source = f"--config.data.source=folder:{root}"
    main(["check", str(root)])
    said = capsys.readouterr().err
    assert "train: 6 images: cat 1, dog 5" in said and "val: 2 images, 1 of each class" in said
    assert "8 images, all of which can be read" in said
    result, said = main(["stats", source]), capsys.readouterr().err
    flag = f"{result['mean'][0]:.3f}".rstrip("0")
    assert f'--config.data.mean="({flag}, ' in said and "are grey" not in said
    assert (
        "dog has 5.0 times as many images as cat" in " ".join(said.split())
        and "test: 2 images" in said
    )
    (root / "val/dog").rename(root / "val/dogs")
    for arguments in (["check", str(root)], ["stats", source]):
        with pytest.raises(DataError, match="val has the class 'dogs', which train does not have"):
            main(arguments)
    assert main(["check", str(root / "val/cat")])["images"] == 1
    assert "not ready for training: " in capsys.readouterr().err


def test_flags_of_grey_photographs_can_be_copied(tmp_path, capsys):
    for place in ("train/a", "train/b", "val/a", "val/b"):
        path = tmp_path / f"photos/{place}/1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(photo(30, 30, len(place), channels=1), "PNG"))
    main(["stats", f"--config.data.source=folder:{tmp_path}/photos"])
    said = capsys.readouterr().err
    assert "the images are grey: --config.data.channels=1" in said
    flags = [
        line.strip().replace('"', "") for line in said.splitlines() if "--config.data.m" in line
    ]
    assert len(recipe.override(Config(), flags).data.mean) == 1


def test_show_of_evaluation_reads_each_image_once(tmp_path, capsys):
    root, out = write_folder(tmp_path / "photos"), tmp_path / "val.png"
    options = [f"--config.data.source=folder:{root}", "--config.data.size=100"]
    result = main(["show", f"--out={out}", "--split=val", "--images=9", *options])
    assert len(set(result["examples"])) == 9 and all("/val/" in name for name in result["examples"])
    assert Image.open(out).size == (8 * 102 + 2, 2 * 118 + 2)
    assert f"open {out}: 9 val images, as evaluation reads them" in capsys.readouterr().err


def test_check_and_stats_of_a_folder_without_val(tmp_path, capsys):
    root = write_folder(tmp_path / "photos", train=3, held_out=1)
    shutil.rmtree(root / "val")
    why = f"{root} has no split 'val': create {root}/val, or use {root}/train, of which a fifth"
    main(["check", str(root)])
    assert f"not ready for training: {why}" in capsys.readouterr().err
    flags = [f"--config.data.source=folder:{root}", "--config.data.eval_split=val"]
    assert main(["stats", *flags])["examples"] == 6
    assert f"not ready for training: {why}" in capsys.readouterr().err
