"""What is measured between two rows of training metrics: means, speed, waiting for data."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from train.errors import DivergedError

FEW = 20  # skipped steps after which the scale of the loss should have become small enough


class Meters:
    """The measurements of a training loop.

    `sums` are those of metrics since the last row. They are all that a resumed run needs to
    continue its log; the speed starts again.
    """

    def __init__(
        self,
        batch_size: int,
        steps_ahead: int,
        sums: dict[str, float],
        *,
        skip_bad: bool = False,
        scaled: bool = False,
    ):
        """`steps_ahead`: how many steps the host may be ahead of the devices."""
        self.window = Window(sums, skip_bad=skip_bad, scaled=scaled)
        self._steps_ahead = steps_ahead
        self._row, self._run = Pace(batch_size), Pace(batch_size)

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """What happens here counts as waiting, unless the devices are still busy."""
        began = time.perf_counter()
        yield
        if self.window.idle():
            self._row.waited(time.perf_counter() - began)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens here does not count as training."""
        began = time.perf_counter()
        yield
        self._row.skip(time.perf_counter() - began)
        self._run.skip(time.perf_counter() - began)

    def step(self, number: int, values: dict[str, jax.Array]) -> None:
        """Counts a step that was dispatched, and waits until the host is not too far ahead."""
        self.window.add(number, values)
        self.window.wait(self._steps_ahead)
        self._row.step()
        self._run.step()

    def restart(self) -> None:
        """Time starts here: after the first step, which compiles."""
        self._row.restart()
        self._run.restart()

    def row(self) -> tuple[dict[str, float], dict[str, float]]:
        """(means, speed) since the last row; a new row begins."""
        self.window.fetch()
        return self.window.close(), self._row.close()

    def images_per_second(self) -> float | None:
        """Of the whole run so far, first (compiling) step and evaluations excluded."""
        return self._run.close().get("images_per_second")


class Window:
    """Metrics since the last row: some still on the devices, the sums of the others."""

    def __init__(self, sums: dict[str, float], *, skip_bad: bool = False, scaled: bool = False):
        """`scaled`: the loss has a scale, which a gradient beyond float16's range makes smaller."""
        self.sums = dict(sums)
        self._skip_bad, self._scaled = skip_bad, scaled
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, number: int, values: dict[str, jax.Array]) -> None:
        self._pending.append((number, values))

    def idle(self) -> bool:
        """Whether the devices have done everything that they were given."""
        if not self._pending:
            return True
        loss: Any = self._pending[-1][1]["loss"]  # jax.Array does not declare is_ready
        return loss.is_ready()

    def wait(self, ahead: int) -> None:
        """Until at most `ahead` steps are under way."""
        if len(self._pending) > ahead:
            jax.block_until_ready(self._pending[-1 - ahead][1])

    def fetch(self) -> None:
        """Adds up what is pending.

        Raises:
            DivergedError: loss or gradient of a step is not finite, unless such steps are skipped.
        """
        numbers = [number for number, _ in self._pending]
        values = jax.device_get([values for _, values in self._pending])
        self._pending.clear()
        for number, of_step in zip(numbers, values):
            bad = next((n for n in ("loss", "grad_norm") if not np.isfinite(of_step[n])), None)
            if bad and not (self._skip_bad or (self._scaled and bad == "grad_norm")):
                what = "loss" if bad == "loss" else "gradient's norm"
                raise DivergedError(
                    f"the {what} of step {number} is {of_step[bad]}; "
                    "lower optim.lr, or raise optim.warmup"
                )
            for name, value in ({"skipped": 1} if bad else of_step | {"steps": 1}).items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def close(self) -> dict[str, float]:
        """The means since the last row, and how many steps were skipped, if any."""
        sums, self.sums = self.sums, {}
        steps, skipped = sums.pop("steps", 0), sums.pop("skipped", 0)
        if not steps and (not self._scaled or skipped >= FEW):
            raise DivergedError(
                f"all of the last {skipped:.0f} updates were skipped: "
                "no loss and gradient was finite"
            )
        means = {name: value / steps for name, value in sums.items()} if steps else {}
        return means | ({"skipped": skipped} if skipped else {})


class Pace:
    """How fast training is, and the share of the time in which idle devices wait for data."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._began, self._waiting, self._steps = time.perf_counter(), 0.0, 0

    def step(self) -> None:
        self._steps += 1

    def waited(self, seconds: float) -> None:
        self._waiting += seconds

    def skip(self, seconds: float) -> None:
        self._began += seconds

    def close(self) -> dict[str, float]:
        """images_per_second and data_wait (0 to 1); nothing where no step was timed."""
        if not self._steps:
            return {}
        taken = max(time.perf_counter() - self._began, 1e-9)
        speed = self._steps * self._batch_size / taken
        result = {"images_per_second": speed, "data_wait": self._waiting / taken}
        self.restart()
        return result
