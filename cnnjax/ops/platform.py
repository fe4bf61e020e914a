"""Which way an operation takes: the plain one, or the one for the platform that it runs on."""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_plain = contextvars.ContextVar("plain", default=False)

# XLA on a CPU hands single convolutions to the library YNNPACK, unless this flag forbids it.
YNNPACK_FLAG, WITHOUT_CONVOLUTIONS = (
    "xla_cpu_experimental_ynn_fusion_type",
    "-individual_convolution",
)
_ynnpack = WITHOUT_CONVOLUTIONS not in os.environ.get("XLA_FLAGS", "")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """A context in which every operation is the plain `lax` or `linen` one, on every platform.

    It acts where a function is traced: a function that jax has traced before keeps the way that it
    was traced with. For exports, and for tools that read a program and do not know
    `lax.platform_dependent`.

    >>> with cnnjax.ops.plain():
    ...     jaxpr = jax.make_jaxpr(model.apply)(variables, images)
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether this is inside of `plain()`."""
    return _plain.get()


def by_platform(*operands: Any, default: Callable, **ways: Callable) -> Any:
    """`lax.platform_dependent`: one of the `ways` ("cpu", "cuda", …), else the default.

    Inside of `plain()` it is the default alone.
    """
    if is_plain():
        return default(*operands)
    return lax.platform_dependent(*operands, default=default, **ways)


def expect_ynnpack(expected: bool) -> None:
    """Tells whether XLA hands convolutions to YNNPACK, for whoever starts XLA with flags of his own.

    XLA does not say which flags it has read; without this call they are taken from XLA_FLAGS.
    """
    global _ynnpack
    _ynnpack = expected


def ynnpack_takes_convolutions() -> bool:
    """Whether a plain convolution on a CPU goes to YNNPACK."""
    return _ynnpack
