"""One recipe of today for every network of the lineage, on ImageNet.

    python -m train --config=configs/modern_imagenet.py:inception_v4 --workdir=runs/modern/v4
    python -m train --config=configs/modern_imagenet.py:vgg16 --workdir=runs/modern/vgg16

Values: our choice, common ones, tuned for no network.
    - bfloat16, batch 1024, 200 epochs, a cosine with warm-up, averaged parameters and statistics
    - RandAugment, mixup and CutMix, label smoothing
    - with BatchNorm: SGD with Nesterov momentum; without: AdamW with clipped gradients
    - 0.4 of the mean loss of the auxiliary heads, where a network has any

Expected: with BatchNorm, better than the papers' accuracies.
What was really run: not on ImageNet; the tests load the recipe for every network and trace one step
of inception_v2 at full size.
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
            source="tfds:imagenet2012",
            eval_split="validation",
            size=get_spec(name).input_size[0],
            channels=3,
            batch_size=1024,
            eval_batch_size=1024,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            transform=Transform(style="timm"),
            augment=Augment(
                crop="area",
                interpolation="random",
                flip=True,
                randaugment=2,
                magnitude=9,
                mixup=0.2,
                cutmix=1.0,
            ),
        ),
        optim=optim,
        loss=Loss(label_smoothing=0.1, aux_weight=0.4),
        log=Log(every=100, eval_every=1251),  # an epoch
        checkpoint=Checkpoint(every=1251),
    )
