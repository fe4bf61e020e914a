"""The networks as others write them in plain Flax, to compile beside ours for TPUs.

`python -m train.benchmark.plain` stands in for `python -m train.forecast.topology`.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn

from cnnjax import ops
from cnnjax.models.layers import ConvBN, PooledConvBN
from train import errors
from train.forecast import topology


@contextlib.contextmanager
def plain_flax() -> Iterator[None]:
    """Operations are those of lax and linen, each where the paper has it."""

    def call(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if not isinstance(layer, PooledConvBN) or context.method_name != "__call__":
            return function(*args, **kwargs)
        pooled = nn.avg_pool(args[0], (3, 3), (1, 1), "SAME", count_include_pad=layer.count_pad)
        # linen wraps methods, which the type checker does not know: here it is called inside of one
        return ConvBN.__call__.__wrapped__(layer, pooled)  # type: ignore[attr-defined]

    with ops.plain(), nn.intercept_methods(call):
        yield


def main() -> dict[str, Any]:
    with plain_flax():
        return topology.main()


if __name__ == "__main__":
    sys.exit(errors.run(main))
