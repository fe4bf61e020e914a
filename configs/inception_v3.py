"""Inception-v3 as the paper and as Google's TPU script train it, on ImageNet.

Paper: Szegedy et al.: Rethinking the Inception architecture for computer vision, 2015.

    python -m train --config=configs/inception_v3.py --workdir=runs/inception_v3
    python -m train --config=configs/inception_v3.py:tpu --workdir=runs/inception_v3_tpu

paper, with the source of its values:
    section 8            RMSProp with decay 0.9 and epsilon 1, batch 32, 100 epochs; rate 0.045,
                         times 0.94 every two epochs; gradients clipped at 2.0; a running average
                         of the parameters is evaluated
    section 7            label smoothing 0.1
    tensorflow/models, inception/inception, inception_model.py and inception_train.py
                         0.4 of the auxiliary head's loss, weight decay 4e-5, momentum 0.9, average
                         decay 0.9999 with warm-up, BatchNorm decay 0.9997
    tensorflow/models, research/slim/preprocessing/inception_preprocessing.py
                         windows of 5 % to 100 % of the image, brightness and saturation
    our choice           clipping by the global norm (the paper does not say which norm)
tpu: tensorflow/tpu, models/experimental/inception/inception_v3.py:
    batch 1024; rate 0.165 for each 256 images, times 0.94 every three epochs, at least 1e-4 of the
    first; average decay 0.995 with warm-up, BatchNorm decay 0.996, no clipping, the rest as above.
    Our choice: five epochs of linear warm-up (the script's own warm-up is longer, and off).

Published:
    paper                21.2 % top-1, 5.6 % top-5 error, one crop of the 48,238 validation images
                         that are not blacklisted (sections 10 and 11)
    tpu                  above 78.1 % top-1 accuracy in about 170 epochs
                         (cloud.google.com/tpu/docs/inception-v3-advanced)

What differs: the paper trains on fifty replicas and does not say how their updates are combined;
here each update is one batch of 32. With more devices, use `tpu`, or `--config.optim.lr_per=32` and
a larger `--config.data.batch_size`. TF-slim's windows cover at least a tenth of an object's
bounding box; here boxes are not used. The TPU script shifts brightness and chroma (Cb, Cr); here it
is brightness and saturation.

What was really run: not on ImageNet; one small step is part of the tests.
"""

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config(variant: str = "paper") -> Config:
    choice("variant", variant, ("paper", "tpu"))
    batch_size = 1024 if variant == "tpu" else 32
    config = Config(
        epochs=100,
        model=Model(name="inception_v3", options={"bn_momentum": 0.9997, "bn_scale": False}),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=299,
            batch_size=batch_size,
            eval_batch_size=256,
            mean=(0.5,),
            std=(0.5,),
            transform=Transform(style="slim"),
            augment=Augment(crop="area", area=(0.05, 1.0), flip=True, color="slim_fast"),
        ),
        optim=Optim(
            name="rmsprop",
            lr=0.045,
            momentum=0.9,
            decay=0.9,
            epsilon=1.0,
            weight_decay=4e-5,
            clip=2.0,
            schedule="step",
            decay_every=2,
            decay_rate=0.94,
            ema=0.9999,
            ema_warmup=True,
        ),
        loss=Loss(label_smoothing=0.1, main_weight=1.0, aux_weight=0.4),
        log=Log(every=500, eval_every=1_281_167 // batch_size),  # an epoch
        checkpoint=Checkpoint(every=160_000 // batch_size),
    )
    if variant == "tpu":
        config.epochs = 170
        config.model.options["bn_momentum"] = 0.996
        config.optim = Optim(
            name="rmsprop",
            lr=0.165,
            lr_per=256,
            momentum=0.9,
            decay=0.9,
            epsilon=1.0,
            weight_decay=4e-5,
            schedule="step",
            decay_every=3,
            decay_rate=0.94,
            floor=1e-4,
            warmup=5,
            ema=0.995,
            ema_warmup=True,
        )
    return config
