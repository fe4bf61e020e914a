"""Inception-v4, Inception-ResNet-v1 and -v2 as their paper trains them, on ImageNet.

Paper: Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the impact of residual
connections on learning, 2016 (arXiv), 2017 (AAAI).

    python -m train --config=configs/inception_2016.py:inception_v4 --workdir=runs/inception_v4
    python -m train --config=configs/inception_2016.py:inception_resnet_v1 --workdir=runs/ir_v1
    python -m train --config=configs/inception_2016.py:inception_resnet_v2 --workdir=runs/ir_v2
    python -m train --config=configs/inception_2016.py:inception_resnet_v2_paper --workdir=runs/ir_p

Values, with their source:
    arXiv, section 4     RMSProp with decay 0.9 and epsilon 1, rate 0.045, times 0.94 every two
                         epochs; a running average of the parameters is evaluated
    AAAI                 the gradient is clipped; the threshold is not given
    Rethinking the Inception architecture, 2015, sections 7 and 8
                         batch 32, threshold 2.0, label smoothing 0.1 (see `inception_v3.py`)
    tensorflow/models, inception/inception, inception_model.py and inception_train.py (Inception-v3)
                         weight decay 4e-5, momentum 0.9, average decay 0.9999, BatchNorm 0.9997
    tensorflow/models, research/slim/preprocessing/inception_preprocessing.py
                         windows of 5 % to 100 % of the image, brightness and saturation
    our choice           160 epochs, clipping by the global norm

Published, one crop of the validation images that are not blacklisted (arXiv Table 2, AAAI Table 1):

    model                  top-1 error   top-5 error
    inception_v4              20.0 %        5.0 %
    inception_resnet_v1       21.3 %        5.5 %
    inception_resnet_v2       19.9 %        4.9 %

`inception_resnet_v2` is the network that was released; `inception_resnet_v2_paper` is the one that
the paper draws; we know of no published accuracy for it. The auxiliary heads of TF-slim's networks
are off, as the paper has none.

What differs: the paper trains on twenty replicas and does not say how their updates are combined;
here each update is one batch of 32. With more devices, use `--config.optim.lr_per=32` and a
larger `--config.data.batch_size`.

What was really run: not on ImageNet; the step of the first three is traced at full size in the
tests.
"""

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform

MODELS = ("inception_v4", "inception_resnet_v1", "inception_resnet_v2", "inception_resnet_v2_paper")


def get_config(name: str = "inception_v4") -> Config:
    choice("name", name, MODELS)
    return Config(
        epochs=160,
        model=Model(name=name, options={"bn_momentum": 0.9997, "bn_scale": False}),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=299,
            batch_size=32,
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
        loss=Loss(label_smoothing=0.1),
        log=Log(every=500, eval_every=1_281_167 // 32),  # an epoch
        checkpoint=Checkpoint(every=5000),
    )
