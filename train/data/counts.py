"""How many examples each class has, in words, and what follows from it."""

import numpy as np

from train.data.split import Split

MOST_NAMED = 10  # classes that are listed with their counts


def counts(split: Split) -> np.ndarray | None:
    """(K,) examples of each class; None where counting would read the whole set."""
    if not split.labels_at_hand:
        return None
    return of_labels(split.labels, len(split.class_names))


def of_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """(K,) examples of each class, of labels (N,) or (N, K)."""
    return labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)


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
    share, labels_an_image = of_class.max() / len(split), of_class.sum() / len(split)
    if share <= 1.2 / len(of_class) * labels_an_image:
        return None
    return split.class_names[of_class.argmax()], share


def advice(
    mean: np.ndarray,
    std: np.ndarray,
    grey: bool,
    counts: np.ndarray,
    names: tuple[str, ...],
) -> list[str]:
    """What to do about the numbers of `stats`: a line for each thing."""
    lines = []
    if grey:
        lines.append(
            "the images are grey: --config.data.channels=1 reads one channel of three, with the "
            "mean and std below"
        )
        mean, std = mean[:1], std[:1]
    flags = [
        f'--config.data.{name}="{tuple(round(float(x), 3) for x in values)}"'
        for name, values in (("mean", mean), ("std", std))
    ]
    lines += ["to train on images of mean 0 and deviation 1, without published weights:"]
    lines += flags
    rare, frequent = counts.argmin(), counts.argmax()
    if counts[rare] and counts[frequent] >= 2 * counts[rare]:
        ratio = counts[frequent] / counts[rare]
        lines.append(
            f"{names[frequent]} has {ratio:.1f} times as many images as {names[rare]}: look at the "
            "recall of each class, not at top-1 alone. "
            f"More images of {names[rare]} help most. --config.loss.class_weights=balanced lets "
            "each class count alike: more of them are found, with more false alarms. "
            "--config.checkpoint.best=balanced_accuracy keeps the best by that."
        )
    return lines
