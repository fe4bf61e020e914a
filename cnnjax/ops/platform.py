"""Whether an operation is computed in the plain way or in the way for its platform."""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_plain = contextvars.ContextVar("plain", default=False)

# By default XLA on a CPU hands convolutions to the library YNNPACK. This flag and value forbid it.
YNNPACK_FLAG, WITHOUT_CONVOLUTIONS = (
    "xla_cpu_experimental_ynn_fusion_type",
    "-individual_convolution",
)
_ynnpack = WITHOUT_CONVOLUTIONS not in os.environ.get("XLA_FLAGS", "")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """A context in which every operation is the plain `lax` or `linen` one, on every platform.

    It is meant for exports, and for tools that read a jaxpr and do not know
    `lax.platform_dependent`. It takes effect when a function is traced, so a jitted function that
    was already traced does not change.

    >>> model = cnnjax.create_model("lenet5")
    >>> images = jnp.zeros((1, 32, 32, 1))
    >>> variables = model.init(jax.random.key(0), images)
    >>> with cnnjax.ops.plain():
    ...     jaxpr = jax.make_jaxpr(model.apply)(variables, images)
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether the caller is inside `plain()`."""
    return _plain.get()


def by_platform(*operands: Any, default: Callable, **ways: Callable) -> Any:
    """`lax.platform_dependent`; inside `plain()` just `default(*operands)`.

    `ways` are the functions for "cpu", "cuda", …; all other platforms run the default.
    """
    if is_plain():
        return default(*operands)
    return lax.platform_dependent(*operands, default=default, **ways)


def expect_ynnpack(expected: bool) -> None:
    """Declares whether XLA hands convolutions to YNNPACK.

    Call it after starting XLA with flags that are not in XLA_FLAGS: XLA does not tell which flags
    it has read. Without a call the answer comes from XLA_FLAGS at import.
    """
    global _ynnpack
    _ynnpack = expected


def ynnpack_takes_convolutions() -> bool:
    """Whether XLA on a CPU hands a plain convolution to YNNPACK."""
    return _ynnpack
