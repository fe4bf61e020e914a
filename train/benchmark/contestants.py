"""One process for each framework, so that they share neither threads nor memory.

Only the process whose turn it is works. The others wait for a message on their pipe.

Both ends of the pipe stand here, so that they stay alike.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from train.benchmark import memory, peers
from train.benchmark.peers import Timer
from train.config import Config
from train.errors import UserError
from train.runtime import malloc

OURS, REMAT = "cnnjax", "cnnjax-remat"  # REMAT has model.options.remat=true

# Several processes share a GPU, so that none may take all of its memory at the start.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}


@dataclasses.dataclass
class Job:
    """What a process runs.

    Attributes:
        who: OURS, REMAT or one of `peers.PEERS`.
        what: step | infer | compile (everything up to the first step).
        config: of ours; peers take the model's name, the batch size and the type from it.
        image, classes: (H, W, C) and number of classes, for peers.
        heads: train the auxiliary heads; None: as the config says.
        environment: variables that are set before anything is imported.
        trace: a folder for a profile of our first round; "" for none.
    """

    who: str
    what: str
    config: Config
    image: tuple[int, int, int] = (0, 0, 0)
    classes: int = 0
    heads: bool | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    trace: str = ""

    @property
    def is_ours(self) -> bool:
        return self.who in (OURS, REMAT)


class Contestant:
    """A process that prepares a job and then waits to be timed.

    Attributes:
        about: what the process found while it prepared: device, trace_s, compile_s, planned_mib,
            work, as far as they apply.
    """

    def __init__(self, job: Job):
        """Returns when the process is ready.

        Raises:
            UserError: a package is missing, or the process failed.
        """
        self.who = job.who
        if job.is_ours and job.what == "step":
            self._compile_then_load(job)
        else:
            self._start(job)
            self.about = self._answer()

    def _compile_then_load(self, job: Job) -> None:
        """Starts as a run does from its second start on: jax's cache has the compiled step.

        So the memory is that of the steps, without what compiling leaves behind.
        """
        with tempfile.TemporaryDirectory() as folder:
            cache = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": folder}
            job = dataclasses.replace(job, environment=job.environment | cache)
            self._start(dataclasses.replace(job, what="compile"))
            first = self._answer()
            self.kill()
            job.environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"  # only reads
            self._start(job)
            second = self._answer()
        if not second["loaded"]:
            warning = (
                f"warning: {self.who} could not load its compiled step and compiled it again; its "
                "memory includes what compiling leaves behind"
            )
            print(warning, file=sys.stderr, flush=True)
        self.about = second | first | {"loaded": second["loaded"]}

    def _start(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, job), daemon=True)
        # Our training has large pages, as `python -m train` has; peers start as their users do.
        training = job.is_ours and job.what != "infer"
        with tunables(malloc.with_large_pages(os.environ) if training else os.environ):
            self._process.start()
        other.close()

    def run(self, steps: int) -> float:
        """Seconds for this many steps."""
        self._pipe.send(steps)
        return self._answer()

    def close(self) -> dict[str, Any]:
        """Ends the process.

        Returns:
            peak_mib and process_mib; of ours also the machine's rates.
        """
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
            code = self._process.exitcode
            raise UserError(f"{self.who} died with code {code} (-9: out of memory)") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def tunables(environment: Mapping[str, str]) -> Iterator[None]:
    """A process started inside has that environment's settings of the C library."""
    name = "GLIBC_TUNABLES"
    before = os.environ.get(name, "")
    os.environ[name] = environment.get(name, "")
    try:
        yield
    finally:
        os.environ[name] = before


# ------------------------------------------------------------------------------ inside the process


def serve(pipe: Any, job: Job) -> None:
    """The process: prepares, answers with what it found, then runs on demand; 0 steps end it."""
    os.environ |= ENVIRONMENT | job.environment
    try:
        run, about, held = (prepare if job.is_ours else prepare_peer)(job)
        first, second = run(1), run(1)
        # Of a peer that compiles in its first step: the difference.
        about.setdefault("compile_s", max(0.0, first - second))
        held.restart()
        run(1)  # takes its memory again
        pipe.send(about)
        while steps := pipe.recv():
            with profile(job.trace):
                seconds = run(steps)
            job.trace = ""
            pipe.send(seconds)
        last: dict[str, Any] = {"peak_mib": held.peak(), "process_mib": held.of_process()}
        if job.who == OURS:
            from train.benchmark import roofline

            last["rates"] = roofline.measure(job.config.model.dtype)
        pipe.send(last)
    except (KeyboardInterrupt, BrokenPipeError):
        pass  # the benchmark is gone
    except UserError as error:
        pipe.send(error)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        pipe.send(UserError(f"{job.who} failed: {type(error).__name__}: {first_line}"))


