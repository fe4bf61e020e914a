"""The one place that imports TensorFlow: without its log and without the accelerators."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # no notice about oneDNN at every start

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    from train.errors import DataError

    raise DataError(
        "image files and augmentation need TensorFlow: pip install 'cnnjax[data]'"
    ) from error

for kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], kind)

__all__ = ["tf"]
