"""What a step keeps: products alone or everything, to the same result; and parameters are updated without a copy."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from cnnjax import Outputs, list_models
from cnnjax.models.layers import Conv, ConvBN
from cnnjax.ops.pooling import global_avg_pool
from tests.helpers import ROOT, assert_trees_close, command
from train import config, losses, parallel, state, step
from train.build import Task
from train.config import Config, Data, Loss, Model, Optim
from train.errors import UserError
from train.runtime import xla
from train.start import is_small, recomputes

HASTY = {"xla_backend_optimization_level": 0}  # the plan of the memory is made before


def task(name="inception_v1_bn", keep="auto", size=64, devices=1, **options):
    return Task(
        Config(
            model=Model(name=name, keep=keep, options=options),
            data=Data(source=f"synthetic:{size}x{size}x3/10", batch_size=8),
            parallel=config.Parallel(devices=devices),
            optim=Optim(lr=0.01, schedule="constant"),
        )
    )


class Deep(nn.Module):
    """Nothing but layers with BatchNorm, whose activations are most of what a step needs."""

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, axis_name=step.AXIS
        )
        for number in range(6):
            x = ConvBN(16, (3, 3), norm, name=f"conv{number}")(x)
        features = global_avg_pool(x)
        return Outputs(nn.Dense(10, name="head")(features), (), features)


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_products_alone_take_much_less_memory_and_give_the_same_update(mapping):
    spread, model, tx = parallel.Parallel(mapping, 1), Deep(), optax.sgd(0.1)
    random, key = np.random.RandomState(0), jax.random.key(0)
    batch = spread.place(
        {
            "image": random.randint(0, 256, (8, 32, 32, 3)).astype(np.uint8),
            "label": np.arange(8) % 10,
        }
    )
    share = partial(
        step.train_step, model=model, tx=tx, loss_fn=partial(losses.objective, **dataclasses.asdict(Loss())),
        preprocess=partial(step.normalize, mean=(0.5,), std=(0.5,)),
    )  # fmt: skip
    results, planned = {}, {}
    for keep in (False, True):
        current = spread.replicate(
            state.create_state(model, tx, key, image_shape=(32, 32, 3), ema=False)
        )
        policy = step.keep_products(exchanges=False) if keep else None
        mapped = spread.map(partial(share, remat_policy=policy), split=(False, True, False))
        program = mapped.lower(current, batch, key)
        program = program.compile(compiler_options=HASTY)
        planned[keep] = program.memory_analysis().temp_size_in_bytes
        results[keep] = jax.device_get(program(current, batch, key))
    assert planned[True] < 0.7 * planned[False]
    assert_trees_close(results[False], results[True], rtol=1e-4, atol=1e-5)


def test_of_a_convolution_by_tiles_its_result_is_kept_and_not_its_sixteen_products():
    layer, images = Conv(128, (3, 3)), jax.numpy.ones((4, 16, 16, 256))
    variables = layer.init(jax.random.key(0), images)

    def forward(variables, images):
        return jax.numpy.sin(layer.apply(variables, jax.numpy.sin(images)))

    policy = step.keep_products(exchanges=False)
    result, gradient = jax.vjp(jax.checkpoint(forward, policy=policy), variables, images)
    kept = sum(leaf.size for leaf in jax.tree.leaves(gradient))
    assert kept == images.size + result.size + sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_auto_keeps_products_where_it_was_measured_to_cost_nothing():
    assert task().keeps_products
    assert not task(keep="all").keeps_products and not task(devices=2).keeps_products
    assert not task("alexnet_owt").keeps_products and task("alexnet_owt", "products").keeps_products
    with pytest.raises(UserError, match=r"model\.keep='product' is unknown; did you mean products"):
        task(keep="product")


def test_parameters_are_updated_in_place():
    first, *_ = xla.flags("", recomputes=True, small=False).split()
    name, value = first.removeprefix("--").split("=")
    made = task("alexnet_owt")

    def copied(wanted):
        batch = made.spread.place(next(made.batches(0)))
        lowered = made.step.lower(made.abstract_state, batch, made.key)
        text = lowered.compile(compiler_options=HASTY | {name: wanted}).as_text()
        return len(
            re.findall(r"= f32\[\d{4,},4096\]\S* copy\(", text)
        )  # the kernels of fc6 and fc7

    assert value == "true" and copied(True) == 0 < copied(False)


def test_flags_that_are_set_stay(monkeypatch):
    assert (
        xla.flags("flags.txt", recomputes=False, small=True) == "flags.txt"
    )  # XLA reads that file
    given = "--xla_cpu_experimental_ynn_fusion_type= --xla_cpu_enable_concurrency_optimized_scheduler=true"
    added = f"{given} --xla_cpu_copy_insertion_use_region_analysis=true"
    for flags in (given, added):
        assert xla.flags(flags, recomputes=False, small=True) == added
    monkeypatch.setenv("XLA_FLAGS", given)
    xla.tune()
    assert os.environ["XLA_FLAGS"] == given  # which programs that this one starts read too


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("vgg11", {}, False),
        ("vgg11_bn", {}, True),
        ("vgg11_bn", {"keep": "all"}, False),
        ("vgg11", {"keep": "products"}, True),
        ("alexnet", {"options": {"remat": True}}, True),
        ("inception_v3", {}, True),
        ("inception_v1", {"options": {"batch_norm": True}}, True),
    ],
)
def test_what_recomputes_is_known_ahead(name, model, expected):
    assert recomputes(Config(model=Model(name=name, **model))) is expected


@pytest.mark.parametrize(("name", "other"), [("vgg11", "true"), ("vgg11_bn", "false")])
def test_operations_are_ordered_for_what_the_step_keeps(name, other, tmp_path):
    recipe = tmp_path / "recipe.py"
    get_config = f"def get_config():\n    return for_model({name!r}, 64, size=64)\n"
    recipe.write_text(f"from train.benchmark import for_model\n\n{get_config}")

    def planned(flags=""):
        hasty = f"--xla_backend_optimization_level=0 {flags}"
        done = command(
            "train", f"--config={recipe}", "--workdir=-", "--dry_run", env={"XLA_FLAGS": hasty}
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["device_bytes"]

    assert planned() < 0.9 * planned(f"--xla_cpu_enable_concurrency_optimized_scheduler={other}")


PROBE = """
import os, pathlib, sys
from train import memory
memory.OFFER = pathlib.Path(os.environ["OFFER"])
if os.environ.get("FORGETFUL"):  # a system that takes the variable away
    os.environ.pop("GLIBC_TUNABLES", "")
