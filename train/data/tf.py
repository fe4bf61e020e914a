"""The one place that imports TensorFlow: quiet, and without the accelerators, which belong to JAX."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "0"
)  # a notice on every start, for kernels that the pipeline has no use for

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    from train.errors import DataError

    raise DataError(
        "augmentation and files are read with TensorFlow: pip install 'cnnjax[data]'"
    ) from error

for kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], kind)

__all__ = ["tf"]
