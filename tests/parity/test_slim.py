"""TF-slim: its own networks, as PyPI's tf-slim has them, run as TensorFlow 1 graphs and saved by
TensorFlow's Saver.

It has no v4 and no Inception-ResNet: for these, timm's network computes, and its values are written
under slim's names.
"""

import math

import numpy as np
import pytest

from tests.parity.peers import (
    LIMIT,
    difference,
    images,
    load,
    modules,
    ours,
    theirs,
    without_dropout,
)
from tests.parity.test_timm import RESNET_V2, V4, created
from tests.weights.slim_names import (
    INCEPTION_RESNET_V2,
    INCEPTION_V4,
    biased,
    normalised,
    write_checkpoint,
)

pytestmark = pytest.mark.parity

SHIFTED = {
    "3a": "3b",
    "3b": "3c",
    **{f"4{a}": f"4{b}" for a, b in zip("abcde", "bcdef")},
    "5a": "5b",
    "5b": "5c",
}
STEM = {"conv1": "Conv2d_1a_7x7", "conv2": "Conv2d_2c_3x3"}
V1 = STEM | {f"mixed{ours}": f"Mixed_{theirs}" for ours, theirs in SHIFTED.items()}
V2 = STEM | {
    f"mixed{ours}": f"Mixed_{theirs}"
    for ours, theirs in zip(
        ["3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"],
        ["3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b", "5c"],
    )
}
V3 = {
    **{
        "conv1a": "Conv2d_1a_3x3",
        "conv2a": "Conv2d_2a_3x3",
        "conv2b": "Conv2d_2b_3x3",
        "pool3a": "MaxPool_3a_3x3",
    },
    **{"conv3b": "Conv2d_3b_1x1", "conv4a": "Conv2d_4a_3x3", "pool5a": "MaxPool_5a_3x3"},
    **modules("mixed", "Mixed_", {5: "bcd", 6: "abcde", 7: "abc"}),
}


class Graph:
    """A network of tf-slim under its own arg scope, with random values in the ranges of
    `peers.randomise`.
    """

    def __init__(self, name, size, **options):
        import tensorflow as tf
        import tf_slim
        from tensorflow.python.framework import ops

        ops.Tensor = tf.Tensor  # where tf-slim, of 2020, looks for it
        from tf_slim.nets import inception, vgg

        module = vgg if name.startswith("vgg") else inception
        scope = (vgg.vgg_arg_scope if module is vgg else getattr(inception, f"{name}_arg_scope"))()
        for (
            options_of_layer
        ) in scope.values():  # its other BatchNorm needs a Keras 2 beside TensorFlow
            options_of_layer.get("normalizer_params", {})["updates_collections"] = None
        self.tf, self.graph = tf.compat.v1, tf.Graph()
        with self.graph.as_default(), tf_slim.arg_scope(scope):
            self.images = self.tf.placeholder(tf.float32, (2, size, size, 3))
            self.logits, self.end_points = getattr(module, name)(
                self.images, is_training=False, **options
            )
            self.session, self.saver = self.tf.Session(), self.tf.train.Saver()
            self.variables = self.tf.global_variables()

    def randomise(self):
        rng = np.random.default_rng(0)
        for variable in self.variables:
            shape, kind = variable.shape.as_list(), variable.op.name.rpartition("/")[2]
            if kind.endswith("weights"):
                fan_in = (
                    math.prod(shape[:2]) if kind.startswith("depthwise") else math.prod(shape[:-1])
                )
                value = rng.normal(0, math.sqrt(2 / fan_in), shape)
            elif kind == "moving_variance":
                value = rng.uniform(0.8, 1.25, shape)
            else:
                value = rng.normal(0, 0.1, shape)
            with self.graph.as_default():
                variable.load(value.astype(np.float32), self.session)
        return self

    def save(self, path, version=2):
        with self.graph.as_default():
            return self.tf.train.Saver(write_version=version).save(self.session, str(path))

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, path)
        return self

    def __call__(self, x):
        return self.session.run([self.logits, self.end_points], {self.images: x})


