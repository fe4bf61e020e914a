"""GoogLeNet. Szegedy et al.: Going deeper with convolutions, 2014, section 6.

    python -m train --config=configs/inception_v1.py --workdir=runs/inception_v1            # the paper
    python -m train --config=configs/inception_v1.py:bvlc --workdir=runs/inception_v1_bvlc    # Caffe's published solver
    python -m train --config=configs/inception_v1.py:course --workdir=runs/inception_v1_course

paper: momentum 0.9, the rate 4 % lower every 8 passes, averaged weights at the end, windows of 8 % to 100 % of the
image with aspect 3/4 to 4/3 and any kernel, colours distorted; the loss is the classifier's plus 0.3 of each of the
two heads'. It gives neither the first rate nor the batch nor how long: 0.01, 32 and 2e-4 of weight decay are Caffe's,
250 passes a choice.
Published: top-5 error 10.07 % with one crop, 7.89 % with 144.
bvlc: bvlc_googlenet's quick solver: rate 0.01 (1 - t/T)^0.5 over 60 passes at batch 32, windows of 256x256, mirrored;
published there: top-1 68.7 %, top-5 88.9 %, one crop.
course: the paper's with 0.7 of the classifier's loss and 0.3 of the mean of the heads'.

What was really run: not on ImageNet here; one step of it is part of the tests, and small digits were learnt with
heads and label smoothing on and off.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform

PASS = 1_281_167 // 32  # updates


def get_config(variant: str = "paper") -> Config:
    config = Config(
        epochs=250,
        model=Model(name="inception_v1"),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=224, batch_size=32, eval_batch_size=256,
            mean=(123 / 255, 117 / 255, 104 / 255), std=(1 / 255,), transform=Transform(resize=256),
            augment=Augment(crop="area", area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), interpolation="random", flip=True,
                            color="slim"),
        ),
        optim=Optim(
            name="sgd", lr=0.01, momentum=0.9, lr_inside=True, weight_decay=2e-4,
            schedule="step", decay_every=8, decay_rate=0.96, ema=0.9999, ema_warmup=True,
        ),
        loss=Loss(main_weight=1.0, aux_weight=0.6),  # of the mean of two heads: 0.3 each
        log=Log(every=500, eval_every=PASS),
        checkpoint=Checkpoint(every=5000),
    )  # fmt: skip
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
    elif variant != "paper":
        raise ValueError(f"paper, bvlc or course, got {variant!r}")
    return config
