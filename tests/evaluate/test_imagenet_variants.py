"""ImageNet's variants, as TFDS prepares them: some of the classes, several labels an image."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from tests.data.pictures import photo
from tests.evaluate.classifiers import make
from train import data
from train.config import Data
from train.evaluate import evaluation
from train.evaluate.predictions import table
from train.metrics import correct

NAMES = tuple(f"n{i:08}" for i in range(12))
SOME = (2, 5, 7, 11)


def prepare(place, kind, name):
    """A small set with the features that TFDS gives the one of that name."""
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=NAMES)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "file_name": tfds.features.Text(),
    }
    if name == "imagenet2012_real":
        features |= {"original_label": label, "real_label": tfds.features.Sequence(label)}
    else:
        features |= {"label": label}

    def examples():
        for i in range(30):
            row = {"image": photo(40, 40 + i, seed=i), "file_name": f"{i}.jpg"}
            if name == "imagenet2012_real":
                labels = [] if i % 5 == 0 else sorted({i % 12, 3 * i % 12})
                row |= {"original_label": i % 12, "real_label": labels}
            else:
                row["label"] = SOME[i % 4] if name in ("imagenet_a", "imagenet_r") else i % 12
            yield i, row

    with tfds.core.registered.skip_registration():
        methods = {
            "name": name,
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": lambda self: tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            ),
            "_split_generators": lambda self, _: {"test": examples()},
            "_generate_examples": lambda self: None,
        }
        class_name = name.title().replace("_", "")
        builder_class = type(class_name, (tfds.core.GeneratorBasedBuilder,), methods)
        builder = builder_class(data_dir=place, file_format=kind)
        builder.download_and_prepare()
    return data.load(f"tfds:{builder.data_path}", "test")


def make_classifier(tmp_path):
    classifier = make(tmp_path, classes=NAMES)
    return classifier._replace(data=Data(source="tfds:x", size=32, eval_batch_size=8))


@pytest.mark.parametrize(
    ("kind", "name"), [("array_record", "imagenet_r"), ("tfrecord", "imagenet_a")]
)
def test_answers_come_from_the_classes_that_occur(kind, name, tmp_path):
    split = prepare(tmp_path, kind, name)
    classifier = make_classifier(tmp_path)
    split.counted, counted = None, split.counted
    whole = evaluation.answer([classifier], split)
    split.counted = counted
    answers = evaluation.answer([classifier], split)
    assert answers.classes == tuple(NAMES[i] for i in SOME)
    shares = np.exp(whole.log_probabilities)[:, SOME]
    np.testing.assert_allclose(
        np.exp(answers.log_probabilities), shares / shares.sum(-1, keepdims=True), rtol=1e-5
    )
    assert [answers.classes[i] for i in answers.labels] == [NAMES[i] for i in whole.labels]
    assert len(table(answers, split)[0]) == 2 + 2 * 4
    # Two classes are in this part, but four in the whole set.
    part = data.load(split._name.split(",")[0], "test[:2]")
    assert part.counted.tolist() == list(SOME)


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_real_labels_are_right_if_one_of_them_is(kind, tmp_path):
    split = prepare(tmp_path, kind, "imagenet2012_real")
    classifier = make_classifier(tmp_path)
    result = evaluation.evaluate_all([classifier], split, "test", None)
    assert (result["examples"], result["unlabelled"]) == (24, 6) and "unreadable" not in result
    split.accepted, accepted = None, split.accepted
    logs = evaluation.answer([classifier], split).log_probabilities
    first, five = [], []
    for row, right in zip(logs, accepted):
        if len(right):
            order = np.argsort(-row)
            first.append(order[0] in right)
            five.append(bool(set(order[:5]) & set(right)))
    assert (result["top1"], result["top5"]) == pytest.approx((np.mean(first), np.mean(five)))


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_sketch"])
def test_others_are_ordinary_sets(name, tmp_path):
    split = prepare(tmp_path, "array_record", name)
    assert split.counted is None and split.accepted is None
    answers = evaluation.answer([make_classifier(tmp_path)], split)
    expected = sklearn.accuracy_score(split.labels, answers.log_probabilities.argmax(-1))
    top1 = correct(answers.log_probabilities, answers.labels).mean()
    assert top1 == pytest.approx(expected)
