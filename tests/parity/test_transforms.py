"""Evaluation transforms against torchvision's and timm's own."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import encoded, photo
from tests.parity.peers import timm_module, torchvision_models
from train.config import Data, Transform
from train.data.transforms import make_transform

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    "shape", [(375, 500), (500, 333), (224, 224), (80, 60), (37, 410), (410, 37), (1, 1)]
)
@pytest.mark.parametrize("size", [224, 299])
@pytest.mark.parametrize("style", ["torchvision", "timm"])
def test_evaluation_transforms(shape, size, style):
    torchvision_models()
    from torchvision import transforms

    if style == "torchvision":
        theirs = transforms.Compose(
            [transforms.Resize(round(size / 0.875)), transforms.CenterCrop(size)]
        )
    else:
        create = timm_module().data.create_transform
        steps = create(
            (3, size, size), is_training=False, interpolation="bicubic", crop_pct=0.875
        ).transforms
        theirs = transforms.Compose(steps[:2])
    file = encoded(photo(*shape))
    ours = make_transform(Data(size=size, transform=Transform(style=style)), 3)(file)
    expected = np.asarray(theirs(Image.open(io.BytesIO(file)).convert("RGB")))
    assert np.abs(ours.astype(int) - expected).max() <= 1
