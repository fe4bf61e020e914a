"""One process for each framework: what is compared shares neither threads, nor memory, nor Keras's one backend.

Only the one whose turn it is works; the others wait for a word on their pipe.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from train.benchmark import peers
from train.benchmark.memory import Memory, device_memory
from train.config import Config
from train.errors import UserError
from train.runtime.malloc import with_large_pages

Timer = Callable[[int], float]  # seconds for so many steps
OURS, REMAT = (
    "cnnjax",
    "cnnjax-remat",
)  # the latter computes activations anew instead of keeping them

ALONE = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}


@dataclasses.dataclass
class Job:
    """What to run; `who` is one of ours or of `peers.PEERS`."""

    who: str
    what: str  # step | infer | compile: only until the first step
    config: Config
    image: tuple[int, int, int] = (0, 0, 0)  # (H, W, C), for peers
    classes: int = 0  # for peers
    heads: bool | None = None  # auxiliary heads in training; None: as the config has them
    environment: dict[str, str] = dataclasses.field(default_factory=dict)  # set before jax is there
    trace: str = ""  # ours: a folder for a profile of the first round


class Contestant:
    """A process that does a job and waits: `run(steps)` takes seconds, `about` holds what it said when it was ready."""

    def __init__(self, job: Job):
        self.who, earlier = job.who, dict[str, Any]()
        with tempfile.TemporaryDirectory() as folder:
            if job.who in (OURS, REMAT) and job.what == "step":
                # As a run from its second start on: the memory is that of steps, without what
                # compiling leaves behind.
                cache = {
                    "JAX_ENABLE_COMPILATION_CACHE": "true",
                    "JAX_COMPILATION_CACHE_DIR": folder,
                }
                job = dataclasses.replace(job, environment=job.environment | cache)
                self._start(dataclasses.replace(job, what="compile"))
                earlier = self._answer()
                self.kill()
            self._start(job)
            self.about = self._answer()
        if earlier and not self.about["loaded"]:
            print(
                f"warning: {self.who} compiled its step again, for it could not be loaded; its memory "
                "includes what compiling leaves",
                file=sys.stderr,
                flush=True,
            )
        self.about |= earlier

    def _start(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, job), daemon=True)
        training = job.who in (OURS, REMAT) and job.what != "infer"
        environment = (
            with_large_pages(os.environ) if training else os.environ
        )  # as the trainer has it; peers, as users
        with tunables_of(environment):
            self._process.start()
        other.close()

    def run(self, steps: int) -> float:
        """Seconds for so many steps."""
        self._pipe.send(steps)
        return self._answer()

    def close(self) -> dict[str, Any]:
        """Ends the process; what it has learnt: the peak of its memory, and ours this machine's rates."""
        self._pipe.send(0)
        last = self._answer()
        self._process.join()
        return last

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise UserError(
                f"{self.who} died with code {self._process.exitcode} (-9: out of memory)"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def tunables_of(environment: Mapping[str, str]):
    """A process that starts inside has the C library's settings of that environment."""
    name = "GLIBC_TUNABLES"
    before, inside = os.environ.get(name, ""), environment.get(name, "")
    try:
        os.environ[name] = inside
        yield
    finally:
        os.environ[name] = before


def serve(pipe: Any, job: Job) -> None:
    """The process: builds, answers with what it costs to start, then runs on demand; 0 steps end it."""
    # Several processes share a GPU, so none may take all its memory at once; and compiled programs are not cached.
    os.environ |= ALONE | job.environment
    try:
        run, about, memory = (ours if job.who in (OURS, REMAT) else theirs)(job)
        first, second = (
            run(1),
            run(1),
        )  # a compiler that runs with the first step takes the difference
        about.setdefault("compile_s", max(0.0, first - second))
        memory.restart()
        run(1)  # with memory that is new to the process
        pipe.send(about)  # not before: the next one's turn may begin
        while steps := pipe.recv():
            with profile(job.trace):
                seconds = run(steps)
            job.trace = ""
            pipe.send(seconds)
        last: dict[str, Any] = {"peak_mib": memory.peak(), "process_mib": memory.of_process()}
        if job.who == OURS:
            from train.benchmark import roofline

            last["rates"] = roofline.measure(job.config.model.dtype)
        pipe.send(last)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the one who asks is gone
    except UserError as error:
        pipe.send(error)
    except Exception as error:
        sentence = str(error).strip().splitlines()
        pipe.send(
            UserError(
                f"{job.who} failed: {type(error).__name__}: {sentence[0] if sentence else ''}"
            )
        )


@contextlib.contextmanager
def profile(folder: str):
    """A trace of what is inside, for TensorBoard's profile page or Perfetto."""
    if folder:
        import jax

        with jax.profiler.trace(folder):
            yield
    else:
        yield


def theirs(job: Job) -> tuple[Timer, dict[str, Any], Memory]:
    """A peer on random images."""
    import numpy as np

    peers.load(job.who, job.config.model.name)
    memory = Memory(peers.device_memory(job.who))
    random, batch = np.random.default_rng(0), job.config.data.batch_size
    images = random.integers(0, 256, (batch, *job.image)).astype(np.uint8)
    labels = random.integers(0, job.classes, batch).astype(np.int32)
    run, about = peers.make(
        job.who, job.config.model.name, images, labels, classes=job.classes, train=job.what != "infer",
        heads=bool(job.heads), dtype=job.config.model.dtype,
    )  # fmt: skip
    return run, about, memory


def ours(job: Job) -> tuple[Timer, dict[str, Any], Memory]:
    """The trainer's own step, or the network as evaluation runs it, on one batch that lies on the devices."""
    import jax
    import jax.numpy as jnp

    from train import data
    from train.benchmark import roofline
    from train.build import Task
    from train.start import start

    config = configure(job)
    infers = job.what == "infer"
    start(None if infers else config)
    jnp.ones(8).block_until_ready()
    split = data.load(
        config.data.source, config.data.train_split
    )  # peers hold one batch, not a data set
    memory = Memory(device_memory())
    task = Task(config, split)
    batch = task.spread.place(next(task.batches(0)))
    about: dict[str, Any] = {"device": task.spread.devices[0].device_kind}
    state = task.abstract_state if job.what == "compile" else task.fresh_state()
    if infers:
        function: Any = jax.jit(
            lambda variables, images: (
                task.model.apply(variables, task.preprocess(images), train=False).logits
            )
        )
        images, variables = batch["image"].reshape(-1, *batch["image"].shape[-3:]), state.variables
        arguments: tuple = (variables, images)
    else:
        function, arguments = task.step, (state, batch, task.key)
    hits: list[str] = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    )
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    ready = lowered.compile()
    about |= {
        "trace_s": traced - began,
        "compile_s": time.perf_counter() - traced,
        "loaded": bool(hits),
    }
    if job.what == "compile":
        if "JAX_COMPILATION_CACHE_DIR" in job.environment:
            task.fresh_state()  # compiles its program too
        planned = ready.memory_analysis()
        about["work"] = roofline.count(function, *arguments)
        if planned:
            about["planned_mib"] = (
                planned.argument_size_in_bytes + planned.temp_size_in_bytes
            ) / 2**20
        return (lambda steps: 0.0), about, memory
    if infers:
        about["work"] = roofline.count(function, *arguments)
        return repeat(lambda: function(variables, images), task.spread.steps_ahead), about, memory

    def step() -> Any:
        nonlocal state
        state, values = ready(state, batch, task.key)
        return values

    return repeat(step, task.spread.steps_ahead), about, memory


def configure(job: Job) -> Config:
    """The config with the job's wishes."""
    config = dataclasses.replace(job.config, model=dataclasses.replace(job.config.model))
    options = {"aux": job.heads} if job.heads is not None and has_option(config, "aux") else {}
    if job.who == REMAT:
        options["remat"] = True
    config.model.options = config.model.options | options
    return config


def has_option(config: Config, option: str) -> bool:
    from cnnjax import create_model

    return hasattr(create_model(config.model.name), option)


def repeat(dispatch: Callable[[], Any], ahead: int) -> Timer:
    """Calls `dispatch`, which returns what to wait for, at most `ahead` steps ahead of the devices, as in the loop."""
    import jax

    def run(steps: int) -> float:
        pending: list[Any] = []
        began = time.perf_counter()
        for _ in range(steps):
            pending.append(dispatch())
            if len(pending) > ahead:
                jax.block_until_ready(pending.pop(0))
        jax.block_until_ready(pending)
        return time.perf_counter() - began

    return run
