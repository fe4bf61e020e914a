"""`train.fit`, and networks, losses, optimizers and data of the user's own in recipes.

One file, because the tests share a network, a loss and a data set.
"""

import dataclasses
import json
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import train
from cnnjax import Outputs, create_model
from tests.helpers import ROOT, assert_trees_close
from train import build, data, metrics, own, predict, recipe
from train.__main__ import main
from train.checkpoint import goodness
from train.config import Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform
from train.data.sources import objects
from train.data.sources.objects import wrap
from train.errors import DataError, UserError
from train.evaluate.evaluation import evaluate
from train.report.pages import write_report
from train.run import Run

HERE = __name__
REST = "model.name={0}:Net", "loss.name={0}:halved", "optim.name=optax:lion"


class Net(nn.Module):
    """Returns plain logits, and calls its mode `training`."""

    num_classes: int = 10
    width: int = 4

    @nn.compact
    def __call__(self, images, training: bool = False):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2, name="c1")(images))
        x = nn.BatchNorm(use_running_average=not training, name="b1")(x)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def halved(outputs, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
    return losses.mean() / 2, {"whole": losses.mean()}


class Squares:
    """Two classes, 2:1, told apart by brightness."""

    classes = ("dark", "light")

    def __init__(self, count=48, side=8):
        self.count, self.side = count, side

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = int(index % 3 == 2)
        noise = np.random.RandomState(index).randint(0, 60, (self.side, self.side, 1))
        return (noise + 120 * label).astype(np.uint8), label


def splits(name):
    return Squares(24 if name == "train" else 12)


def config(**options):
    return Config(
        epochs=options.pop("epochs", 3),
        model=Model(name="lenet5"),
        data=Data(batch_size=8, eval_batch_size=8),
        optim=options.pop("optim", Optim(name="adamw", lr=0.02, schedule="constant")),
        log=Log(every=2, eval_every=4),
        checkpoint=Checkpoint(every=4),
        **options,
    )


def rows(workdir, split="train"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fit") / "run"
    things = dict(model=Net(2, width=6), loss=halved, tx=optax.adam(0.02))
    result = train.fit(config(), workdir, train=Squares(), evaluation=Squares(12), **things)
    return workdir, result


def test_everything_may_be_an_object(finished):
    workdir, result = finished
    assert result["step"] == 18 and result["top1"] > 0.6
    first = rows(workdir)[0]
    assert first["whole"] == pytest.approx(2 * first["loss"]) and "lr" not in first
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["model"]["name"] == f"{HERE}:Net" and saved["model"]["options"] == {"width": 6}
    assert saved["loss"]["name"] == f"{HERE}:halved"
    assert saved["class_names"] == ["dark", "light"]


def test_the_run_folder_finds_them_again(finished, tmp_path):
    workdir, result = finished
    again = evaluate(str(workdir))
    assert again["top1"] == result["top1"] and again["auc"] == pytest.approx(
        result["auc"], abs=0.01
    )
    Image.fromarray(Squares()[2][0][..., 0]).save(tmp_path / "light.png")
    predict.main([f"--workdir={workdir}", str(tmp_path / "light.png")])
    made = write_report(str(workdir), images=0)
    assert made["top1"] == result["top1"]


def test_the_same_call_resumes(finished, tmp_path):
    workdir, _ = finished
    things = dict(model=Net(2, width=6), loss=halved, tx=optax.adam(0.02))
    things |= dict(train=Squares(), evaluation=Squares(12))
    part = tmp_path / "part"
    train.fit(config(), part, **things)
    # As if it had been killed after its second checkpoint.
    for step in (12, 16, 18):
        path = part / "checkpoints" / str(step)
        if path.exists():
            path.rename(part / f"gone-{step}")
    assert train.fit(config(), part, **things)["step"] == 18
    assert_trees_close(Run(str(part)).restore()[1], Run(str(workdir)).restore()[1])
    changed = things | {"train": Squares(45)}
    with pytest.raises(UserError, match=r"another config|data has changed"):
        train.fit(config(), part, **changed)


def test_recipes_name_them(tmp_path, capsys):
    options = [f"--config.{rest.format(HERE)}" for rest in REST]
    options += [f"--config.data.source={HERE}:splits", "--config.model.options.width=5"]
    options += ["--config.optim.lr=0.001", "--config.optim.options.b1=0.8"]
    options += [
        "--config.data.batch_size=8",
        "--config.data.eval_batch_size=4",
        "--config.epochs=1",
    ]
    options += ["--config.optim.schedule=constant"]  # lion takes the recipe's weight decay
    result = main(["--config=lenet_mnist", *options, f"--workdir={tmp_path}/run"])
    assert result["step"] == 3 and result["examples"] == 12
    assert Run(f"{tmp_path}/run").restore()[1]["params"]["c1"]["kernel"].shape[-1] == 5
    assert evaluate(f"{tmp_path}/run")["examples"] == 12


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("model.name=nowhere.at.all:Net", "cannot be loaded: ModuleNotFoundError"),
        (f"model.name={HERE}:Nett", "cannot be loaded: AttributeError"),
        (f"model.name={HERE}:HERE", "neither a class nor a function"),
        (f"model.name={HERE}:Squares", "not a flax.linen.Module"),
        (f"optim.name={HERE}:Squares", "not an optax transformation"),
        ("optim.options.b1=0.9", "are for an optimizer of your own"),
        ("loss.class_weights=1,x", "a positive number for each class"),
        ("loss.class_weights=1,2", "2 numbers for 10 classes"),
        ("loss.name=focall", "focal"),
        ("checkpoint.best=top5", "above ten classes"),
        ("log.to=tensorbord", "tensorboard"),
    ],
)
def test_mistakes(option, sentence, tmp_path):
    options = [f"--config.{option}", "--config.data.source=synthetic:28x28x1/10"]
    with pytest.raises(UserError, match=sentence):
        main(["--config=lenet_mnist", *options, f"--workdir={tmp_path}/run"])
    assert not (tmp_path / "run").exists()


