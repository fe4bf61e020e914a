"""What is timed: models of the registry on synthetic images."""

import fnmatch

import cnnjax
from cnnjax.spelling import nearest
from train.config import Config, Data, Model, Optim
from train.errors import UserError


def for_model(name: str, batch_size: int, *, dtype: str = "float32", size: int = 0) -> Config:
    """A config that trains a model of the registry on synthetic images.

    Args:
        size: side of the images in pixels; 0 for the size that the model is made for.

    Raises:
        UserError: an unknown model.
    """
    try:
        spec = cnnjax.get_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    height, width, channels = (size, size, spec.input_size[2]) if size else spec.input_size
    source = f"synthetic:{height}x{width}x{channels}/{spec.num_classes}"
    return Config(
        epochs=1e6,
        model=Model(name=name, dtype=dtype),
        data=Data(source=source, batch_size=batch_size),
        # The rate of the peers: with random labels a higher one diverges.
        optim=Optim(lr=1e-3, schedule="constant"),
    )


def small(model: str, batch: int, side: int) -> Config:
    """As `for_model`, but without auxiliary heads, which small images have no room for."""
    config = for_model(model, batch, size=side)
    config.model.options = {"aux": False} if model.startswith("inception") else {}
    return config


def choose(patterns: str) -> list[str]:
    """The models that a comma-separated list of names and globs, or "all", stands for.

    Raises:
        UserError: a pattern that no model fits.
    """
    known, chosen = cnnjax.list_models(), list[str]()
    for pattern in "*" if patterns == "all" else patterns.split(","):
        found = fnmatch.filter(known, pattern)
        if not found:
            raise UserError(f"no model is called {pattern!r}; {nearest(pattern, known)}")
        chosen += [name for name in found if name not in chosen]
    return chosen
