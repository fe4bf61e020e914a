"""Convolution, pooling and activation in the forms that XLA runs fastest, on a CPU above all.

You may skip this folder: each function computes what the `lax` or `linen` function of its name
computes. On a GPU or TPU it mostly is that function; inside `plain()` it is that function
everywhere.
"""

from cnnjax.ops.platform import plain

__all__ = ["plain"]
