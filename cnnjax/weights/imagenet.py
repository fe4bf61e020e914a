"""ImageNet's 1,000 classes (ILSVRC 2012), in the order of every publisher's outputs.

`imagenet.tsv` has a WordNet synset id and a name for each. The names are WordNet's first words
(Princeton University, WordNet licence); two that stand for two classes each ("crane", "maillot")
have a second word, as in torchvision.
"""

import functools
from importlib import resources


@functools.cache
def classes() -> dict[str, str]:
    """The name of each class by its synset id ("n11939491": "daisy"), in order."""
    text = resources.files("cnnjax.weights").joinpath("imagenet.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def ids() -> tuple[str, ...]:
    """The synset ids, in order. ImageNet's folders have these names."""
    return tuple(classes())


def names() -> tuple[str, ...]:
    """The names, in order."""
    return tuple(classes().values())
