"""VGG. Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, 2014, section 3.1.

    python -m train --config=configs/vgg.py:vgg16 --workdir=runs/vgg16
    python -m train --config=configs/vgg.py:vgg19 --workdir=runs/vgg19

Batch 256, momentum 0.9, weight decay 5e-4, dropout 0.5, rate 0.01 divided by ten on a plateau, three times, 74
passes; windows of images whose short side is anywhere from 256 to 512, mirrored, colours shifted as AlexNet's. (All
of this from memory: not checked against the paper.) Published, dense evaluation at short side 384: top-1 error 25.6
%, top-5 8.1 % for vgg16, 25.5 % and 8.0 % for vgg19 (`train.evaluate --protocol=dense`).

What differs: the paper starts its deep networks from the trained column A and the fixed scale 256; here they start
from He's initial values, with which that is not needed, and images are divided by their deviation, for which those
are made.

What was really run: not on ImageNet here; its step is traced at full size in the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Model, Optim, Transform


def get_config(name: str = "vgg16") -> Config:
    return Config(
        epochs=74,
        model=Model(name=name),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=224, batch_size=256, eval_batch_size=256,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), transform=Transform(resize=256),
            augment=Augment(crop="scale", short_side=(256, 512), flip=True, lighting=0.1),
        ),
        optim=Optim(
            name="sgd", lr=0.01, momentum=0.9, lr_inside=True, weight_decay=5e-4, decayed="biases",
            schedule="plateau", decay_rate=0.1, patience=5, floor=1e-3,
        ),
        log=Log(every=100, eval_every=5005),  # a pass
        checkpoint=Checkpoint(every=1000),
    )  # fmt: skip