def test_a_script_that_trains_unguarded_is_refused(tmp_path):
    (tmp_path / "script.py").write_text("import train\nclass Net: pass\ntrain.fit(None, 'runs')\n")
    with pytest.raises(UserError, match="__main__"):
        recipe.load("lenet_mnist", [f"--config.model.name={tmp_path}/script.py:Net"])


def test_weight_decay_of_an_own_optimizer(capsys):
    """It is that of the config, on the parameters that the config says, where there is one."""
    schedule, params = (
        optax.constant_schedule(0.1),
        {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
    )
    for name, decayed in (("lion", 0.1 * 0.5), ("sgd", 0.0)):
        chosen = Optim(name=f"optax:{name}", weight_decay=0.5)
        tx = build.own_optimizer(chosen, getattr(optax, name), schedule)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert np.allclose(updates["kernel"], -decayed) and np.allclose(updates["bias"], 0)
    assert "optax:sgd takes no weight decay" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["muon", "schedule_free_sgd"])
def test_optimizers_of_optax(name, tmp_path):
    optim = Optim(name=f"optax.contrib:{name}", lr=0.01, schedule="constant")
    result = train.fit(config(optim=optim, epochs=1), tmp_path, model=Net(2), train=Squares())
    assert np.isfinite(result["loss"])
    if name == "schedule_free_sgd":  # another point is evaluated than trained
        run = Run(str(tmp_path))
        averaged, raw = run.restore()[1]["params"], run.restore(raw=True)[1]["params"]
        assert not np.allclose(averaged["head"]["kernel"], raw["head"]["kernel"], atol=1e-6)


@pytest.mark.parametrize(
    "also", [{"ema": 0.9}, {"lr_scale": ("kernel$=0.5",)}, {"schedule": "plateau"}]
)
def test_what_a_schedule_free_optimizer_cannot_have(also, tmp_path):
    optim = Optim(name="optax.contrib:schedule_free_sgd", **{"schedule": "constant"} | also)
    with pytest.raises(UserError, match="schedule-free"):
        train.fit(config(optim=optim), tmp_path / "run", model=Net(2), train=Squares())


@pytest.mark.parametrize(
    ("name", "options"), [("vgg16_bn", {"bn_scale": False}), ("inception_v4", {"dropout": 0.5})]
)
def test_networks_of_ours_are_remembered_by_name(name, options):
    assert own.describe(create_model(name, num_classes=3, **options)) == (name, options)


# Data


def test_kinds_of_data(tmp_path):
    squares = Squares(6)
    images, labels = map(np.stack, zip(*[squares[i] for i in range(6)]))
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")

    class Table(list):
        iloc = None

        def to_dict(self, _):
            return list(self)

    hub = [{"image": Image.fromarray(x[..., 0]), "label": int(y)} for x, y in zip(images, labels)]
    names = ["dark", "light"]
    paths = Table({"path": tmp_path / f"{i}.png", "label": names[y]} for i, y in enumerate(labels))
    whole = Data(size=8, channels=1, transform=Transform(fraction=1.0))
    for source in (squares, (images, labels), hub, paths):
        split = wrap(source)
        assert len(split) == 6 and split.labels.tolist() == [0, 0, 1, 0, 0, 1]
        read = data.read(split, np.arange(6), whole)
        assert np.array_equal(read, images)
    assert wrap(squares).class_names == wrap(paths).class_names == ("dark", "light")


