"""What is timed: models of the registry on synthetic images."""

import fnmatch

import cnnjax
from cnnjax.spelling import nearest
from train.config import Config, Data, Model, Optim
from train.errors import UserError


def for_model(name: str, batch_size: int, *, dtype: str = "float32", size: int = 0) -> Config:
    """A config that trains a model of the registry on synthetic images of its own size, or of another."""
    try:
        spec = cnnjax.get_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    height, width, channels = (size, size, spec.input_size[2]) if size else spec.input_size
    return Config(
        epochs=1e6,
        model=Model(name=name, dtype=dtype),
        data=Data(
            source=f"synthetic:{height}x{width}x{channels}/{spec.num_classes}",
            batch_size=batch_size,
        ),
        optim=Optim(
            lr=1e-3, schedule="constant"
        ),  # that of the peers: random labels make a higher one diverge
    )


def choose(patterns: str) -> list[str]:
    """Models of a comma list of names and globs, or all; UserError for what fits none."""
    known, chosen = cnnjax.list_models(), list[str]()
    for pattern in "*" if patterns == "all" else patterns.split(","):
        found = fnmatch.filter(known, pattern)
        if not found:
            raise UserError(f"no model is called {pattern!r}; {nearest(pattern, known)}")
        chosen += [name for name in found if name not in chosen]
    return chosen


def small(model: str, batch: int, side: int) -> Config:
    """Without auxiliary heads, which small images have no room for."""
    config = for_model(model, batch, size=side)
    config.model.options = {"aux": False} if model.startswith("inception") else {}
    return config