if __name__ == "__main__":
    memory.start_with_large_pages("probe")
    print(os.getpid(), *sys.argv[1:], sys.flags.dev_mode, sys.warnoptions, os.environ.get("GLIBC_TUNABLES", ""))
"""


@pytest.mark.parametrize(
    ("offer", "before", "after"),
    [
        ("always [madvise] never", "", "glibc.malloc.hugetlb=1"),
        (
            "always [madvise] never",
            "glibc.malloc.check=0",
            "glibc.malloc.check=0:glibc.malloc.hugetlb=1",
        ),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never", "", ""),
        ("forgetful [madvise] never", "", ""),
        ("", "", ""),
    ],
)
def test_a_program_starts_again_with_large_pages_where_they_are_to_be_had(
    offer, before, after, tmp_path
):
    (tmp_path / "probe.py").write_text(PROBE)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "OFFER": str(tmp_path / "enabled"),
    }
    environment |= {"GLIBC_TUNABLES": before, "FORGETFUL": "yes" * offer.startswith("forgetful")}
    if offer:
        (tmp_path / "enabled").write_text(offer)
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "probe", "a b", "-m"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        said, _ = program.communicate(timeout=60)
    assert said.rstrip() == f"{program.pid} a b -m True ['default', 'ignore'] {after}".rstrip()


def test_a_program_that_runs_a_command_inside_of_it_is_not_started_again(tmp_path):
    (tmp_path / "enabled").write_text("[madvise]")
    (tmp_path / "probe.py").write_text(PROBE)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "OFFER": str(tmp_path / "enabled"),
    }
    code = "import runpy; print('once'); runpy.run_module('probe', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (
        done.stdout.startswith("once")
        and "hugetlb" not in done.stdout
        and done.stdout.count("once") == 1
    )


def said_by(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("name", "images", "small"),
    [("lenet5", 512, True), ("lenet5", 513, False), ("vgg16", 1, False)],
)
def test_which_steps_are_small(name, images, small):
    assert is_small(Config(model=Model(name=name), data=Data(batch_size=images))) is small


def test_of_all_networks_only_lenets_are_small():
    one = Data(batch_size=1)
    small = [name for name in list_models() if is_small(Config(model=Model(name=name), data=one))]
    assert sorted(small) == ["lenet5", "lenet5_1998"]


STEP = """
import jax
import jax.numpy as jnp
import numpy as np
from train import parallel
from train.benchmark.workloads import for_model
from train.build import Task
from train.runtime import xla
xla.tune()
task = Task(for_model("lenet5", 4096))
state, batch = task.fresh_state(), task.spread.shard(next(task.batches(0)))
there = [all(x.is_ready() for x in batch.values() if x.nbytes > parallel.COPIED_AT_ONCE)]
step = task.step.lower(state, batch, task.key).compile()
for _ in range(2):
    state, measured = step(state, task.spread.shard(next(task.batches(1))), task.key)
    there.append(all(x.is_ready() for x in jax.tree.leaves((state, measured))))
