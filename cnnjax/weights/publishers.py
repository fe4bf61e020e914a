"""The publishers of weights, by name."""

from cnnjax.weights import facenet, keras, slim, timm, torchvision
from cnnjax.weights.layout import Source

# facenet has two formats: the file decides which applies.
SOURCES: dict[str, tuple[Source, ...]] = {
    "torchvision": (torchvision.SOURCE,),
    "timm": (timm.SOURCE,),
    "keras": (keras.SOURCE,),
    "slim": (slim.SOURCE,),
    "facenet": (facenet.SOURCE_CHECKPOINT, facenet.SOURCE_PORT),
}
