"""The one place that imports TensorFlow, without its log: `from train.data.tf import tf`.

TensorFlow is loaded when `tf` is first asked for. The environment is afterwards as it was.
"""

import os
import sys
from typing import Any

# No log, and no notice about oneDNN. TensorFlow reads both once, while it is imported.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

_keep_off = False


def keep_off_accelerators() -> None:
    """Hides GPUs and TPUs from TensorFlow in this process, for jax to have them.

    It does not load TensorFlow. Our commands call it; a script that imports us decides for itself.
    """
    global _keep_off
    _keep_off = True
    if "tensorflow" in sys.modules:
        _hide_accelerators(sys.modules["tensorflow"])


def __getattr__(name: str) -> Any:
    """The module `tensorflow`, as the attribute `tf`.

    Raises:
        DataError: TensorFlow is not installed.
    """
    if name != "tf":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    unset = [key for key in QUIET if key not in os.environ]
    os.environ.update({key: QUIET[key] for key in unset})
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        from train.errors import DataError

        raise DataError(
            "image files and augmentation need TensorFlow: pip install 'cnnjax[data]'"
        ) from error
    finally:
        for key in unset:
            os.environ.pop(key, None)
    if _keep_off:
        _hide_accelerators(tensorflow)
    globals()["tf"] = tensorflow  # the next import finds it here
    return tensorflow


def _hide_accelerators(tensorflow: Any) -> None:
    for kind in ("GPU", "TPU"):
        try:
            tensorflow.config.set_visible_devices([], kind)
        except RuntimeError:  # they are in use already
            return