answer, variables, _ = parallel.each_row(lambda a, rows: jnp.tanh(rows @ a @ a), jnp.ones((1024, 1024)))
rows = [np.ones(2**22 + 1, np.float32)[i:][: 2**22].reshape(4096, 1024) for i in range(2)]  # one at least has to be copied
answer(variables, rows[0])  # compiles, and meanwhile the rows arrive
there.append(all(answer(variables, row).is_ready() for row in rows))
print(there)
"""


def test_a_step_and_an_answer_on_one_cpu_run_on_the_thread_that_calls_it():
    """The C library has large blocks at hand for that thread only."""
    assert said_by(STEP).strip() == "[True, True, True, True]"


HANDED_OVER = """
import sys
import jax
import jax.numpy as jnp
from cnnjax.ops import convolve, platform
from train.runtime import xla
if "late" in sys.argv:
    jax.devices()
xla.tune(small="small" in sys.argv)
image, kernel, matrix = jnp.ones((8, 35, 35, 64)), jnp.ones((3, 3, 64, 96)), jnp.ones((512, 512))
plain = jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
handed = [
    "ynn_fusion" in function.lower(*of).compile().as_text()
    for function, of in ((plain, (image, kernel)), (jax.jit(jnp.dot), (matrix, matrix)))
]
ours = jax.jit(lambda x, k: convolve.convolve(x, k, (1, 1), "SAME")).lower(image, kernel).as_text("stablehlo")
print(platform.ynnpack_takes_convolutions(), "stablehlo.slice" in ours, *handed)
"""


@pytest.mark.skipif(not xla.TRIED, reason="no flags are given to this XLA")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("", "False False False"),
        ("small", "False False False False"),  # matrix products neither
        ("late", "True True True True"),  # XLA reads no flags any more: ours hangs over the image
    ],
)
def test_convolutions_are_not_handed_to_a_slower_library(how, said):
    assert said_by(HANDED_OVER, how).startswith(said)


FREED = """
import numpy as np
from pathlib import Path
from train.memory import give_back, keep_memory
keep_memory()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
blocks = [np.ones(12_000) for _ in range(2_000)]
last = blocks.pop()
del blocks
kept = resident()
give_back()
print(kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps, and tells, on Linux")
def test_what_is_free_can_be_given_back():
    assert float(said_by(FREED)) > 100  # of 192 MB
