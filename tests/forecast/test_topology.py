"""TPUs that are not here: what their compiler makes of the step, and what a dry run says of it."""

import importlib.util
import re
import sys

import jax
import pytest
from jax import export

from tests.helpers import ROOT
from train import dry_run, forecast, recipe
from train.__main__ import main
from train.build import Task
from train.errors import UserError
from train.forecast import hlo, topology
from train.forecast.chips import GIB, chip_of, count_chips
from train.parallel import Parallel

LENET = f"{ROOT}/configs/lenet_1998.py"
needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="libtpu is not installed: pip install libtpu"
)


@pytest.fixture(scope="module")
def lenet():
    """The config of LeNet-5 of 1998, 32 images a chip, on a data set that is nowhere."""
    return recipe.load(LENET, ["--config.data.batch_size=128"])


@needs_libtpu
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_a_step_for_four_tpus(lenet, mapping):
    """One all-reduce of gradients, loss and accuracy; the state in place; no branch for a CPU."""
    config = recipe.override(lenet, [f"--config.parallel.mapping={mapping}"])
    step = topology.compile_step(config, "v5e:2x2")
    assert (step.devices, step.kind, step.mapping) == (4, "TPU v5 lite", mapping)
    parameters = 60_000
    assert step.work.collectives == (4 * parameters + 8,)
    assert step.donated == 14  # of 14 arrays: 12 of parameters, two counts of steps
    assert step.work.branches == 0
    assert step.fits and 4 * parameters < step.arguments < step.total < GIB
    assert 0 < step.work.seconds < 1e-3


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(("images", "fits"), [(150_000, True), (260_000, False)])
def test_the_verdict_on_memory(images, fits):
    """LeNet-5 on more images than a chip of 16 GiB holds, and on fewer."""
    config = recipe.load(LENET, [f"--config.data.batch_size={images}"])
    step = topology.compile_step(config, "v5e:1x1")
    assert step.fits == fits == (step.total < step.chip.memory)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology=v5x:2x2"], "--topology=v5x:2x2: no such chip; did you mean v5p or v5e"),
        (["--topology=v5e"], "--topology=v5e must be a chip and its grid, as in v5e:8x8"),
        (["--topology=v5e:0x2"], "must be a chip and its grid"),
        (["--topology=v5e:3x2"], "so the first two sides must be even"),
        (
            ["--topology=v5e:2x2,v5e:4x4", "--config.data.batch_size=12"],
            "data.batch_size=12 must be a multiple of the 16 chips of v5e:4x4",
        ),
        (["--topology=v5e:2x2", "--config.parallel.devices=2"], "parallel.devices is for this"),
        (["--topology=h100:2x4"], "--topology=h100:2x4 must be a GPU and how many, as in h100:8"),
        (["--topology=h100:12"], "so more than 8 must be a multiple of it"),
        (
            ["--topology=h100:16", "--config.data.batch_size=24"],
            "data.batch_size=24 must be a multiple of the 16 chips of h100:16",
        ),
    ],
)
def test_mistakes_end_before_anything_is_compiled(monkeypatch, arguments, sentence):
    monkeypatch.setattr(forecast, "compile_step", None)
    with pytest.raises(UserError) as caught:
        main([f"--config={LENET}", "--workdir=-", "--dry_run", *arguments])
    assert sentence in str(caught.value) and caught.value.exit_code == 2


def test_topology_is_for_a_dry_run():
    with pytest.raises(UserError, match="--topology is for --dry_run"):
        main([f"--config={LENET}", "--workdir=-", "--topology=v5e:2x2"])


def test_a_missing_libtpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(UserError, match=r"v5e:2x2 needs libtpu: pip install 'cnnjax\[tpu\]'"):
        topology.devices("v5e:2x2")


def test_a_missing_cuda_plugin(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"h100:8 needs jax's CUDA plugin: pip install 'jax\[cuda"):
        topology.devices("h100:8")


@pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda12_plugin"), reason="pip install 'jax[cuda12]'"
)
@pytest.mark.parametrize("gpus", [1, 8, 16])
def test_a_step_for_gpus(lenet, gpus):
    step = topology.compile_step(lenet, f"h100:{gpus}")
    assert (step.devices, step.kind) == (gpus, "NVIDIA H100 80GB HBM3")
    assert step.work.collectives == ((240_008,) if gpus > 1 else ())
    assert step.donated == 14 and step.fits and 240_000 < step.arguments < step.total < GIB


def step_of(config, name="v5e:8x8", total=10 * GIB):
    """As `compile_step`, without compiling: bfloat16 halves the memory, others save a byte."""
    if config.model.dtype == "bfloat16":
        total /= 2
    elif config.parallel.accumulate > 1 or config.model.options or config.model.keep != "auto":
        total -= 1
    chips = count_chips(name)
    work = hlo.Work(1e12 / chips, 1e9 / chips, 0.02 / chips, (100, 300), 0)
    fits = total < chip_of(name).memory
    return topology.Step(name, chips, "TPU v5 lite", "pmap", fits, 2**20, int(total), work, 14)


def forecast_of(monkeypatch, names, total):
    monkeypatch.setattr(forecast, "compile_step", lambda config, name: step_of(config, name, total))
    arguments = ["--dry_run", f"--topology={names}", "--config.data.batch_size=256"]
    return main([f"--config={ROOT}/configs/vgg.py:vgg16", "--workdir=-", *arguments])


def test_several_topologies_make_a_table(monkeypatch, capsys):
    result = forecast_of(monkeypatch, "v5e:4x4,v5e:8x8", 10 * GIB)
    rows = result["topologies"]
    assert list(rows) == ["v5e:4x4", "v5e:8x8"] and result["batch_size"] == 256
    for row, chips in zip(rows.values(), (16, 64)):
        assert row["devices"] == chips and row["fits"] and "remedies" not in row
        assert row["device_bytes"] == 10 * GIB
        assert row["bound_ms"] == pytest.approx(20 / chips)
        assert row["images_per_second_bound"] == pytest.approx(256 * chips / 0.02)
        assert row["collectives"] == 2 and row["collective_bytes"] == 400
    said = capsys.readouterr().err
    table = said.splitlines()[-3:]
    assert [row.split()[0] for row in table] == ["chips", "v5e:4x4", "v5e:8x8"]


def test_remedies_are_tried_where_memory_is_short(monkeypatch, capsys):
    tried = forecast_of(monkeypatch, "v5e:8x8", 20 * GIB)["topologies"]["v5e:8x8"]["remedies"]
    assert {name: row["fits"] for name, row in tried.items()} == {
        "model.dtype=bfloat16": True,
        "parallel.accumulate=2": False,
        "parallel.accumulate=4": False,
        "model.keep=products": False,
        "model.options.remat=true": False,
    }
    said = capsys.readouterr().err
    assert "does NOT fit, 20 of 15.75 GiB a chip" in said
    assert "model.dtype=bfloat16: fits, 10 of 15.75 GiB a chip" in said


def test_of_gpus_memory_and_exchanges_are_told(monkeypatch, capsys):
    rows = forecast_of(monkeypatch, "v5e:4x4,h100:16", 30 * GIB)["topologies"]
    timed = {"multiply_adds", "traffic_bytes", "bound_ms", "images_per_second_bound"}
    assert {*rows["v5e:4x4"]} - {*rows["h100:16"]} == timed | {"share_of_peak", "remedies"}
    assert rows["h100:16"]["fits"] and rows["h100:16"]["collective_bytes"] == 400
    said = capsys.readouterr().err
    assert "fits, 30 of 59.33 GiB a chip" in said and "no bound of time" in said
    assert said.splitlines()[-1].split() == [
        "h100:16",
        "16",
        "yes",
        "30.00",
        "-",
        "-",
        "-",
        "-",
        "0.0",
    ]


