"""Inception-v3. Szegedy et al.: Rethinking the Inception architecture for computer vision, 2015, section 8.

    python -m train --config=configs/inception_v3.py --workdir=runs/inception_v3         # the paper
    python -m train --config=configs/inception_v3.py:tpu --workdir=runs/inception_v3_tpu    # Google's, for one large batch

paper: RMSProp with decay 0.9 and epsilon 1, momentum 0.9, batch 32 an update, rate 0.045 times 0.94 every two passes,
100 passes, gradient clipped to 2 (the global norm is meant in most readings), label smoothing 0.1, auxiliary head
with 0.4 (from notes on the paper's sources), averages of the parameters evaluated. Weight decay 4e-5, averages' decay
0.9999 and BatchNorm's 0.9997 are those of Google's code, of which the first is from memory. Published: top-1 error
21.2 %, top-5 5.6 %, one crop of the images that are not on the black list.
tpu: batch 1024, rate 0.165 for each 256, times 0.94 every three passes, down to 1e-4 of it, linear warm-up, averages'
decay 0.995, BatchNorm's 0.996, no clipping, the same otherwise; about 78.1 % top-1 in 170 passes (from memory).

What differs in `paper`: fifty machines made its updates one after the other without waiting; here each update is a
batch of 32. With more devices take `tpu`, or `--config.optim.lr_per=32` and a larger batch.

What was really run: not on ImageNet here; one step of it, small, is part of the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config(variant: str = "paper") -> Config:
    batch = {"paper": 32, "tpu": 1024}[variant]
    config = Config(
        epochs=100,
        model=Model(name="inception_v3", options={"bn_momentum": 0.9997, "bn_scale": False}),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=299, batch_size=batch, eval_batch_size=256,
            mean=(0.5,), std=(0.5,), transform=Transform(style="slim"),
            augment=Augment(crop="area", area=(0.05, 1.0), flip=True, color="slim_fast"),
        ),
        optim=Optim(
            name="rmsprop", lr=0.045, momentum=0.9, decay=0.9, epsilon=1.0, weight_decay=4e-5, clip=2.0,
            schedule="step", decay_every=2, decay_rate=0.94, ema=0.9999, ema_warmup=True,
        ),
        loss=Loss(label_smoothing=0.1, main_weight=1.0, aux_weight=0.4),
        log=Log(every=500, eval_every=1_281_167 // batch),
        checkpoint=Checkpoint(every=160_000 // batch),
    )  # fmt: skip
    if variant == "tpu":
        config.epochs = 170
        config.model.options["bn_momentum"] = 0.996
        config.optim = Optim(
            name="rmsprop", lr=0.165, lr_per=256, momentum=0.9, decay=0.9, epsilon=1.0, weight_decay=4e-5,
            schedule="step", decay_every=3, decay_rate=0.94, floor=1e-4, warmup=5, ema=0.995,
        )  # fmt: skip
    return config
