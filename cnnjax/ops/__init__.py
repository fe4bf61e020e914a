"""Convolution, pooling and activation, as XLA runs them fastest on a CPU.

You may skip this folder: each function computes what the `lax` or `linen` function of its name
computes. On a GPU and a TPU it is that function. `plain()` makes it that function everywhere.
"""

from cnnjax.ops.platform import plain

__all__ = ["plain"]
