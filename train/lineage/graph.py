"""The graph of a network: its layers and what each reads, from one abstract trace of the module."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import analysis, jaxprs, ops

SUMS = ("add", "add_any", "sub")
KERNELS = ("conv", "dense")


class Node(NamedTuple):
    """One layer.

    Attributes:
        number: its place in the graph; 0 is the image.
        name: its path in the module, "" for what has none.
        kind: image, conv, dense, max pool, average pool, norm, mean, concat or sum.
        window: (height, width) of its kernel or window; () without one.
        stride: of it.
        shape: of the output, without the batch axis.
        inputs: the numbers of the layers that it reads.
    """

    number: int
    name: str
    kind: str
    window: tuple[int, ...]
    stride: int
    shape: tuple[int, ...]
    inputs: tuple[int, ...]


class Graph(NamedTuple):
    """The layers of a network in the order of computation, the image first."""

    nodes: list[Node]
    relus: int

    @property
    def depth(self) -> int:
        """Convolutions and dense layers on the longest way through the network."""
        depth: list[int] = []
        for node in self.nodes:
            before = max((depth[i] for i in node.inputs), default=0)
            depth.append(before + (node.kind in KERNELS))
        return max(depth)


@functools.cache
def trace(model: nn.Module, size: tuple[int, int, int], *, train: bool = False) -> Graph:
    """The graph of a module that maps images.

    Args:
        model: any module; `apply` takes (variables, images, train=…).
        size: (H, W, C) of the image.
        train: the network as it trains, with its auxiliary heads.
    """
    variables = analysis.abstract_variables(model, size, train=train)
    image = jax.ShapeDtypeStruct((1, *size), jnp.float32)
    key = jax.random.key(0)

    def run(variables: Any, image: Any) -> Any:
        options: dict[str, Any] = {}
        if train:
            options = dict(mutable=["batch_stats"], rngs={"dropout": key})
        return model.apply(variables, image, train=train, **options)

    with ops.plain():
        jaxpr = jax.make_jaxpr(run)(variables, image).jaxpr
    tracer = _Tracer(size)
    tracer.walk(jaxpr, {jaxpr.invars[-1]: 0}, "")
    return Graph(tracer.nodes, tracer.relus)


class _Tracer:
    """Follows the image through a jaxpr; `origin` says which node each variable comes from."""

    def __init__(self, size: tuple[int, int, int]):
        self.nodes = [Node(0, "", "image", (), 1, size, ())]
        self.relus = 0

    def add(self, scope: str, kind: str, out: Any, inputs: tuple[int, ...], *how: Any) -> int:
        window, stride = how or ((), 1)
        name, number = scope.partition("/")[2], len(self.nodes)
        self.nodes.append(
            Node(number, name, kind, tuple(window), stride, tuple(out.shape[1:]), inputs)
        )
        return number

    def walk(self, jaxpr: Any, origin: dict[Any, int], prefix: str) -> None:
        for eqn in jaxpr.eqns:
            read = [(i, origin[v]) for i, v in enumerate(eqn.invars) if known(v, origin)]
            if not read:
                continue
            scope = "/".join(filter(None, (prefix, str(eqn.source_info.name_stack))))
            inner = jaxprs.inner(eqn)
            if inner is not None:
                first = len(eqn.invars) - len(inner.invars)
                local = {inner.invars[i - first]: node for i, node in read if i >= first}
                self.walk(inner, local, scope)
                for var, out in zip(inner.outvars, eqn.outvars):
                    if known(var, local):
                        origin[out] = local[var]
                continue
            inputs = tuple(dict.fromkeys(node for _, node in read))
            origin |= dict.fromkeys(eqn.outvars, self.node(eqn, scope, inputs))

    def node(self, eqn: Any, scope: str, inputs: tuple[int, ...]) -> int:
        """The node that an equation's result belongs to: a new one, or that of its input."""
        name, params, out = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
        last = max(inputs)
        if name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
            window = [kernel[i] for i in numbers[2:]]
            return self.add(scope, "conv", out, inputs, window, params["window_strides"][0])
        if name == "dot_general":
            return self.add(scope, "dense", out, inputs)
        if name.startswith("reduce_window"):
            _, *window, channels = params["window_dimensions"]
            kind = "max pool" if "max" in name else "average pool"
            kind = "norm" if channels > 1 else kind
            return self.add(scope, kind, out, inputs, window, params["window_strides"][1])
        if name.startswith("reduce_") and {*params.get("axes", ())} == {1, 2}:
            return self.add(scope, "mean", out, inputs) if max(shape(eqn)[1:3]) > 1 else last
        if name == "max" and any(getattr(v, "val", 1) == 0 for v in eqn.invars):
            self.relus += 1
        if len(inputs) > 1 and len(out.shape) == 4:
            if name == "concatenate" and params["dimension"] == 3:
                return self.add(scope, "concat", out, inputs)
            if name in SUMS:
                return self.add(scope, "sum", out, inputs)
        return last


def known(variable: Any, origin: dict[Any, int]) -> bool:
    """Whether a variable of a jaxpr depends on the image; a literal never does."""
    return not hasattr(variable, "val") and variable in origin


def shape(eqn: Any) -> tuple[int, ...]:
    return eqn.invars[0].aval.shape
