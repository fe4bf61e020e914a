"""Several labels an image, from tables, arrays and objects to batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train import data
from train.config import Augment, Config, Data
from train.data import counts, look
from train.data.fingerprint import fingerprint
from train.data.sources.arrays import hold_out
from train.data.sources.objects import halves, wrap
from train.errors import DataError
from train.mix import make_mix

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.int32)
IMAGES = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
TABLE = """path,label,split
a.png,cat | dog,train
b.png,cat,train
c.png,,train
d.png,emu|cat,val
"""


def write(folder, text):
    for name in "abcdefghij":
        Image.fromarray(np.full((8, 8), ord(name), np.uint8)).save(folder / f"{name}.png")
    (folder / "pets.csv").write_text(text)
    return f"csv:{folder}/pets.csv"


def test_a_table_of_several_labels(tmp_path):
    source = write(tmp_path, TABLE)
    learnt, asked = data.load(source, "train"), data.load(source, "val")
    assert learnt.class_names == asked.class_names == ("cat", "dog", "emu")
    assert learnt.labels.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert asked.labels.tolist() == [[1, 0, 1]] and asked.multi_label


def test_one_bar_decides_for_a_table(tmp_path):
    text = "path,label,split\na.png,2|,train\nb.png,2,val\nc.png,10,val\n"
    assert data.load(write(tmp_path, text), "val").labels.tolist() == [[1, 0], [0, 1]]
    without = data.load(write(tmp_path, text.replace("|", "")), "val")
    assert not without.multi_label and without.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"names no class in its column label"):
        data.load(write(tmp_path, "path,label\na.png,|\nb.png,\n"), "train")


def test_every_class_is_on_both_sides_of_a_table_without_splits(tmp_path):
    cells = ["cat|dog", "cat", "cat|dog", "", "cat", "cat", "cat", "", "cat", "cat"]
    rows = "".join(f"{name}.png,{cell}\n" for name, cell in zip("abcdefghij", cells))
    source = write(tmp_path, "path,labels\n" + rows)
    learnt, asked = (data.load(source, split).labels for split in ("train", "test"))
    assert len(learnt) + len(asked) == 10
    assert learnt[:, 1].sum() == asked[:, 1].sum() == 1 and (~asked.any(1)).sum() == 1
    assert not hold_out(np.array([[1, 0], [0, 1]]), 0.5).any()  # never all of a class


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS.tolist(), LABELS.astype(np.float32), [*LABELS.astype(bool)]]
)
def test_arrays_and_objects_of_several_labels(labels):
    for source in ((IMAGES, labels), list(zip(IMAGES, labels)), {"image": IMAGES, "label": labels}):
        split = wrap(source)
        assert split.class_names == ("0", "1", "2")
        assert np.array_equal(split.labels, LABELS) and split.labels.dtype == np.int32


def test_class_names_of_objects():
    class Named(list):
        classes = ("cat", "dog", "emu")

    learnt, asked = halves(wrap(Named(zip(IMAGES, LABELS))))
    assert learnt.class_names == asked.class_names == Named.classes
    assert learnt.multi_label and asked.multi_label


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([[1, 0], [1, 0, 0]], "rows of labels must have one length"),
        ([[1, 0], 1], "rows of labels must have one length"),
        ([[1, 2], [0, 1]], "a row of zeros and ones for several labels"),
        ([[0.5, 1], [0, 1]], "a row of zeros and ones for several labels"),
        ([[1], [0]], "a row of zeros and ones for several labels"),
    ],
)
def test_rows_that_are_none(labels, sentence):
    with pytest.raises(DataError, match=sentence):
        wrap(list(zip(IMAGES, labels)))


def test_classes_of_training_and_evaluation():
    with pytest.raises(DataError, match="3 columns, but there are 2 class names"):
        wrap((IMAGES, LABELS), "evaluation", ("cat", "dog"))


def test_npz_of_several_labels(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:1], y_test=LABELS[1:2])
    assert data.load(f"npz:{path}", "test").labels.tolist() == [[1, 1, 0]]
    assert np.array_equal(data.load(f"npz:{path}", "train").labels, LABELS)
    np.savez(path, images=IMAGES, labels=LABELS + 1)
    with pytest.raises(DataError, match="must be zeros and ones"):
        data.load(f"npz:{path}", "train")
    np.savez(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS[:, 0])
    with pytest.raises(DataError, match="labels of different shapes"):
        data.load(f"npz:{path}", "train")


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(flip=True), Augment(rotate=5, jitter=(0.1, 0, 0, 0))]
)
def test_batches_of_arrays(augment):
    """By numpy and by tf.data: each image, which its level tells, has its own row of labels."""
    split, plan = wrap((IMAGES * 40, LABELS)), data.Plan(6, 4, seed=0)
    config = Data(augment=augment, eval_batch_size=4)
    for batch in data.train_batches(split, plan, config, start=0, stop=3):
        assert batch["label"].dtype == np.int32
        levels = batch["image"].max((1, 2, 3)) / 40
        if not augment.rotate:
            assert np.array_equal(batch["label"], LABELS[levels.astype(int)])
    batches = list(data.eval_batches(split, config))
    assert np.array_equal(np.concatenate([b["label"] for b in batches])[:6], LABELS)
    assert batches[1]["label"].shape == (4, 3) and not batches[1]["label"][2:].any()


def test_batches_of_files(tmp_path):
    split = data.load(write(tmp_path, TABLE), "train")
    config = Data(size=8, channels=1, eval_batch_size=2, augment=Augment(crop="area", flip=True))
    plan = data.Plan(3, 3, seed=0)
    batch = next(data.train_batches(split, plan, config, start=0, stop=1))
    assert np.array_equal(batch["label"], split.labels[plan.indices(0)])
    (tmp_path / "b.png").write_text("broken")
    config = dataclasses.replace(config, on_bad_image="skip", augment=Augment())
    batch = next(data.train_batches(split, plan, config, start=0, stop=1))
    replaced = np.where(plan.indices(0) == 1, 2, plan.indices(0))
    assert np.array_equal(batch["label"], split.labels[replaced])
    last = list(data.eval_batches(split, config))[-1]
    assert last["label"].tolist() == [[0, 0, 0]] * 2 and last["mask"].tolist() == [True, False]


def test_mixed_labels_are_shares_of_both_rows(monkeypatch):
    # Beta(1, 1), which compiles in a tenth of the time.
    monkeypatch.setattr(jax.random, "beta", lambda key, a, b, shape: jax.random.uniform(key, shape))
    images = jnp.asarray(LABELS, jnp.float32)[:, None, :, None]  # which are then mixed alike
    mix = jax.jit(make_mix(3, mixup=1.0))
    mixed, labels = mix(images, jnp.asarray(LABELS), jax.random.key(0))
    np.testing.assert_allclose(mixed[:, 0, :, 0], labels, atol=1e-6)
    assert (labels % 1 != 0).any()
    for how in ({"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}, {"noise": 0.1}):
        shapes = jax.eval_shape(make_mix(3, **how), images, LABELS, jax.random.key(0))
        assert [x.shape for x in shapes] == [images.shape, (6, 3)]


def test_counts_and_fingerprints():
    split = wrap((IMAGES, LABELS))
    assert counts.describe(split) == "6 images: 0 3, 1 3, 2 2"
    assert counts.majority(split) is None  # an even share is 4 / 9: each image has 4 / 3 labels
    often = wrap((IMAGES, np.array([[1, 0]] * 5 + [[0, 1]])))
    assert counts.majority(often) == ("0", 5 / 6)
    other = LABELS.copy()
    other[3, 2] = 1
    assert fingerprint(split)["labels"] != fingerprint(wrap((IMAGES, other)))["labels"]


def test_the_commands_show_and_stats(tmp_path, capsys):
    config = Config(data=Data(source=write(tmp_path, TABLE), size=8, channels=1, eval_split="val"))
    assert look.stats(config)["classes"] == {"cat": 2, "dog": 1, "emu": 0}
    assert "train: 3 images: cat 2, dog 1, emu 0" in capsys.readouterr().err
    out = str(tmp_path / "shown.png")
    assert len(look.show(config, out, "val")["examples"]) == 1
    assert len(look.show(config, out)["examples"]) == 3
