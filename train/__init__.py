"""A functional trainer for the models of cnnjax.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`train.fit`, imported when it is first used: it needs optax and orbax."""
    if name == "fit":
        from train.fitting import fit

        return fit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