def test_a_column_of_labels_saves_reading_the_images(monkeypatch):
    """As the hub's data sets have it."""
    monkeypatch.setattr(objects, "IN_MEMORY", 0)
    read = []

    class Columns(list):
        column_names = ["image", "label"]

        def __getitem__(self, key):
            if isinstance(key, str):
                return [example[key] for example in self]
            read.append(key)
            return super().__getitem__(key)

    image = np.zeros((8, 8), np.uint8)
    split = wrap(Columns({"image": image, "label": i % 3} for i in range(40)))
    assert split.labels.tolist() == [i % 3 for i in range(40)]
    assert len(set(read)) < 20


def test_images_of_several_sizes_are_read_when_needed():
    class Varied(Squares):
        targets = [int(i % 3 == 2) for i in range(48)]

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image.repeat(1 + index % 2, axis=0), label

    split = wrap(Varied())
    assert split.image_shape == (None, None, 1)
    batches = list(data.eval_batches(split, Data(size=8, eval_batch_size=16)))
    assert sum(batch["mask"].sum() for batch in batches) == 48
    augmented = dataclasses.replace(Data().augment, crop="area")
    plan = data.Plan(48, 8, seed=0)
    batch = next(data.train_batches(split, plan, Data(size=8, augment=augmented), start=0, stop=1))
    assert batch["image"].shape == (8, 8, 8, 1)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (3, "has no length"),
        ([], "no examples"),
        ([(np.zeros((3, 8, 8), np.uint8), 0)], "channels first"),
        ([(np.zeros((8, 8, 3), np.float32), 0)], "must be uint8"),
        ([(np.zeros((8, 8, 3), np.uint8), 0.5)], "a label must be an integer"),
        ([(np.zeros((8, 8, 3), np.uint8), -1)], "count from 0"),
        ([{"picture": 1, "label": 0}], "none of image"),
        ([7], "must be \\(image, label\\)"),
        (([np.zeros((8, 8), np.uint8)], [0, 1]), "1 images and 2 labels"),
    ],
)
def test_data_that_is_none(source, sentence):
    with pytest.raises(DataError, match=sentence):
        wrap(source)


def test_labels_of_the_evaluation_are_those_of_training():
    image = np.zeros((8, 8), np.uint8)
    learnt = wrap([(image, name) for name in ("emu", "cat", "dog")])
    asked = wrap([(image, "emu"), (image, "cat")], "evaluation", learnt.class_names)
    assert asked.class_names == ("cat", "dog", "emu") and asked.labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="evaluation has the class 'fox'"):
        wrap([(image, "fox")], "evaluation", learnt.class_names)
    with pytest.raises(DataError, match="has the label 3"):
        wrap([(image, 3)], "evaluation", ("0", "1"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": Net}, "model must be a network"),
        ({"model": nn.Sequential([nn.Dense(2)])}, "it must be"),
        ({"tx": optax.adam}, "tx must be an optimizer"),
        ({"loss": lambda outputs, _: outputs.logits[:, 0]}, "must be one number"),
        ({"loss": lambda outputs, _: (0.0, {"each": outputs.logits[:, 0]})}, "must be a number"),
        ({"loss": lambda outputs, _: outputs.nothing}, "the loss fails: AttributeError"),
        ({"loss": "focal"}, "loss must be a function"),
        ({"model": Net(2, width="four")}, "the network fails"),
        ({"evaluation": Squares(12, side=16)}, "data.size and data.channels make them alike"),
        ({"train": [Squares()[1], Squares()[2]]}, "cannot be held out"),
        ({"train": [(np.zeros((8, 8), np.uint8), 0), None]}, "an example must be"),
    ],
)
def test_wrong_objects(wrong, sentence, tmp_path):
    with pytest.raises((UserError, DataError), match=sentence):
        train.fit(config(), tmp_path / "run", **{"model": Net(2), "train": Squares()} | wrong)


