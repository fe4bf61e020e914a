"""LeNet-5 as the paper trains it.

LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998.

    python -m train --config=configs/lenet_1998.py --workdir=runs/lenet_1998
    python -m train --config=configs/lenet_1998.py:mnist5k --workdir=runs/lenet_1998_small    # the digits that come along

One pattern an update, 20 passes, the global rate in five stages, no weight decay, inputs with background -0.1 and ink
1.175.
Published: 0.95 % test error on MNIST. (Rates, inputs and error are quoted from memory: not checked against the
paper.)

What differs: the paper divides each weight's rate by an estimate of its curvature (stochastic diagonal Levenberg-
Marquardt); here the stages are kept, relative to one rate for all weights. The criterion is the discriminative one
without its constant floor.

What was really run: not on the full MNIST here. `tfds:mnist` has to be prepared beforehand; nothing downloads by
itself.
"""

from train.config import Checkpoint, Config, Data, Log, Model, Optim

STAGES = {2: 2e-4, 5: 1e-4, 8: 5e-5, 12: 1e-5}  # from this pass on, the global rate; 5e-4 before


def get_config(source: str = "tfds:mnist") -> Config:
    return Config(
        epochs=20,
        model=Model(name="lenet5_1998"),
        data=Data(source=source, batch_size=1, eval_batch_size=500, mean=(0.0784,), std=(0.7843,)),
        optim=Optim(
            name="sgd", lr=2e-3, momentum=0.0, schedule="piecewise",
            boundaries=tuple(STAGES), factors=tuple(rate / 5e-4 for rate in STAGES.values()),
        ),
        log=Log(every=5000, eval_every=60_000),
        checkpoint=Checkpoint(every=60_000),
    )  # fmt: skip
