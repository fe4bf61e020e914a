"""VGG as the paper trains it, with scale jitter, on ImageNet.

Paper: Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition,
2014.

    python -m train --config=configs/vgg.py:vgg16 --workdir=runs/vgg16
    python -m train --config=configs/vgg.py:vgg19 --workdir=runs/vgg19

Values, with their source:
    section 3.1          SGD, batch 256, momentum 0.9, weight decay 5e-4, dropout 0.5; rate 0.01,
                         divided by ten three times, when the validation accuracy stops improving;
                         74 epochs; windows of 224 of images whose short side is 256 to 512,
                         mirrored, colours shifted as AlexNet's
    our choice           weight decay on biases, too (the paper does not exempt them); a plateau is
                         five evaluations in a row without a better top-1 accuracy; rate inside the
                         velocity, as in Caffe, on which the paper's code is based (section 3.3)

Published: dense evaluation at short side 384 (`train.evaluate --protocol=dense`, Table 3):

    model    top-1 error   top-5 error
    vgg16       25.6 %        8.1 %
    vgg19       25.5 %        8.0 %

What differs: the paper starts the deeper networks from layers of a trained column A, and fine-tunes
the one with scale jitter from one of the same columns at the fixed scale 384. Here a network starts
from He's initial weights. Images are divided by their deviation, for which these are made.

What was really run: not on ImageNet; the step of vgg16 is traced at full size in the tests.
"""

from cnnjax import list_models
from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Model, Optim, Transform


def get_config(name: str = "vgg16") -> Config:
    choice("name", name, [model for model in list_models() if model.startswith("vgg")])
    return Config(
        epochs=74,
        model=Model(name=name),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=224,
            batch_size=256,
            eval_batch_size=256,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            transform=Transform(resize=256),
            augment=Augment(crop="scale", short_side=(256, 512), flip=True, lighting=0.1),
        ),
        optim=Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            lr_inside=True,
            weight_decay=5e-4,
            decayed="biases",
            schedule="plateau",
            decay_rate=0.1,
            patience=5,
            floor=1e-3,
        ),
        log=Log(every=100, eval_every=5005),  # an epoch
        checkpoint=Checkpoint(every=1000),
    )