PROGRAM = """\
HloModule step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%inside (p0: bf16[1,4,4,2], p1: bf16[3,3,2,8]) -> bf16[1,4,4,8] {
  %p0 = bf16[1,4,4,2]{3,2,1,0} parameter(0)
  %p1 = bf16[3,3,2,8]{3,2,1,0} parameter(1)
  ROOT %c = bf16[1,4,4,8]{3,2,1,0} convolution(%p0, %p1), LABELS
}

%body (s: (f32[64], s32[])) -> (f32[64], s32[]) {
  %s = (f32[64]{0}, s32[]) parameter(0)
  %x = f32[64]{0} get-tuple-element(%s), index=0
  ROOT %n = f32[64]{0} negate(%x)
}

%few (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  ROOT %b = f32[64]{0:T(128)S(1)} negate(%a)
}

ENTRY %main (image: bf16[1,4,4,2], kernel: bf16[3,3,2,8]) -> f32[64] {
  %image = bf16[1,4,4,2]{3,2,1,0} parameter(0)
  %kernel = bf16[3,3,2,8]{3,2,1,0:T(8,128)S(1)} parameter(1)
  %f = bf16[1,4,4,8]{3,2,1,0} fusion(%image, %kernel), kind=kOutput, calls=%inside
  %v = (f32[64]{0}, s32[]) parameter(2)
  %w = (f32[64]{0}, s32[]) while(%v), condition=%cond, body=%body, FIVE_TIMES
  %y = f32[64]{0} get-tuple-element(%w), index=0
  %r = f32[64]{0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
  ROOT %q = f32[64]{0} conditional(%i, %r, %r), branch_computations={%few, %few}
}
""".replace("LABELS", "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f").replace(
    "FIVE_TIMES", 'backend_config={"known_trip_count":{"n":"5"}}'
)


def test_reading_a_program():
    """A convolution on a 4x4 map meets 10 x 10 pairs of pixel and tap; S(1) is on-chip memory."""
    work = hlo.read(PROGRAM, multiply_adds=1000, bandwidth=100)
    fusion = 10 * 10 * 2 * 8, 2 * (32 + 128)
    loop, branch = 5 * 2 * 256, 256
    assert work.multiply_adds == fusion[0]
    assert work.bytes == fusion[1] + loop + branch
    assert work.seconds == pytest.approx(max(fusion[1] / 100, 1.6) + (loop + branch) / 100)
    assert work.collectives == (256,) and work.branches == 1
    assert hlo.donated(PROGRAM) == 1


def test_memory_of_a_buffer_assignment():
    lines = [
        "allocation 0: size 100, parameter 2, shape |f32[25]| at ShapeIndex {}:",
        "allocation 1: size 30, preallocated-temp:",
        " value: <2 x @0> (size=512,offset=0): f32[]",
        "allocation 2: size 7000, color 1, preallocated-temp:",
    ]
    assert hlo.memory("\n".join(lines)) == (130, 100)


def test_the_step_exports_for_tpus_and_gpus(lenet):
    """Nothing in it is for a CPU, or for one device, only."""
    config = recipe.override(lenet, ["--config.parallel.mapping=shard_map"])
    task = Task(config, dry_run.KNOWN[config.data.source])
    exported = export.export(task.step, platforms=["tpu", "cuda"])(*dry_run.arguments(task))
    assert exported.platforms == ("tpu", "cuda") and exported.nr_devices == 4
    calls = set(re.findall(r"custom_call @(\w+)", exported.mlir_module()))
    assert calls <= {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


def test_devices_that_are_not_here_are_no_process_of_a_cluster(monkeypatch):
    """One process compiles for all of a topology, even where it is one of several."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    spread = Parallel("pmap", among=jax.devices()[:2])
    assert len(spread.devices) == 2 and spread.mapping == "pmap"
    shapes = {"image": jax.ShapeDtypeStruct((8, 3, 3, 1), "uint8")}
    assert spread.abstract_batch(shapes)["image"].shape == (2, 4, 3, 3, 1)
