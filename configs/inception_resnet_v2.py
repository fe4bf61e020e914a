"""Inception-ResNet-v2.

Szegedy, Ioffe, Vanhoucke, Alemi: Inception-v4, Inception-ResNet and the impact of residual connections …, 2016,
section 4.

    python -m train --config=configs/inception_resnet_v2.py --workdir=runs/inception_resnet_v2

RMSProp with decay 0.9 and epsilon 1, rate 0.045 times 0.94 every two passes, averages of the parameters evaluated,
gradient clipped (in the version of AAAI). Published: top-1 error 19.9 %, top-5 4.9 %, one crop of the images that are
not on the black list.
The network is the released one, whose accuracies these are; `--config.model.name=inception_resnet_v2_paper` is the
paper's drawing.

The paper states neither batch, weight decay, augmentation, label smoothing nor how long: those are Inception-v3's
here, 32, 4e-5 (from memory), 0.1, and 160 passes as a choice. Twenty machines made its updates without waiting for
each other; here each is a batch of 32. With more devices, `--config.optim.lr_per=32` and a larger
`--config.data.batch_size`.

What was really run: not on ImageNet here; its step is traced at full size in the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config() -> Config:
    return Config(
        epochs=160,
        model=Model(name="inception_resnet_v2", options={"bn_momentum": 0.9997, "bn_scale": False}),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=299, batch_size=32, eval_batch_size=256,
            mean=(0.5,), std=(0.5,), transform=Transform(style="slim"),
            augment=Augment(crop="area", area=(0.05, 1.0), flip=True, color="slim_fast"),
        ),
        optim=Optim(
            name="rmsprop", lr=0.045, momentum=0.9, decay=0.9, epsilon=1.0, weight_decay=4e-5, clip=2.0,
            schedule="step", decay_every=2, decay_rate=0.94, ema=0.9999, ema_warmup=True,
        ),
        loss=Loss(label_smoothing=0.1),
        log=Log(every=500, eval_every=1_281_167 // 32),
        checkpoint=Checkpoint(every=5000),
    )  # fmt: skip