def test_columns_pairs_and_examples_that_are_drawn():
    image = np.zeros((8, 8), np.uint8)
    assert wrap({"images": [image, image], "labels": [0, 1]}).labels.tolist() == [0, 1]
    assert len(wrap(((image, 0), (image, 1)))) == 2  # two examples, not images and labels

    class Drawn(list):
        def __getitem__(self, _):
            label = int(random.integers(2))
            return np.full((8, 8), label, np.uint8), label

    random = np.random.default_rng(0)
    drawn = wrap(Drawn(range(50)))
    assert np.array_equal(drawn.images[:, 0, 0, 0], drawn.labels) and 0 < drawn.labels.mean() < 1

    class Failing(list):
        def __getitem__(self, _):
            raise KeyError("gone")

    with pytest.raises(DataError, match="example 0 cannot be read: KeyError: 'gone'"):
        wrap(Failing(range(3)))


def test_more_outputs_than_classes_are_remembered(tmp_path):
    train.fit(config(epochs=1), tmp_path, model=Net(4), train=Squares())
    assert Run(str(tmp_path)).restore()[1]["params"]["head"]["bias"].shape == (4,)


# Losses, numbers, the end of a run


def test_numbers_of_an_evaluation_are_those_of_scikit_learn():
    """Also where the network is so sure that probabilities are 1 in float32."""
    from sklearn import metrics as peer

    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    logits = 30 * (random.normal(size=(400, 3)) + np.eye(3)[labels]).astype(np.float32)
    logits[-1] = np.nan  # an answer that is never right, and has no rank
    batch = metrics.sums(jnp.array(logits), jnp.array(labels), jnp.ones(400, bool))
    found = metrics.finalize([batch], 3)
    answers = logits.argmax(-1)
    answers[-1] = (labels[-1] + 1) % 3
    assert found["recall"] == pytest.approx(peer.recall_score(labels, answers, average="macro"))
    rest = np.delete(logits, -1, 0).astype(np.float64)
    others = [np.log(np.exp(np.delete(rest, k, 1) - 400).sum(1)) + 400 for k in range(3)]
    odds = rest - np.stack(others, 1)
    areas = [peer.roc_auc_score(labels[:-1] == k, odds[:, k]) for k in range(3)]
    assert found["auc"] == pytest.approx(np.mean(areas), abs=2e-3)


def test_a_loss_that_is_no_number_is_never_the_best():
    values = [{"loss": loss} for loss in (float("nan"), 1.0, 0.5)]
    assert max(values, key=lambda row: goodness(row, name="loss")) == values[2]
    assert goodness(values[0], name="loss") == -np.inf


def test_losses_on_hand_computed_values():
    logits, labels = jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
    from train.losses import cross_entropy

    p = jax.nn.sigmoid(2.0)
    binary = (-jnp.log(p) + jnp.log(2.0) + 2 * jnp.log(2.0)) / 2
    assert cross_entropy(logits, labels, name="binary") == pytest.approx(float(binary))
    focal = (-((1 - p) ** 2) * jnp.log(p) + 0.25 * jnp.log(2.0) + 2 * 0.25 * jnp.log(2.0)) / 2
    assert cross_entropy(logits, labels, name="focal") == pytest.approx(float(focal))
    plain = [float(-jnp.log(jax.nn.softmax(row)[k])) for row, k in zip(logits, labels)]
    weighted = cross_entropy(logits, labels, class_weights=(1.0, 3.0))
    assert weighted == pytest.approx((plain[0] + 3 * plain[1]) / 2)
    both = jnp.array([[1.0, 1.0]])  # an image with two labels
    assert cross_entropy(logits[:1], both, name="binary") == pytest.approx(
        float(-jnp.log(p) + jnp.log(2.0))
    )


def test_balanced_weights_come_from_the_training_split(tmp_path):
    from train.build import Given, Task

    task = Task(
        config(loss=Loss(class_weights="balanced")),
        given=Given(train=wrap(Squares()), evaluation=wrap(Squares(12)), model=Net(2)),
    )
    assert task.loss.keywords["class_weights"] == (48 / (2 * 32), 48 / (2 * 16))
    assert build.weights_of_classes(task.config, task.train_split, 3) == (0.75, 1.5, 1.0)


