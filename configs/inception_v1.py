"""GoogLeNet (Inception-v1) as the paper, as Caffe and as a course train it, on ImageNet.

Paper: Szegedy et al.: Going deeper with convolutions, 2014.

    python -m train --config=configs/inception_v1.py --workdir=runs/inception_v1
    python -m train --config=configs/inception_v1.py:bvlc --workdir=runs/inception_v1_bvlc
    python -m train --config=configs/inception_v1.py:course --workdir=runs/inception_v1_course

paper, with the source of its values:
    section 6            momentum 0.9, rate 4 % lower every 8 epochs, averaged weights; windows of
                         8 % to 100 % of the image with aspect 3/4 to 4/3, random interpolation,
                         colours distorted
    section 5            the loss adds 0.3 of each of the two auxiliary heads'
    BVLC/caffe, models/bvlc_googlenet/solver.prototxt and train_val.prototxt
                         rate 0.01, weight decay 2e-4, batch 32, 250 epochs, the mean colour
    our choice           which colour distortion (TF-slim's), average decay 0.9999
bvlc: models/bvlc_googlenet/quick_solver.prototxt of BVLC/caffe: rate 0.01 (1 - t/T)^0.5 over 60
    epochs, biases at twice the rate and without weight decay, windows mirrored, nothing distorted.
course: the paper's values, with 0.7 of the classifier's loss and 0.3 of the mean of the heads'.

Published:
    paper                10.07 % top-5 error with one crop, 7.89 % with 144 (Table 3)
    bvlc                 68.7 % top-1, 88.9 % top-5 accuracy, centre crop (its readme.md)

What differs: DistBelief made the paper's updates asynchronously; here each is one batch. Caffe's
images are resized to 256x256; here their short side is.

What was really run: not on ImageNet; one step is part of the tests.
"""

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config(variant: str = "paper") -> Config:
    choice("variant", variant, ("paper", "bvlc", "course"))
    config = Config(
        epochs=250,
        model=Model(name="inception_v1"),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=224,
            batch_size=32,
            eval_batch_size=256,
            mean=(123 / 255, 117 / 255, 104 / 255),
            std=(1 / 255,),
            transform=Transform(resize=256),
            augment=Augment(
                crop="area",
                area=(0.08, 1.0),
                aspect=(3 / 4, 4 / 3),
                interpolation="random",
                flip=True,
                color="slim",
            ),
        ),
        optim=Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            lr_inside=True,
            weight_decay=2e-4,
            schedule="step",
            decay_every=8,
            decay_rate=0.96,
            ema=0.9999,
            ema_warmup=True,
        ),
        loss=Loss(main_weight=1.0, aux_weight=0.6),  # of the mean of two heads: 0.3 each
        log=Log(every=500, eval_every=1_281_167 // 32),  # an epoch
        checkpoint=Checkpoint(every=5000),
    )
    if variant == "bvlc":
        config.epochs = 60
        config.data.augment = Augment(crop="scale", short_side=(256, 256), flip=True)
        config.optim = Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            lr_inside=True,
            weight_decay=2e-4,
            lr_scale=("bias$=2",),
            schedule="polynomial",
            power=0.5,
        )
    elif variant == "course":
        config.loss = Loss(main_weight=0.7, aux_weight=0.3)
    return config
