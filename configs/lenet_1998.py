"""LeNet-5 as the paper trains it, on MNIST.

Paper: LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition,
1998.

    python -m train --config=configs/lenet_1998.py --workdir=runs/lenet_1998
    python -m train --config=configs/lenet_1998.py:mnist5k --workdir=runs/lenet_1998_small

The argument is the data source; `mnist5k` is the 5,000 embedded digits. `tfds:mnist` has to be
prepared beforehand, since training downloads nothing.

Values, with their source (checked against public summaries and code that quote the paper, not
against the paper itself):
    section II.B         background -0.1, ink 1.175
    section II.C         the discriminative criterion (equation 9)
    section III.B        20 epochs, an update after every image, the global rate in five stages
    our choice           the first rate; the stages are the paper's, relative to it

Published: 0.95 % test error on MNIST (section III.B).

What differs: the paper divides each weight's rate by an estimate of its curvature (appendix C,
stochastic diagonal Levenberg-Marquardt); here all weights have one rate. The criterion omits its
constant exp(-j).

What was really run: not on the full MNIST; one step on the embedded digits is part of the tests.
"""

from train.config import Checkpoint, Config, Data, Log, Model, Optim

STAGES = {0: 5e-4, 2: 2e-4, 5: 1e-4, 8: 5e-5, 12: 1e-5}  # first epoch: the paper's global rate


def get_config(source: str = "tfds:mnist") -> Config:
    first, *later = STAGES.values()
    return Config(
        epochs=20,
        model=Model(name="lenet5_1998"),
        data=Data(
            source=source,
            batch_size=1,
            eval_batch_size=500,
            mean=(0.0784,),  # 0.1 / 1.275
            std=(0.7843,),  # 1 / 1.275: from -0.1 to 1.175
        ),
        optim=Optim(
            name="sgd",
            lr=2e-3,
            momentum=0.0,
            schedule="piecewise",
            boundaries=tuple(STAGES)[1:],
            factors=tuple(rate / first for rate in later),
        ),
        log=Log(every=5000, eval_every=60_000),
        checkpoint=Checkpoint(every=60_000),
    )
