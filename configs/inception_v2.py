"""BN-Inception. Ioffe, Szegedy: Batch normalization: accelerating deep network training …, 2015, section 4.2: BN-x30.

    python -m train --config=configs/inception_v2.py --workdir=runs/inception_v2          # BN-x30
    python -m train --config=configs/inception_v2.py:x5 --workdir=runs/inception_v2_x5

Batch 32, momentum; rate 0.045 (x30; 0.0075 for x5), falling six times as fast as Inception's 4 % in 8 passes; no
dropout, no local response normalisation, a fifth of the weight decay, less distortion of the colours.
Published: 74.8 % top-1 behind 6 million updates (x30), 73.0 % (x5), one crop.

What differs: the paper's updates come from several machines one after the other, here from one batch; it names
neither the momentum (0.9 here) nor the first weight decay (2e-4 / 5 here, from Caffe's GoogLeNet) nor its averages'
decay (0.9997, TF-slim's).
For larger batches: `--config.optim.lr_per=32 --config.data.batch_size=…` lets the rate grow with them.

What was really run: not on ImageNet here; its step is traced at full size in the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim

RATES = {"x30": 0.045, "x5": 0.0075}


def get_config(variant: str = "x30") -> Config:
    return Config(
        epochs=150,  # 6 million updates
        model=Model(name="inception_v2", options={"bn_momentum": 0.9997}),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=224, batch_size=32, eval_batch_size=256,
            mean=(0.5,), std=(0.5,), augment=Augment(crop="area", area=(0.08, 1.0), flip=True, color="slim_fast"),
        ),
        optim=Optim(
            name="sgd", lr=RATES[variant], momentum=0.9, weight_decay=4e-5,
            schedule="step", decay_every=8 / 6, decay_rate=0.96, ema=0.9999, ema_warmup=True,
        ),
        loss=Loss(main_weight=1.0, aux_weight=0.6),
        log=Log(every=500, eval_every=1_281_167 // 32),
        checkpoint=Checkpoint(every=5000),
    )  # fmt: skip