def compare(name, pretrained, graph, size, stages, logits=None):
    """As `peers.compare`; `logits` turns theirs into what ours are to be compared with."""
    x = images(size)
    expected, end_points = graph(x)
    outputs, maps = ours(pretrained, x)
    worst = {stage: difference(maps[stage], end_points[point]) for stage, point in stages.items()}
    where = max(worst, key=worst.get)
    found = difference(outputs.logits, logits(expected)) if logits else 0.0
    answers = f"logits {found:.1e}, " if logits else ""
    print(f"slim {name} at {size}: {answers}{len(worst)} stages, worst {where} {worst[where]:.1e}")
    assert worst[where] <= LIMIT, (where, worst[where])
    assert found <= LIMIT
    return end_points


@pytest.mark.parametrize(("name", "model"), [("vgg_16", "vgg16"), ("vgg_19", "vgg19")])
def test_vgg(name, model, tmp_path):
    graph = Graph(name, 224, num_classes=100).randomise()
    path = graph.save(tmp_path / f"{name}.ckpt", version=1)
    pretrained = load(path, model, "slim")
    assert pretrained.model.num_classes == 100
    stages = {f"block{i}": f"{name}/pool{i}" for i in range(1, 6)} | {
        f"fc{i}": f"{name}/fc{i}" for i in (6, 7)
    }
    compare(name, pretrained, graph, 224, stages, lambda x: x)
    dense = load(path, model, "slim", dense=True)
    larger = Graph(name, 288, num_classes=100, spatial_squeeze=False).restore(path)
    compare(f"{name} dense", dense, larger, 288, stages, lambda x: x.mean((1, 2)))


@pytest.mark.parametrize(
    ("name", "model", "stages", "size"),
    [
        ("inception_v1", "inception_v1_bn", V1, 224),
        ("inception_v2", "inception_v2_slim", V2, 224),
        ("inception_v3", "inception_v3", V3, 299),
    ],
)
def test_inception(name, model, stages, size, tmp_path):
    graph = Graph(name, size, num_classes=1001).randomise()
    path = graph.save(tmp_path / f"{name}.ckpt", version=1)
    pretrained = load(path, model, "slim")
    assert pretrained.model.num_classes == 1000
    end_points = compare(name, pretrained, graph, size, stages, lambda x: x[:, 1:])
    if name == "inception_v3":  # its graph has the head in evaluation too
        outputs, _ = ours(without_dropout(pretrained, bn_frozen=True), images(size), train=True)
        found = difference(outputs.aux[0], end_points["AuxLogits"][:, 1:])
        print(f"slim {name} head at {size}: {found:.1e}")
        assert found <= LIMIT
    if (
        name == "inception_v1"
    ):  # its last pooling is 7x7, whatever the map: compare positions, and average them
        options, logits = {"spatial_squeeze": False}, None
    else:
        options, logits = (
            ({"create_aux_logits": False} if name == "inception_v3" else {}),
            lambda x: x[:, 1:],
        )
    size = 288 if name == "inception_v1" else 155
    compare(
        name,
        pretrained,
        Graph(name, size, num_classes=1001, **options).restore(path),
        size,
        stages,
        logits,
    )
    kept = load(path, model, "slim", keep_background=True)
    assert (
        difference(ours(kept, images(graph.images.shape[1]))[0].logits, end_points["Logits"])
        <= LIMIT
    )


def of_timm(network, layers):
    """timm's values of its convolutions, in the order of creation, under slim's names. Its gammas
    become 1.
    """
    import torch

    tensors, names, modules = {}, iter(layers), list(network.named_modules())
    for (_, module), (_, following) in zip(modules, [*modules[1:], modules[0]]):
        if isinstance(module, torch.nn.Conv2d):
            kernel = module.weight.detach().numpy().transpose(2, 3, 1, 0)
            if module.bias is not None:
                tensors |= biased(next(names), kernel, module.bias.detach().numpy())
            else:
                following.weight.data.fill_(1.0)
                values = (following.bias.detach(), following.running_mean, following.running_var)
                tensors |= normalised(next(names), kernel, *(value.numpy() for value in values))
    assert next(names, None) is None
    return tensors