@pytest.mark.parametrize("best", ["balanced_accuracy", "loss"])
def test_a_run_ends_when_nothing_gets_better(best, tmp_path):
    still = optax.sgd(0.0)
    chosen = config(epochs=20, stop_after=2)
    chosen.checkpoint.best = best
    # BatchNorm's statistics still move, and the loss with them; the answers do not.
    things = dict(model=Net(2), train=Squares(), evaluation=Squares(12), tx=still)
    result = train.fit(chosen, tmp_path, **things)
    evaluated = rows(tmp_path, "test")
    values = [row[best] if best != "loss" else -row[best] for row in evaluated]
    top = int(np.argmax(values))
    assert len(values) == top + 3 and result["step"] == evaluated[-1]["step"] < 120
    assert Run(str(tmp_path)).last_step == result["step"]
    again = train.fit(chosen, tmp_path, **things)
    assert again["step"] == result["step"] and rows(tmp_path, "test") == evaluated
    kept = Run(str(tmp_path)).restore("best")[0]
    assert [v for v, row in zip(values, evaluated) if row["step"] == kept] == [max(values)]


def test_the_best_of_another_number_does_not_count(tmp_path):
    """Accuracies are above any loss as it counts, so that none would be better."""
    things = dict(model=Net(2), train=Squares(), evaluation=Squares(12), tx=optax.adam(0.005))
    chosen = config(epochs=4, stop_after=2)
    chosen.checkpoint.keep = 9
    train.fit(chosen, tmp_path, **things)
    for path in (tmp_path / "checkpoints").iterdir():
        if path.name.isdigit() and path.name != "4":
            path.rename(tmp_path / f"gone-{path.name}")
    assert Run(str(tmp_path)).steps() == [4]
    chosen.checkpoint.best = "loss"
    result = train.fit(chosen, tmp_path, **things)
    losses = [row["loss"] for row in rows(tmp_path, "test")]
    assert losses == sorted(losses, reverse=True) and len(losses) == 6
    assert result["step"] == Run(str(tmp_path)).last_step == 24


def test_float16_trains_and_shrinks_a_scale_that_is_too_large(tmp_path):
    class Half(nn.Module):
        num_classes: int = 2
        dtype: type = jnp.float32

        @nn.compact
        def __call__(self, images, train=False):
            x = nn.Conv(4, (3, 3), dtype=self.dtype, name="c1")(images.astype(self.dtype))
            logits = nn.Dense(self.num_classes, dtype=self.dtype)(nn.relu(x).mean((1, 2)))
            return Outputs(100 * logits.astype(jnp.float32), (), x)

    chosen = config(epochs=6)
    chosen.model.dtype = "float16"
    chosen.log.every = 18
    things = dict(train=Squares(), evaluation=Squares(12), model=Half(2, jnp.float16))
    result = train.fit(chosen, tmp_path, **things, tx=optax.adam(1e-3))
    assert np.isfinite(result["loss"])
    skipped = sum(row.get("skipped", 0) for row in rows(tmp_path))
    assert 0 < skipped < 18


@pytest.mark.parametrize(
    "title",
    ["Your own network, loss", "### Several labels an image", "Your own loop in twenty lines"],
)
def test_the_examples_of_the_readme_run(title, tmp_path, monkeypatch, capsys):
    text = (ROOT / "train/README.md").read_text().partition(title)[2]
    (tmp_path / "example.py").write_text(text.split("```")[1].removeprefix("python"))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("example.py", run_name="__main__")
    assert "'loss': " in capsys.readouterr().out.splitlines()[-1]


def checked(loss, model="lenet5", **augment):
    """Builds a task with a loss of one's own, which is traced as the step calls it."""
    source = "synthetic:32x32x3/10" if model != "lenet5" else "synthetic:28x28x1/10"
    images = dataclasses.replace(Data().augment, **augment)
    config = Config(data=Data(source=source, augment=images), model=Model(name=model))
    config.loss.name = "(object)"
    return build.Task(config, given=build.Given(loss=loss))


def test_a_loss_is_tried_with_what_the_step_hands_it():
    def of_mixed(outputs, labels):
        return optax.softmax_cross_entropy(outputs.logits, labels).mean()

    def of_heads(outputs, labels):
        heads = (outputs.logits, *outputs.aux)
        assert len(heads) == 3
        losses = optax.softmax_cross_entropy_with_integer_labels
        return sum(losses(head, labels).mean() for head in heads)

    checked(of_mixed, mixup=0.2)
    with pytest.raises(UserError, match="the loss fails"):
        checked(of_mixed)
    checked(of_heads, "inception_v1")
    checked(lambda outputs, labels: outputs.logits.mean(), "vgg11_bn")  # synced over the devices


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(lambda x: x.mean(), "a dict of numbers by name"), (lambda x: {"a": {"b": x}}, "loss's a")],
)
def test_a_loss_with_other_parts_is_refused(more, sentence):
    with pytest.raises(UserError, match=sentence):
        checked(lambda outputs, labels: (outputs.logits.mean(), more(outputs.logits)))
