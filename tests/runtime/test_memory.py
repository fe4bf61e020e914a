"""The process's memory and XLA's settings: large pages, memory given back, steps on the caller."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from train.runtime import xla

PROBE = """
import os, pathlib, sys
from train.runtime import malloc
malloc.OFFER = pathlib.Path(os.environ["OFFER"])
if os.environ.get("FORGETFUL"):  # a system that removes the variable
    os.environ.pop("GLIBC_TUNABLES", "")
if __name__ == "__main__":
    malloc.start_with_large_pages("probe")
    about = sys.flags.dev_mode, sys.warnoptions, os.environ.get("GLIBC_TUNABLES", "")
    print(os.getpid(), *sys.argv[1:], *about)
"""


@pytest.fixture
def probe(tmp_path):
    """The environment in which `python -m probe` runs the program above, on an offer of pages."""
    (tmp_path / "probe.py").write_text(PROBE)

    def environment(offer, **variables):
        if offer:
            (tmp_path / "enabled").write_text(offer)
        places = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OFFER": str(tmp_path / "enabled")}
        return os.environ | places | variables

    return environment


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
def test_a_program_starts_again_with_large_pages_where_they_are_offered(
    offer, before, after, probe
):
    forgetful = "yes" if offer.startswith("forgetful") else ""
    environment = probe(offer, GLIBC_TUNABLES=before, FORGETFUL=forgetful)
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "probe", "a b", "-m"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as program:
        output, _ = program.communicate(timeout=300)
    expected = f"{program.pid} a b -m True ['default', 'ignore'] {after}"
    assert output.rstrip() == expected.rstrip()


def test_a_program_that_runs_a_command_inside_of_it_is_not_started_again(probe):
    code = "import runpy; print('once'); runpy.run_module('probe', run_name='__main__')"
    command, environment = [sys.executable, "-c", code], probe("[madvise]")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("once") and done.stdout.count("once") == 1
    assert "hugetlb" not in done.stdout


def output_of(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


FREED = """
import numpy as np
from pathlib import Path
from train.runtime.malloc import give_back, keep_memory
keep_memory()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
blocks = [np.ones(12_000) for _ in range(2_000)]
last = blocks.pop()
del blocks
kept = resident()
give_back()
print(kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc, and /proc")
def test_free_memory_is_given_back():
    assert float(output_of(FREED)) > 100  # of 192 MB


# ---------------------------------------------------------------------------------- XLA's settings


def test_flags_that_are_set_stay(monkeypatch):
    # The name of a file, which XLA reads.
    assert xla.flags("flags.txt", recomputes=False, small=True) == "flags.txt"
    given = (
        "--xla_cpu_experimental_ynn_fusion_type= "
        "--xla_cpu_enable_concurrency_optimized_scheduler=true"
    )
    added = f"{given} --xla_cpu_copy_insertion_use_region_analysis=true"
    for flags in (given, added):
        assert xla.flags(flags, recomputes=False, small=True) == added
    monkeypatch.setenv("XLA_FLAGS", given)
    xla.tune()
    assert os.environ["XLA_FLAGS"] == given  # programs that this one starts read them too


STEP = """
import jax
import jax.numpy as jnp
import numpy as np
from train import parallel
from train.benchmark.workloads import for_model
from train.build import Task
from train.runtime import xla
xla.tune()

def are_ready(arrays):
    return all(x.is_ready() for x in arrays if x.nbytes > parallel.COPIED_AT_ONCE)

task = Task(for_model("lenet5", 4096))
state, batch = task.fresh_state(), task.spread.shard(next(task.batches(0)))
ready = [are_ready(batch.values())]
step = task.step.lower(state, batch, task.key).compile()
for _ in range(2):
    state, values = step(state, task.spread.shard(next(task.batches(1))), task.key)
    ready.append(all(x.is_ready() for x in jax.tree.leaves((state, values))))

matrix = jnp.ones((1024, 1024))
answer, variables, _ = parallel.each_row(lambda a, rows: jnp.tanh(rows @ a @ a), matrix)
# One at least has to be copied: XLA takes aligned arrays as they are.
rows = [np.ones(2**22 + 1, np.float32)[i:][: 2**22].reshape(4096, 1024) for i in range(2)]
answer(variables, rows[0])  # compiles
ready.append(all(answer(variables, row).is_ready() for row in rows))
print(ready)
"""


@pytest.mark.parity
def test_a_step_and_an_answer_on_one_cpu_run_on_the_thread_that_calls_it():
    """The C library keeps large blocks at hand for that thread only."""
    assert output_of(STEP).strip() == "[True, True, True, True]"


CONVOLUTIONS = """
import sys
import jax
import jax.numpy as jnp
from cnnjax.ops import convolve, platform
from train.runtime import xla
if "late" in sys.argv:
    jax.devices()
xla.tune(small="small" in sys.argv)

def plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

def ours(x, kernel):
    return convolve.convolve(x, kernel, (1, 1), "SAME")

image, kernel, matrix = jnp.ones((8, 35, 35, 64)), jnp.ones((3, 3, 64, 96)), jnp.ones((512, 512))
in_ynnpack = [
    "ynn_fusion" in jax.jit(function).lower(*arguments).compile().as_text()
    for function, arguments in ((plain, (image, kernel)), (jnp.dot, (matrix, matrix)))
]
avoids = "stablehlo.slice" in jax.jit(ours).lower(image, kernel).as_text("stablehlo")
print(platform.ynnpack_takes_convolutions(), avoids, *in_ynnpack)
"""


@pytest.mark.skipif(not xla.TRIED, reason="this XLA is given no flags")
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("", "False False False"),
        ("small", "False False False False"),  # nor matrix products
        ("late", "True True True True"),  # XLA has read its flags: ours avoids YNNPACK
    ],
)
def test_convolutions_do_not_go_to_a_slower_library(how, expected):
    assert output_of(CONVOLUTIONS, how).startswith(expected)