def head(channels, classes, seed=1):
    """The auxiliary head of slim's v4 and Inception-ResNet-v2 with random values: five axes of
    numbers, and a function.
    """
    import torch

    rng = np.random.default_rng(seed)
    layers = []
    for c_in, c_out, k in ((channels, 128, 1), (128, 768, 5)):
        kernel = rng.normal(0, math.sqrt(2 / (c_in * k * k)), (k, k, c_in, c_out))
        layers.append([kernel, *rng.normal(0, 0.1, (2, c_out)), rng.uniform(0.8, 1.25, c_out)])
    layers = [[value.astype(np.float32) for value in layer] for layer in layers]
    dense = [
        rng.normal(0, 0.05, (768, classes)).astype(np.float32),
        rng.normal(0, 0.1, classes).astype(np.float32),
    ]

    def apply(x):
        x = torch.nn.functional.avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), 5, 3)
        for kernel, beta, mean, var in layers:
            x = torch.nn.functional.conv2d(x, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
            x = torch.nn.functional.batch_norm(
                x, *map(torch.from_numpy, (mean, var)), bias=torch.from_numpy(beta), eps=1e-3
            )
            x = torch.relu(x)
        return x.flatten(1).numpy() @ dense[0] + dense[1]

    return layers, dense, apply


@pytest.mark.parametrize(
    ("model", "stages", "layers", "scope", "tap", "head_names"),
    [
        (
            "inception_v4",
            V4,
            INCEPTION_V4,
            "InceptionV4",
            "mixed6h",
            ("Conv2d_1b_1x1", "Conv2d_2a", "Aux_logits"),
        ),
        (
            "inception_resnet_v2",
            RESNET_V2,
            INCEPTION_RESNET_V2,
            "InceptionResnetV2",
            "block17_20",
            ("Conv2d_1b_1x1", "Conv2d_2a_5x5", "Logits"),
        ),
    ],
)
def test_checkpoint_of_slims_names(model, stages, layers, scope, tap, head_names, tmp_path):
    network = created(model, num_classes=1001)
    tensors = of_timm(network, layers)
    last = list(network.children())[-1] if model == "inception_v4" else network.classif
    tensors |= biased("Logits/Logits", last.weight.detach().numpy().T, last.bias.detach().numpy())
    convs, dense, apply = head(1024 if model == "inception_v4" else 1088, 1001)
    for name, values in zip(head_names, convs):
        tensors |= normalised(f"AuxLogits/{name}", *values)
    tensors |= biased(f"AuxLogits/{head_names[2]}", *dense)
    path = write_checkpoint(
        tmp_path / "model.ckpt",
        {f"{scope}/{name}": value for name, value in tensors.items()},
        version=1,
    )
    pretrained = load(path, model, "slim")
    assert pretrained.model.num_classes == 1000
    for size in (299, 155):
        x = images(size)
        expected, their_maps = theirs(network, x, stages)
        outputs, our_maps = ours(pretrained, x)
        worst = max(difference(our_maps[name], value) for name, value in their_maps.items())
        found = difference(outputs.logits, expected[:, 1:])
        print(
            f"slim {model} at {size}: logits {found:.1e}, {len(stages)} stages, worst {worst:.1e}"
        )
        assert max(found, worst) <= LIMIT
        if size == 299:
            outputs, _ = ours(without_dropout(pretrained, bn_frozen=True), x, train=True)
            found = difference(outputs.aux[0], apply(their_maps[tap])[:, 1:])
            print(f"slim {model} head at {size}: {found:.1e}")
            assert found <= LIMIT
