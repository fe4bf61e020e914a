"""How many examples each class has, in words."""

import numpy as np

from train.data.sources.folder import Files
from train.data.split import Arrays, Split

MOST_NAMED = 10  # classes that are listed with their counts


def counts(split: Split) -> np.ndarray | None:
    """(K,) examples of each class; None where counting would read the whole set."""
    if not isinstance(split, Arrays | Files):
        return None
    return np.bincount(split.labels, minlength=len(split.class_names))


def describe(split: Split) -> str:
    """'120 images: cat 20, dog 100'; without the classes where they are not at hand."""
    images, of_class = f"{len(split):,} images", counts(split)
    if of_class is None:
        return images
    if of_class.min() == of_class.max():
        return f"{images}, {of_class[0]:,} of each class"
    if len(of_class) > MOST_NAMED:
        return f"{images}, {of_class.min():,} to {of_class.max():,} of each class"
    named = (f"{name} {count:,}" for name, count in zip(split.class_names, of_class))
    return f"{images}: {', '.join(named)}"


def majority(split: Split) -> tuple[str, float] | None:
    """The most frequent class and its share, where it is clearly more than an even share."""
    of_class = counts(split)
    if of_class is None or len(of_class) < 2:
        return None
    share = of_class.max() / len(split)
    return (split.class_names[of_class.argmax()], share) if share > 1.2 / len(of_class) else None
