"""Networks for small images, on CIFAR-10, CIFAR-100 and Fashion-MNIST.

    tfds build cifar10 --file_format=array_record    # once; it downloads the set
    python -m train --config=configs/small_images.py:cifar10 --workdir=runs/cifar10
    python -m train --config=configs/small_images.py:cifar10 --workdir=runs/cifar10_v1 \
        --config.model.name=inception_v1_bn --config.model.options.stem=32

VGG-16 with BatchNorm whose last map of 1x1 is read by dense layers of 512. With `stem=32`
GoogLeNet's first layers keep the side of the image.

Values: common ones.
    - the small VGG: Liu, Deng 2015 (Very deep convolutional neural network based image
      classification using small training sample size)
    - batch 128, Nesterov momentum, weight decay 5e-4, a shift by up to 4 pixels and mirroring
    - epochs, cosine and warm-up: our choice

Expected: 93 to 94 % of CIFAR-10's test images, 72 to 74 % of CIFAR-100's, for the VGG.
What was really run: not on these sets; the tests trace the step at full size.
"""

from typing import NamedTuple

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Model, Optim


class Row(NamedTuple):
    mean: tuple[float, ...]
    std: tuple[float, ...]


SETS = {
    "cifar10": Row((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Row((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashion_mnist": Row((0.2860,), (0.3530,)),
}


def get_config(name: str = "cifar10") -> Config:
    row = SETS[choice("name", name, SETS)]
    return Config(
        epochs=100,
        model=Model(name="vgg16_bn", options={"map": 1, "hidden": 512}),
        data=Data(
            source=f"tfds:{name}",
            size=32,
            batch_size=128,
            eval_batch_size=500,
            mean=row.mean,
            std=row.std,
            augment=Augment(shift=4, flip=True),
        ),
        optim=Optim(
            name="sgd",
            lr=0.05,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=1,
        ),
        log=Log(every=100, eval_every=390),
        checkpoint=Checkpoint(every=390),
    )
