"""Networks of torchvision and timm, saved by them, with their own transforms: the same answers to a
folder of photographs.
"""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.classifiers import CLASSES, photos
from tests.parity.peers import randomise, timm_module, torchvision_models
from train import classifier, data
from train.config import Data
from train.evaluate.__main__ import main as evaluate

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos") / "set"
    photos(root, held_out=2)
    return root


def of_torchvision(name):
    """(network, its own transform), as its weights come with."""
    options = {"transform_input": True, "init_weights": False} if name == "inception_v3" else {}
    models = torchvision_models()
    network = getattr(models, name)(weights=None, num_classes=4, **options)
    return network, models.get_model_weights(name).DEFAULT.transforms()


def of_timm(name):
    timm = timm_module()
    network = timm.create_model(name, pretrained=False, num_classes=4)
    return network, timm.data.create_transform(
        **timm.data.resolve_model_data_config(network), is_training=False
    )


def scale(transform):
    """(mean, standard deviation) that the transform ends with."""
    last = transform if hasattr(transform, "mean") else transform.transforms[-1]
    return list(last.mean), list(last.std)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision", "vgg11"),
        ("torchvision", "inception_v3"),
        ("timm", "vgg11"),
        ("timm", "inception_v4"),
    ],
)
def test_the_same_answers_with_their_own_transforms(source, name, folder, tmp_path):
    import torch

    network, transform = of_torchvision(name) if source == "torchvision" else of_timm(name)
    randomise(network)
    split = data.load(f"folder:{folder}", "val")
    batch = torch.stack(
        [transform(Image.open(split.name(i)).convert("RGB")) for i in range(len(split))]
    )
    with torch.no_grad():
        last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight /= network(batch).std()  # so that no answer is certain
        expected = torch.softmax(network(batch), -1).numpy()
    assert expected.max() < 0.999 and expected.std(0).max() > 1e-3  # there is something to agree on
    path = tmp_path / "network.pth"
    torch.save(network.state_dict(), path)
    seen = classifier.from_weights(str(path), name, source, images=Data(source=f"folder:{folder}"))
    # Of our pixels, which may be one grey level off: what is left between the networks themselves.
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in scale(transform))
    pixels = torch.from_numpy(data.read(split, np.arange(len(split)), seen.data))
    with torch.no_grad():
        of_pixels = torch.softmax(
            network((pixels.permute(0, 3, 1, 2) / 255 - mean) / std), -1
        ).numpy()

    result = evaluate(
        [
            f"--weights={path}",
            f"--model={name}",
            f"--source={source}",
            f"--data=folder:{folder}",
            "--split=val",
            "--batch-size=4",
            "--predictions=csv",
            f"--out={tmp_path}",
        ]
    )
    with open(result["predictions"]) as file:
        rows = list(csv.DictReader(file))
    ours = [
        [{r[f"class{k}"]: float(r[f"probability{k}"]) for k in range(1, 5)}[c] for c in CLASSES]
        for r in rows
    ]
    print(
        f"{source} {name}: {np.abs(ours - expected).max():.1e}, spread {expected.std(0).max():.1e}"
    )
    np.testing.assert_allclose(ours, of_pixels, atol=1e-5)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert result["top1"] == np.mean(expected.argmax(-1) == split.labels)
