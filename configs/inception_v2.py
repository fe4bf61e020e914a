"""BN-Inception (Inception-v2) as the paper trains it, on ImageNet: BN-x30 and BN-x5.

Paper: Ioffe, Szegedy: Batch normalization: accelerating deep network training by reducing internal
covariate shift, 2015.

    python -m train --config=configs/inception_v2.py --workdir=runs/inception_v2
    python -m train --config=configs/inception_v2.py:x5 --workdir=runs/inception_v2_x5

Values, with their source:
    section 4.2          SGD with momentum, batch 32
    section 4.2.1        no dropout, a fifth of Inception's weight decay, a rate that falls six
                         times as fast, less distortion of the colours
    section 4.2.2        rate 0.045 (x30) or 0.0075 (x5), 6 million steps (x30)
    Going deeper with convolutions, 2014, sections 5 and 6
                         the rate's decay before it was made faster, 4 % every 8 epochs; windows of
                         8 % to 100 % of the image; 0.3 of each auxiliary head's loss
    BVLC/caffe, models/bvlc_googlenet/solver.prototxt
                         the weight decay before it was divided by five, 2e-4
    tensorflow/models, inception/inception/inception_model.py (Inception-v3)
                         BatchNorm decay 0.9997, average decay 0.9999
    our choice           momentum 0.9, averaged weights, auxiliary heads (the paper mentions
                         neither averages nor heads), which colours (brightness and saturation),
                         as many steps for x5

Published: 74.8 % top-1 accuracy after 6 million steps (x30, section 4.2.2), 73.0 % (x5, Figure 3),
one crop.

What differs: several machines made the paper's updates; here each update is one batch of 32. For
larger batches, `--config.optim.lr_per=32 --config.data.batch_size=…` scales the rate with them.

What was really run: not on ImageNet; the step is traced at full size in the tests.
"""

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim

RATES = {"x30": 0.045, "x5": 0.0075}


def get_config(variant: str = "x30") -> Config:
    choice("variant", variant, RATES)
    return Config(
        epochs=150,  # 6 million steps
        model=Model(name="inception_v2", options={"bn_momentum": 0.9997}),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=224,
            batch_size=32,
            eval_batch_size=256,
            mean=(0.5,),
            std=(0.5,),
            augment=Augment(crop="area", area=(0.08, 1.0), flip=True, color="slim_fast"),
        ),
        optim=Optim(
            name="sgd",
            lr=RATES[variant],
            momentum=0.9,
            weight_decay=2e-4 / 5,
            schedule="step",
            decay_every=8 / 6,
            decay_rate=0.96,
            ema=0.9999,
            ema_warmup=True,
        ),
        loss=Loss(main_weight=1.0, aux_weight=0.6),  # of the mean of two heads: 0.3 each
        log=Log(every=500, eval_every=1_281_167 // 32),  # an epoch
        checkpoint=Checkpoint(every=5000),
    )
