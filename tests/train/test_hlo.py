"""What the compiler makes of the step on eight devices: all-reduces and their bytes, no way to the
host, donation.
"""

import json

import pytest

from tests.helpers import ROOT, command

pytestmark = pytest.mark.parity  # which keeps XLA's optimisations

SCRIPT = """
import json, re, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from tests.train.test_accumulation import Plain, Small, batches, make
from train.benchmark.roofline import all_reduces

found = {}
for name, model, mapping in [("plain", Plain(), "pmap"), ("plain_shard_map", Plain(), "shard_map"),
                             ("local", Small(bn_axis=None), "shard_map"),
                             ("synced", Small(), "pmap"),
                             ("accumulated", Plain(), "shard_map"),
                             ("alone", Plain(), "pmap"), ("alone_shard_map", Plain(), "shard_map")]:
    alone = name.startswith("alone")
    options = {"accumulate": 2} if name == "accumulated" else {}
    spread, state, step = make(model, mapping, 1 if alone else 8, **options)
    text = step.lower(state, spread.shard(next(batches(1))), jax.random.key(0)).compile().as_text()
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    found[name] = {
        "bytes": all_reduces(text),
        "other": re.findall(
            r" (all-gather|reduce-scatter|all-to-all|collective-permute"
            r"|infeed|outfeed|send|recv)\\(",
            text,
        ),
        "calls": re.findall(r'custom_call_target="([^"]+)"', text),
        "donated": len(re.findall(r"(?:may|must)-alias", text)),
        "leaves": len(jax.tree.leaves(state)),
        "gradients": size(state.params),
        "statistics": size(state.batch_stats),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hlo")
    (folder / "look.py").write_text(SCRIPT)
    done = command("look", env={"PYTHONPATH": f"{ROOT}:{folder}"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# loss, top1, main_loss, aux_loss: what is logged rides along.
LOGGED = 4 * 4


@pytest.mark.parametrize("name", ["plain", "plain_shard_map", "local", "accumulated"])
def test_one_all_reduce_of_gradients_and_statistics(found, name):
    step = found[name]
    assert step["bytes"] == [step["gradients"] + step["statistics"] + LOGGED]


@pytest.mark.parametrize("name", ["alone", "alone_shard_map"])
def test_one_device_exchanges_nothing(found, name):
    assert found[name]["bytes"] == []


def test_synced_batchnorm_adds_two_small_ones_a_layer(found):
    """Forward the two moments of each channel, backward their two gradients: the price of
    statistics over all devices.
    """
    step, layers, channels = found["synced"], 2, 8
    assert len(step["bytes"]) == 1 + 2 * layers
    moments = 2 * layers * 2 * channels * 4
    assert sum(step["bytes"]) <= step["gradients"] + step["statistics"] + LOGGED + 2 * moments
    assert min(step["bytes"]) <= 2 * channels * 4


@pytest.mark.parametrize(
    "name", ["plain", "plain_shard_map", "local", "synced", "accumulated", "alone"]
)
def test_nothing_goes_to_the_host_and_the_state_is_donated(found, name):
    step = found[name]
    assert step["other"] == [] and step["calls"] == []
    assert step["donated"] == step["leaves"]
