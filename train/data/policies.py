"""Tables of changes: AutoAugment's learned pairs, and TrivialAugment's one change an image.

Cubuk et al.: AutoAugment, 2018, appendix; Müller, Hutter: TrivialAugment, 2021, table 7 ("wide").
The operations are those of `randaugment`, which applies them.
"""

import numpy as np

from train.data.randaugment import NAMES, OPERATIONS

# (operation, probability, magnitude 0 to 9), twice a row.
# fmt: off
IMAGENET = (
    (("posterize", .4, 8), ("rotate", .6, 9)),
    (("solarize", .6, 5), ("autocontrast", .6, 5)),
    (("equalize", .8, 8), ("equalize", .6, 3)),
    (("posterize", .6, 7), ("posterize", .6, 6)),
    (("equalize", .4, 7), ("solarize", .2, 4)),
    (("equalize", .4, 4), ("rotate", .8, 8)),
    (("solarize", .6, 3), ("equalize", .6, 7)),
    (("posterize", .8, 5), ("equalize", 1., 2)),
    (("rotate", .2, 3), ("solarize", .6, 8)),
    (("equalize", .6, 8), ("posterize", .4, 6)),
    (("rotate", .8, 8), ("color", .4, 0)),
    (("rotate", .4, 9), ("equalize", .6, 2)),
    (("equalize", .0, 7), ("equalize", .8, 8)),
    (("invert", .6, 4), ("equalize", 1., 8)),
    (("color", .6, 4), ("contrast", 1., 8)),
    (("rotate", .8, 8), ("color", 1., 2)),
    (("color", .8, 8), ("solarize", .8, 7)),
    (("sharpness", .4, 7), ("invert", .6, 8)),
    (("shear_x", .6, 5), ("equalize", 1., 9)),
    (("color", .4, 0), ("equalize", .6, 3)),
    (("equalize", .4, 7), ("solarize", .2, 4)),
    (("solarize", .6, 5), ("autocontrast", .6, 5)),
    (("invert", .6, 4), ("equalize", 1., 8)),
    (("color", .6, 4), ("contrast", 1., 8)),
    (("equalize", .8, 8), ("equalize", .6, 3)),
)
CIFAR10 = (
    (("invert", .1, 7), ("contrast", .2, 6)),
    (("rotate", .7, 2), ("translate_x", .3, 9)),
    (("sharpness", .8, 1), ("sharpness", .9, 3)),
    (("shear_y", .5, 8), ("translate_y", .7, 9)),
    (("autocontrast", .5, 8), ("equalize", .9, 2)),
    (("shear_y", .2, 7), ("posterize", .3, 7)),
    (("color", .4, 3), ("brightness", .6, 7)),
    (("sharpness", .3, 9), ("brightness", .7, 9)),
    (("equalize", .6, 5), ("equalize", .5, 1)),
    (("contrast", .6, 7), ("sharpness", .6, 5)),
    (("color", .7, 7), ("translate_x", .5, 8)),
    (("equalize", .3, 7), ("autocontrast", .4, 8)),
    (("translate_y", .4, 3), ("sharpness", .2, 6)),
    (("brightness", .9, 6), ("color", .2, 8)),
    (("solarize", .5, 2), ("invert", .0, 3)),
    (("equalize", .2, 0), ("autocontrast", .6, 0)),
    (("equalize", .2, 8), ("equalize", .6, 4)),
    (("color", .9, 9), ("equalize", .6, 6)),
    (("autocontrast", .8, 4), ("solarize", .2, 8)),
    (("brightness", .1, 3), ("color", .7, 0)),
    (("solarize", .4, 5), ("autocontrast", .9, 3)),
    (("translate_y", .9, 9), ("translate_y", .7, 9)),
    (("autocontrast", .9, 2), ("solarize", .8, 3)),
    (("equalize", .8, 8), ("invert", .1, 3)),
    (("translate_y", .7, 9), ("autocontrast", .9, 1)),
)
# fmt: on
TABLES = {"autoaugment": IMAGENET, "autoaugment_cifar10": CIFAR10}
POLICIES = ("none", *TABLES, "trivialaugment")

# TrivialAugment's largest strength of each operation, in units of RandAugment's.
WIDE = {
    "rotate": 135 / 30,
    "shear_x": 0.99 / 0.3,
    "shear_y": 0.99 / 0.3,
    "posterize": 6 / 4,
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 0.99 / 0.9),
}
PIXELS = 32  # its largest translation
SHARE = 0.45  # RandAugment's, of the side


def draw(numbers: np.ndarray, *, policy: str, size: tuple[int, int]) -> np.ndarray:
    """(n, 5) in [0, 1) -> (n, 2 * layers) float32: operation and strength, as `randaugment.apply`.

    Args:
        numbers: of each image.
        policy: one of `POLICIES`.
        size: (H, W) of the images.
    """
    if policy == "trivialaugment":
        which = np.floor(numbers[:, 0] * len(NAMES)).astype(int)
        moves = {"translate_x": PIXELS / SHARE / size[1], "translate_y": PIXELS / SHARE / size[0]}
        factors = np.array([(WIDE | moves).get(name, 1.0) for name in NAMES])
        strength = np.floor(31 * numbers[:, 1]) / 30 * factors[which]
        signed = strength * np.where(numbers[:, 2] < 0.5, -1, 1)
        return np.stack([which, signed], axis=1).astype(np.float32)
    table = TABLES[policy]
    rows = np.floor(numbers[:, 0] * len(table)).astype(int)
    places = {name: place for place, name in enumerate(OPERATIONS)}
    layers = []
    for layer in range(2):
        names, probabilities, magnitudes = zip(*(row[layer] for row in table))
        chosen = np.array([places[name] for name in names])[rows]
        happens = numbers[:, 1 + layer] < np.array(probabilities)[rows]
        strength = np.array(magnitudes)[rows] / 9
        signed = strength * np.where(numbers[:, 3 + layer] < 0.5, -1, 1)
        identity = places["identity"]
        layers += [np.where(happens, chosen, identity), np.where(happens, signed, 0.0)]
    return np.stack(layers, axis=1).astype(np.float32)
