"""What the TPU's compiler makes of the training steps, beside the same networks in plain Flax.

The figures do not depend on the machine, so those that are committed in `tpu.json` must come out
again.
"""

import json
from pathlib import Path
from typing import Any

from train import recipe
from train.benchmark.race import say
from train.config import Config
from train.errors import UserError
from train.forecast import figures
from train.forecast.chips import GIB
from train.forecast.topology import compile_step

HERE = Path(__file__).parent
FILE = HERE / "tpu.json"
RECIPE = HERE.parent.parent / "configs" / "modern_imagenet.py"
TOPOLOGY = "v5e:1x1"
IMAGES = {  # on the chip
    "alexnet_owt": 256,
    "vgg16": 128,
    "inception_v1_bn": 256,
    "inception_v3": 128,
    "inception_v4": 128,
    "inception_resnet_v2": 128,
}
KEPT = ("bound_ms", "share_of_peak", "traffic_bytes", "device_bytes")
TOLERANCE = 0.01


def configure(name: str) -> Config:
    """The recipe of today for a network, at the batch of `IMAGES`."""
    return recipe.load(f"{RECIPE}:{name}", [f"--config.data.batch_size={IMAGES[name]}"])


def measure(names: list[str], *, write: bool = False) -> dict[str, Any]:
    """Compiles the steps; compares with the committed figures.

    Args:
        names: of networks.
        write: commit what comes out instead.

    Returns:
        {name: {"ours", "plain", "ratio"}}; the ratio of plain Flax's bound to ours.

    Raises:
        UserError: a figure is more than 1 % off, or libtpu is missing.
    """
    committed, found = json.loads(FILE.read_text()) if FILE.exists() else {}, {}
    for name in names:
        config, kinds = configure(name), {}
        for kind, module in (
            ("ours", "train.forecast.topology"),
            ("plain", "train.benchmark.plain"),
        ):
            step = compile_step(config, TOPOLOGY, module=module)
            every = figures(step, config.data.batch_size)
            kinds[kind] = {key: float(f"{every[key]:.5g}") for key in KEPT}
            say(f"{name}, {kind}: {describe(kinds[kind])}")
        ratio = kinds["plain"]["bound_ms"] / kinds["ours"]["bound_ms"]
        found[name] = kinds | {"ratio": float(f"{ratio:.4g}")}
        if write:
            FILE.write_text(json.dumps(committed | found, indent=1) + "\n")
    if not write:
        compare(found, committed)
    return found


def describe(row: dict[str, float]) -> str:
    return (
        f"{row['bound_ms']:.2f} ms, {row['share_of_peak']:.0%} of the peak, "
        f"{row['traffic_bytes'] / 1e9:.1f} GB of traffic, {row['device_bytes'] / GIB:.2f} GiB"
    )


def compare(found: dict[str, Any], committed: dict[str, Any]) -> None:
    """Raises UserError, with all that differ, where a figure is more than 1 % off."""
    wrong = []
    for name, kinds in found.items():
        for kind in ("ours", "plain"):
            for key, value in kinds[kind].items():
                expected = committed.get(name, {}).get(kind, {}).get(key)
                if expected is None or abs(value / expected - 1) > TOLERANCE:
                    wrong.append(f"{name}, {kind}, {key}: {value:g}, committed {expected}")
    if wrong:
        raise UserError(
            f"other figures than those in {FILE.name}: {'; '.join(wrong)}. "
            "If they are meant, --write commits them"
        )
