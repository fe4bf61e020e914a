"""facenet's Inception-ResNet-v1: a torch network with the names of its PyTorch port computes; both
of its formats are read.
"""

import numpy as np
import pytest

from cnnjax import weights
from tests.parity.peers import compare, load, randomise
from tests.parity.test_slim import of_timm
from tests.weights.slim_names import FACENET, biased, normalised, write_checkpoint

pytestmark = pytest.mark.parity

STAGES = {
    **{f"conv{name}": f"conv2d_{name}" for name in ("1a", "2a", "2b", "3b", "4a", "4b")},
    **{"pool3a": "maxpool_3a", "mixed6a": "mixed_6a", "mixed7a": "mixed_7a", "block8_6": "block8"},
    **{f"block35_{i + 1}": f"repeat_1.{i}" for i in range(5)},
    **{f"block17_{i + 1}": f"repeat_2.{i}" for i in range(10)},
    **{f"block8_{i + 1}": f"repeat_3.{i}" for i in range(5)},
}


def port(identities):
    """The network, with the port's names of its modules."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, c_in, c_out, kernel=1, stride=1, padding=0):
            super().__init__()
            self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
            self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

        def forward(self, x):
            return torch.relu(self.bn(self.conv(x)))

    def branch(c_in, *layers):
        """(width, kernel, stride, padding) of each; a branch of one layer is that layer."""
        built = []
        for width, *rest in layers:
            built.append(Layer(c_in, width, *rest))
            c_in = width
        return built[0] if len(built) == 1 else nn.Sequential(*built)

    class Module(nn.Module):
        def __init__(self, *branches):
            super().__init__()
            for i, each in enumerate(branches):
                self.add_module(f"branch{i}", each)

        def branches(self, x):
            return [each(x) for name, each in self.named_children() if name.startswith("branch")]

        def forward(self, x):
            return torch.cat([*self.branches(x), nn.functional.max_pool2d(x, 3, 2)], 1)

    class Block(Module):
        def __init__(self, channels, width, scale, *branches, relu=True):
            super().__init__(*branches)
            self.conv2d, self.scale, self.relu = nn.Conv2d(width, channels, 1), scale, relu

        def forward(self, x):
            x = x + self.scale * self.conv2d(torch.cat(self.branches(x), 1))
            return torch.relu(x) if self.relu else x

    same = dict(kernel=3, padding=1)

    def block35():
        three = (32, 3, 1, 1)
        return Block(
            256,
            96,
            0.17,
            branch(256, (32,)),
            branch(256, (32,), three),
            branch(256, (32,), three, three),
        )

    def block17():
        return Block(
            896,
            256,
            0.10,
            branch(896, (128,)),
            branch(896, (128,), (128, (1, 7), 1, (0, 3)), (128, (7, 1), 1, (3, 0))),
        )

    def block8(scale=0.20, relu=True):
        long = branch(1792, (192,), (192, (1, 3), 1, (0, 1)), (192, (3, 1), 1, (1, 0)))
        return Block(1792, 384, scale, branch(1792, (192,)), long, relu=relu)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv2d_1a, self.conv2d_2a = Layer(3, 32, 3, 2), Layer(32, 32, 3)
            self.conv2d_2b, self.maxpool_3a = Layer(32, 64, **same), nn.MaxPool2d(3, 2)
            self.conv2d_3b, self.conv2d_4a, self.conv2d_4b = (
                Layer(64, 80),
                Layer(80, 192, 3),
                Layer(192, 256, 3, 2),
            )
            self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
            self.mixed_6a = Module(
                branch(256, (384, 3, 2)), branch(256, (192,), (192, 3, 1, 1), (256, 3, 2))
            )
            self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
            self.mixed_7a = Module(
                branch(896, (256,), (384, 3, 2)),
                branch(896, (256,), (256, 3, 2)),
                branch(896, (256,), (256, 3, 1, 1), (256, 3, 2)),
            )
            self.repeat_3 = nn.Sequential(*(block8() for _ in range(5)))
            self.block8 = block8(1.0, relu=False)
            self.last_linear, self.last_bn = (
                nn.Linear(1792, 512, bias=False),
                nn.BatchNorm1d(512, eps=1e-3),
            )
            self.logits = nn.Linear(512, identities)

        def forward(self, x):
            for name, child in self.named_children():
                if name == "last_linear":
                    x = x.mean((2, 3))
                x = child(x)
            return x

    return randomise(Network())


def test_port(tmp_path):
    import torch

    network = port(identities=100)
    torch.save(network.state_dict(), tmp_path / "file.pt")
    pretrained = load(tmp_path / "file.pt", "inception_resnet_v1_facenet", "facenet")
    assert pretrained.model.num_classes == 100
    for size in (160, 139):
        compare("facenet's port", pretrained, network, size, STAGES)
    weights.export(tmp_path / "out.pt", pretrained, "facenet")
    second, values = port(identities=100), torch.load(tmp_path / "out.pt", weights_only=True)
    second.load_state_dict(values, strict=True)
    for key, value in network.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


def test_checkpoint(tmp_path):
    import tensorflow as tf

    network = port(identities=100)
    tensors = of_timm(network, FACENET)
    network.last_bn.weight.data.fill_(1.0)
    values = (
        network.last_bn.bias.detach(),
        network.last_bn.running_mean,
        network.last_bn.running_var,
    )
    kernel = network.last_linear.weight.detach().numpy().T
    tensors |= normalised("Bottleneck", kernel, *(value.numpy() for value in values))
    tensors = {f"InceptionResnetV1/{name}": value for name, value in tensors.items()}
    tensors |= biased(
        "Logits", network.logits.weight.detach().numpy().T, network.logits.bias.detach().numpy()
    )
    tensors["global_step"] = np.int64(275)
    path = write_checkpoint(tmp_path / "model-20180402-114759.ckpt-275", tensors)
    pretrained = load(path, "inception_resnet_v1_facenet", "facenet")
    assert pretrained.origin["top1"] == 99.65
    for size in (160, 139):
        compare("facenet's checkpoint", pretrained, network, size, STAGES)
    weights.export(tmp_path / "out.ckpt", pretrained, "facenet")
    written = tf.train.load_checkpoint(str(tmp_path / "out.ckpt"))
    del tensors["global_step"]
    assert set(written.get_variable_to_shape_map()) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(written.get_tensor(name), value)
