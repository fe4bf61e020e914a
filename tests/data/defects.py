"""Writes a folder of photographs to try recipes on: crops of scikit-learn's two, some scratched.

python -m tests.data.defects photos

photos/train has 500 sound crops and 100 with a drawn scratch, photos/val 150 and 30. A crop is 128
pixels wide. Those of val come from other parts of the two photographs than those of train.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

SIDE = 128
COUNTS = {"train": (500, 100), "val": (150, 30)}


def crop(photographs: list[np.ndarray], split: str, random: np.random.RandomState) -> Image.Image:
    """A crop of the left seven tenths of a photograph for train, of the rest for val."""
    pixels = photographs[random.randint(len(photographs))]
    height, width, _ = pixels.shape
    border = int(0.7 * width)
    left, right = (0, border) if split == "train" else (border, width)
    x, y = random.randint(left, right - SIDE + 1), random.randint(height - SIDE + 1)
    return Image.fromarray(pixels[y : y + SIDE, x : x + SIDE])


def scratch(image: Image.Image, random: np.random.RandomState) -> None:
    """Draws a bent line of 30 to 60 pixels, four pixels wide, light or dark, at a random place."""
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(15, 30)
    points = [random.uniform(35, SIDE - 35, 2)]
    for bend in random.uniform(-0.5, 0.5, 2):
        angle += bend
        points.append(points[-1] + length * np.array([np.cos(angle), np.sin(angle)]))
    shade = int(random.choice([25, 230]))
    ImageDraw.Draw(image).line([tuple(p) for p in points], fill=(shade,) * 3, width=4)


def write(folder: Path, counts: dict[str, tuple[int, int]] | None = None) -> None:
    """Writes folder/SPLIT/sound/*.png and folder/SPLIT/scratched/*.png."""
    photographs, random = load_sample_images().images, np.random.RandomState(0)
    for split, of_class in (counts or COUNTS).items():
        for name, count in zip(("sound", "scratched"), of_class):
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = crop(photographs, split, random)
                if name == "scratched":
                    scratch(image, random)
                image.save(place / f"{number:03}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
