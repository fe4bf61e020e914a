"""Properties of every model of the registry, by shapes and traces. Nothing is computed."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import cnnjax
from cnnjax import analysis
from tests.models.expected import EXPECTED

MODELS = cnnjax.list_models()
LARGE = re.compile("inception_(v4|resnet)")  # half of the time of this file


def models(condition=lambda name: True):
    """Parametrises a test over the networks of which the condition holds."""
    marks = {True: [pytest.mark.parity], False: []}
    chosen = [name for name in MODELS if condition(name)]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=marks[bool(LARGE.match(name))]) for name in chosen]
    )


every_model = models()
with_norms = models(lambda name: name in EXPECTED and EXPECTED[name].norms)
with_heads = models(lambda name: name in EXPECTED and EXPECTED[name].heads)
with_remat = models(lambda name: hasattr(cnnjax.create_model(name), "remat"))


@functools.cache
def variables(name, train=False, **options):
    """The shapes of a model's variables at its own input size."""
    return analysis.abstract_variables(
        cnnjax.create_model(name, **options), cnnjax.get_spec(name).input_size, train=train
    )


def forward(name, train, **options):
    """A function of (variables, images) that returns `Outputs`, and new statistics and stages."""
    model = cnnjax.create_model(name, **options)

    def apply(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        mutable = ["batch_stats"] if train else []
        with cnnjax.ops.plain():  # which traces in half the time
            (outputs, statistics), stages = cnnjax.apply_with_stages(
                model, variables, images, train=train, mutable=mutable, rngs=rngs
            )
        return outputs, statistics | {"stages": stages}

    return apply


def images(name, height=None, width=None):
    """The shape of two images of the model's own size, or of another."""
    h, w, c = cnnjax.get_spec(name).input_size
    return jax.ShapeDtypeStruct((2, height or h, width or w, c), jnp.float32)


@functools.cache
def trace(name, train, **options):
    """A forward pass: the shapes of what `forward` returns, and its equations."""
    arguments = variables(name, train, **options), images(name)
    jaxpr, shapes = jax.make_jaxpr(forward(name, train, **options), return_shape=True)(*arguments)
    return *shapes, list(equations(jaxpr.jaxpr))


class Equation(NamedTuple):
    scope: str  # the modules around it
    primitive: str
    dtypes: tuple  # of its inputs


def equations(jaxpr, scope=""):
    """Every equation, including those inside calls."""
    for eqn in jaxpr.eqns:
        inside = f"{scope}/{eqn.source_info.name_stack}"
        yield Equation(
            inside,
            eqn.primitive.name,
            tuple(getattr(var.aval, "dtype", None) for var in eqn.invars),
        )
        for value in eqn.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner, inside)


def primitives(name, train, primitive, **options):
    return [eqn for eqn in trace(name, train, **options)[2] if primitive in eqn.primitive]


def scopes(name, train):
    return {part for eqn in trace(name, train)[2] for part in eqn.scope.split("/")}


def count(tree, leaf):
    """The number of leaves with this name, and of their values."""
    sizes = [value.size for path, value in jax.tree.leaves_with_path(tree) if path[-1].key == leaf]
    return len(sizes), sum(sizes)


def test_the_table_lists_every_model():
    assert set(EXPECTED) == set(MODELS)


@every_model
def test_parameters_and_multiply_adds(name):
    spec, expected = cnnjax.get_spec(name), EXPECTED[name]
    assert (spec.parameters, spec.multiply_adds) == (expected.parameters, expected.multiply_adds)


@every_model
def test_parameters_with_auxiliary_heads(name):
    expected = EXPECTED[name].parameters_with_aux or EXPECTED[name].parameters
    assert analysis.count_parameters(variables(name, train=True)["params"]) == expected
    assert analysis.count_parameters(variables(name)["params"]) == EXPECTED[name].parameters


@with_norms
def test_batch_norm_layers_and_the_channels_that_a_scale_adds(name):
    expected = EXPECTED[name]
    plain = variables(name)
    assert (
        count(plain["batch_stats"], "mean")
        == count(plain["batch_stats"], "var")
        == (expected.norms, expected.channels)
    )
    other = variables(name, bn_scale=not cnnjax.create_model(name).bn_scale)
    bare, scaled = sorted((plain["params"], other["params"]), key=analysis.count_parameters)
    assert count(scaled, "scale") == (expected.norms, expected.channels)
    assert analysis.count_parameters(scaled) - analysis.count_parameters(bare) == expected.channels