@contextlib.contextmanager
def profile(folder: str) -> Iterator[None]:
    """Traces what runs inside, for TensorBoard's profile page or Perfetto; "" traces nothing."""
    if folder:
        import jax

        with jax.profiler.trace(folder):
            yield
    else:
        yield


def prepare_peer(job: Job) -> tuple[Timer, dict[str, Any], memory.Memory]:
    """A peer on random images."""
    import numpy as np

    name, batch = job.config.model.name, job.config.data.batch_size
    peers.load(job.who, name)
    held = memory.Memory(peers.device_memory(job.who))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, *job.image)).astype(np.uint8)
    labels = random.integers(0, job.classes, batch).astype(np.int32)
    run, about = peers.make(
        job.who,
        name,
        images,
        labels,
        classes=job.classes,
        train=job.what != "infer",
        heads=bool(job.heads),
        dtype=job.config.model.dtype,
    )
    return run, about, held


def prepare(job: Job) -> tuple[Timer, dict[str, Any], memory.Memory]:
    """The trainer's step, or the network as evaluation runs it, on one batch on the devices."""
    import jax
    import jax.numpy as jnp

    from train import data
    from train.benchmark import roofline
    from train.build import Task
    from train.start import start

    config, infers = configure(job), job.what == "infer"
    start(None if infers else config)
    jnp.ones(8).block_until_ready()
    # Counted before `held`, as no peer has a data set.
    split = data.load(config.data.source, config.data.train_split)
    held = memory.Memory(memory.device_memory())
    task = Task(config, split)
    batch = task.spread.place(next(task.batches(0)))
    state = task.abstract_state if job.what == "compile" else task.fresh_state()

    def answer(variables: Any, images: jax.Array) -> jax.Array:
        return task.model.apply(variables, task.preprocess(images), train=False).logits

    function: Any = task.step
    arguments: tuple = (state, batch, task.key)
    if infers:
        images = batch["image"].reshape(-1, *batch["image"].shape[-3:])
        function, arguments = jax.jit(answer), (state.variables, images)

    found_in_cache: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event.endswith("/cache_hits"):
            found_in_cache.append(event)

    jax.monitoring.register_event_listener(listen)
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    compiled = lowered.compile()
    about: dict[str, Any] = {
        "device": task.spread.devices[0].device_kind,
        "trace_s": traced - began,
        "compile_s": time.perf_counter() - traced,
        "loaded": bool(found_in_cache),
    }
    if infers or job.what == "compile":
        about["work"] = roofline.count(function, *arguments)

    if job.what == "compile":
        if "JAX_COMPILATION_CACHE_DIR" in job.environment:
            task.fresh_state()  # for the cache
        if planned := compiled.memory_analysis():
            size = planned.argument_size_in_bytes + planned.temp_size_in_bytes
            about["planned_mib"] = size / 2**20
        return (lambda steps: 0.0), about, held

    def infer() -> Any:
        return function(*arguments)

    def step() -> Any:
        nonlocal state
        state, values = compiled(state, batch, task.key)
        return values

    return repeat(infer if infers else step, task.spread.steps_ahead), about, held


def configure(job: Job) -> Config:
    """The job's config, with the options that the job sets."""
    config = dataclasses.replace(job.config, model=dataclasses.replace(job.config.model))
    options = {"aux": job.heads} if job.heads is not None and has_option(config, "aux") else {}
    if job.who == REMAT:
        options["remat"] = True
    config.model.options = config.model.options | options
    return config


def has_option(config: Config, option: str) -> bool:
    """Whether the config's model has an option of this name."""
    from cnnjax import create_model

    return hasattr(create_model(config.model.name), option)


def repeat(dispatch: Callable[[], Any], ahead: int) -> Timer:
    """A timer of `dispatch`, at most `ahead` steps ahead of the devices, as in the loop.

    `dispatch` returns the arrays to wait for.
    """
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
