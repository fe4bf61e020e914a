"""Every architecture on 5,000 real digits at a low resolution, on a CPU: does each one learn?

    python -m train --config=configs/lineage_mnist5k.py:inception_v1 --workdir=runs/lineage/v1
    make lineage    # all of them, one after the other, and the table

The digits become three-channel images of the smallest size that leaves each network a map of at
least 1x1 at its end. Inception-v3 takes its stem for small images.

Values: our choice.
Expected: at least 97 % of the 1,000 test digits.
What was really run: all of them, by `make lineage`; the results are in `.readme/lineage.md`.
"""

from typing import Any, NamedTuple

from cnnjax.spelling import choice
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim


class Row(NamedTuple):
    size: int  # side of the images
    lr: float = 1e-3  # AdamW's
    epochs: float = 6
    options: dict[str, Any] = {}
    std: float = 0.31  # by which pixels in [0, 1] are divided


# Networks without BatchNorm need a lower rate.
# The auxiliary heads of v3 and later need larger images than these.
ROWS = {
    "lenet5": Row(28, epochs=30),
    "alexnet": Row(67, lr=2e-4, std=1 / 255),  # its initial weights are made for pixels in 0..255
    "alexnet_owt": Row(63, lr=2e-4),
    "vgg11": Row(32, lr=2e-4),
    "vgg11_bn": Row(32, lr=2e-4),
    "vgg16": Row(32, lr=1e-4),
    "vgg16_bn": Row(32, lr=2e-4),
    "vgg19": Row(32, lr=1e-4),
    "inception_v1": Row(32, lr=5e-4, epochs=15),
    "inception_v1_bn": Row(32, epochs=12),
    "inception_v2": Row(32, epochs=12),
    "inception_v3": Row(39, options={"stem": 151, "aux": False}),
    "inception_v4": Row(75, epochs=6),
    "inception_resnet_v1": Row(75, epochs=6),
    "inception_resnet_v2": Row(75, epochs=6),
}


def get_config(name: str = "inception_v1") -> Config:
    row = ROWS[choice("name", name, ROWS)]
    return Config(
        epochs=row.epochs,
        model=Model(name=name, options=dict(row.options)),
        data=Data(
            source="mnist5k",
            size=row.size,
            channels=0 if name == "lenet5" else 3,
            batch_size=64,
            eval_batch_size=250,
            mean=(0.13,),
            std=(row.std,),
            augment=Augment(rotate=12, scale=0.12, shear=0.1),
        ),
        optim=Optim(
            name="adamw", lr=row.lr, weight_decay=0.01, clip=1.0, schedule="cosine", warmup=1
        ),
        loss=Loss(label_smoothing=0.1),
        log=Log(every=31, eval_every=250),
        checkpoint=Checkpoint(every=250, keep=1),
    )
