"""One recipe of today for every network of the lineage, on ImageNet: what they are worth with ten years of tricks.

    python -m train --config=configs/modern_imagenet.py:inception_v4 --workdir=runs/modern/inception_v4
    python -m train --config=configs/modern_imagenet.py:vgg16 --workdir=runs/modern/vgg16

bfloat16, cosine with warm-up, batch 1024, averages of parameters and statistics, RandAugment, mixup and CutMix, label
smoothing; SGD with Nesterov's momentum where there is BatchNorm, AdamW with clipped gradients where there is none.
Auxiliary heads, where a network has them, with 0.4 of their mean loss. The values are common ones, none is tuned for
a network.

Expected: better than the papers' numbers for the networks with BatchNorm. What was really run: not on ImageNet here,
so there is no number; its step is traced for every network at full size in the tests.
"""

from cnnjax import create_model, get_spec
from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config(name: str = "inception_v3") -> Config:
    model = create_model(name)
    if getattr(model, "batch_norm", hasattr(model, "bn_momentum")):
        optim = Optim(
            name="sgd", lr=0.1, lr_per=256, momentum=0.9, nesterov=True, weight_decay=5e-5
        )
    else:
        optim = Optim(name="adamw", lr=2.5e-4, lr_per=256, weight_decay=0.05, clip=1.0)
    optim.schedule, optim.warmup, optim.ema = "cosine", 5, 0.9999
    return Config(
        epochs=200,
        model=Model(name=name, dtype="bfloat16"),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=get_spec(name).input_size[0], channels=3,
            batch_size=1024, eval_batch_size=1024, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
            transform=Transform(style="timm"),
            augment=Augment(
                crop="area", interpolation="random", flip=True, randaugment=2, magnitude=9, erase=0.0, mixup=0.2, cutmix=1.0
            ),
        ),
        optim=optim,
        loss=Loss(label_smoothing=0.1, aux_weight=0.4),
        log=Log(every=100, eval_every=1251),  # a pass
        checkpoint=Checkpoint(every=1251),
    )  # fmt: skip