@every_model
def test_outputs(name):
    expected, classes = EXPECTED[name], cnnjax.get_spec(name).num_classes
    for train, heads in ((False, 0), (True, expected.heads)):
        (logits, aux, features), other, _ = trace(name, train)
        assert (logits.shape, logits.dtype) == ((2, classes), jnp.float32)
        assert (
            isinstance(aux, tuple)
            and [(a.shape, a.dtype) for a in aux] == [((2, classes), jnp.float32)] * heads
        )
        assert features.shape == (2, expected.features)
        assert {len(stage.shape) for stage in other["stages"].values()} <= {2, 4}
        assert other["stages"]


# Both of the next tests use one trace.
OTHER = {"num_classes": 7, "dtype": jnp.bfloat16}


@every_model
def test_any_number_of_classes(name):
    if name == "lenet5_1998":
        with pytest.raises(ValueError, match="ten digits"):
            variables(name, num_classes=7)
        return
    logits, aux, _ = trace(name, True, **OTHER)[0]
    assert [x.shape for x in (logits, *aux)] == [(2, 7)] * (1 + EXPECTED[name].heads)
    standard, changed = (
        jax.tree.leaves_with_path(variables(name, True, **o)["params"]) for o in ({}, OTHER)
    )
    for (path, a), (_, b) in zip(standard, changed, strict=True):
        classifier = bool({"head", "output"} & {key.key for key in path})
        assert (a.shape == b.shape) != classifier, (
            f"{path}: call the classifier, and it alone, head"
        )


@every_model
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(name):
    options = OTHER | ({"num_classes": 10} if name == "lenet5_1998" else {})
    (logits, aux, _), other, _ = trace(name, True, **options)
    stored = jax.tree.leaves(
        (variables(name, True, **options), other.get("batch_stats", {}), logits, aux)
    )
    assert {x.dtype for x in stored} == {jnp.dtype("float32")}
    convolved = {
        dtype
        for eqn in primitives(name, True, "conv_general_dilated", **options)
        for dtype in eqn.dtypes
    }
    assert convolved == {jnp.dtype("bfloat16")}


@with_heads
def test_evaluation_computes_no_auxiliary_head(name):
    heads = {"aux"} if EXPECTED[name].heads == 1 else {"aux1", "aux2"}
    assert heads <= scopes(name, train=True)
    assert not [scope for scope in scopes(name, train=False) if scope.startswith("aux")]
    trained = variables(name, train=True)  # has the heads' parameters
    assert jax.eval_shape(forward(name, False), trained, images(name))[0].aux == ()


@with_heads
def test_auxiliary_heads_can_be_left_out(name):
    assert variables(name, True, aux=False) == variables(name, False)
    assert trace(name, True, aux=False)[0].aux == ()


@with_remat
def test_rematerialisation_changes_no_name(name):
    assert variables(name, True, remat=True) == variables(name, True)
    assert len(primitives(name, True, "remat", remat=True)) > 1
    assert not primitives(name, True, "remat")


@with_norms
def test_statistics_are_synced_over_an_axis(name):
    """One mean over the devices for each BatchNorm, also in the auxiliary heads."""
    arguments = variables(name, True), images(name)
    stacked = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), arguments
    )
    jaxpr = jax.make_jaxpr(jax.pmap(forward(name, True, bn_axis="data"), "data"))(*stacked).jaxpr
    means = [eqn for eqn in equations(jaxpr) if eqn.primitive.startswith("psum")]
    assert len(means) == count(variables(name, True)["batch_stats"], "mean")[0]


@every_model
def test_smallest_image(name):
    expected = EXPECTED[name]
    sides = {False: expected.smallest, True: expected.smallest_with_aux or expected.smallest}
    for train, side in sides.items():
        apply, params = forward(name, train), variables(name, train)
        for height, width in ((side - 1, side), (side, side - 1)):
            too_small = jax.ShapeDtypeStruct(
                (2, height, width, images(name).shape[-1]), jnp.float32
            )
            with pytest.raises(
                ValueError, match=rf"at least {side}x{side} pixels, got {height}x{width}"
            ):
                jax.eval_shape(apply, params, too_small)
        with pytest.raises(ValueError, match=r"\(N, H, W, C\)"):
            jax.eval_shape(apply, params, jax.ShapeDtypeStruct((side, side, 3), jnp.float32))
    for train, (height, width) in (
        (False, (sides[False], sides[False] + 30)),
        (True, (sides[True] + 1, sides[True])),
    ):
        outputs, _ = jax.eval_shape(
            forward(name, train), variables(name, train), images(name, height, width)
        )
        assert outputs.features.shape == (2, expected.features)
