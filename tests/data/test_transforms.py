"""Each evaluation transform against its original: Pillow, Keras and TF-slim's steps."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from cnnjax.resize import make_window
from cnnjax.weights import RECORDS
from tests.data.pictures import encoded, photo
from train.config import Data, Transform
from train.data.transforms import STYLES, from_preprocessing, make_transform
from train.errors import UserError

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
SHAPES = [(375, 500), (500, 333), (224, 224), (80, 60), (60, 83), (1, 1), (37, 410), (410, 37)]


def transform(size, channels=3, **options):
    return make_transform(Data(size=size, transform=Transform(**options)), channels)


def pillow(image, size, short_side, kernel):
    """torchvision's Resize and CenterCrop, in Pillow."""
    width, height = image.size
    short = min(width, height)
    new = (int(short_side * width / short), int(short_side * height / short))
    image = image.resize(new, kernel)
    left, top = (round((side - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def difference(a, b):
    return np.abs(np.asarray(a, float) - np.asarray(b, float))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("style", "size", "short_side", "kernel"),
    [
        ("torchvision", 224, 256, BILINEAR),
        ("torchvision", 299, 342, BILINEAR),
        ("timm", 224, 256, BICUBIC),
        ("timm", 299, 341, BICUBIC),
    ],
)
def test_torchvision_and_timm_equal_pillow(shape, style, size, short_side, kernel):
    file = encoded(photo(*shape))
    image = Image.open(io.BytesIO(file)).convert("RGB")
    off = difference(transform(size, style=style)(file), pillow(image, size, short_side, kernel))
    assert off.max() <= 1 and off.mean() < 0.001


@pytest.mark.parametrize(("style", "kernel"), [("torchvision", BILINEAR), ("timm", BICUBIC)])
@pytest.mark.parametrize(
    ("shape", "short_side", "size"),
    [
        ((375, 500), 256, 224),
        ((500, 375), 256, 224),
        ((203, 260), 256, 224),
        ((384, 512), 342, 299),
        ((640, 480), 342, 299),
        ((408, 996), 342, 299),
        ((90, 70), 36, 32),
    ],
)
def test_noise_equals_pillow(shape, short_side, size, style, kernel):
    """The hardest image: it shows every value that is placed or rounded differently."""
    for seed in range(20):
        pixels = np.random.RandomState(seed).randint(0, 256, (*shape, 3)).astype(np.uint8)
        ours = transform(size, style=style, resize=short_side)(pixels)
        off = difference(ours, pillow(Image.fromarray(pixels), size, short_side, kernel))
        assert off.max() <= 1 and off.mean() < 0.001


@pytest.mark.parametrize(
    ("shape", "size", "short_side", "share"),  # of the pixels that Pillow's two passes compute
    [((375, 500), 224, 256, 0.8), ((500, 375), 224, 256, 0.8), ((20011, 7), 299, 342, 0.01)],
)
def test_pixels_that_the_crop_discards_are_not_computed(
    shape, size, short_side, share, monkeypatch
):
    pixels = photo(*shape)
    expected = pillow(Image.fromarray(pixels), size, short_side, BILINEAR)
    written = []
    resize = Image.Image.resize

    def counted(image, size, *args, **options):
        written.append(size[0] * size[1])
        return resize(image, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    ours = transform(size, style="torchvision", resize=short_side)(pixels)
    assert difference(ours, expected).max() <= 1
    new = [int(short_side * side / min(shape)) for side in shape]
    assert sum(written) < share * (shape[0] * new[1] + new[0] * new[1])


def test_a_window_is_exact_on_request():
    """Two axes with rounded windows could make a pixel two levels off."""
    rounded = make_window(500, 341, 58, 224, exact=False)
    assert rounded.skipped > 0 and not rounded.exact
    for before, after in ((500, 341), (640, 455), (375, 342), (83, 354)):
        window = make_window(before, after, (after - 224) // 2, 224, exact=True)
        stop = before - window.skipped * before / after
        assert window.exact and window.stop == stop == np.float32(window.stop)


def test_options_and_pixels():
    pixels = photo(300, 400)
    image = Image.fromarray(pixels)
    resized = transform(299, style="timm", resize=333)(pixels)
    assert difference(resized, pillow(image, 299, 333, BICUBIC)).max() <= 1
    grey = transform(28, channels=1)(encoded(image, "PNG"))
    assert grey.shape == (28, 28, 1)
    assert difference(grey[..., 0], pillow(image.convert("L"), 28, 32, BILINEAR)).max() <= 1
    whole = transform(160, fraction=1.0)(pixels)
    assert difference(whole, image.resize((160, 160), BILINEAR)).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_keras(tmp_path, shape):
    (tmp_path / "a").mkdir()
    file = encoded(photo(*shape))
    (tmp_path / "a/x.jpg").write_bytes(file)
    images = tf.keras.utils.image_dataset_from_directory(
        str(tmp_path), labels=None, image_size=(224, 224), verbose=False
    )
    expected = next(iter(images)).numpy()[0]
    assert difference(transform(224, style="keras")(file), expected).max() <= 0.51


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [224, 299])
def test_slim_inception(shape, size):
    """preprocess_for_eval of inception_preprocessing, with the operations of TensorFlow 1."""
    file = encoded(photo(*shape))
    image = tf.image.convert_image_dtype(tf.io.decode_jpeg(file, channels=3), tf.float32)
    image = tf.compat.v1.image.resize_bilinear(
        tf.image.central_crop(image, 0.875)[None], [size, size], align_corners=False
    )
    assert difference(transform(size, style="slim")(file), 255 * image[0].numpy()).max() <= 0.51


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape) > 1])
def test_slim_vgg(shape):
    """preprocess_for_eval of vgg_preprocessing, before it subtracts the mean."""
    file = encoded(photo(*shape))
    image = tf.io.decode_jpeg(file, channels=3)
    height, width = (tf.constant(float(side)) for side in shape)
    scale = 256.0 / (width if height > width else height)
    new = [int(height * scale), int(width * scale)]
    image = tf.compat.v1.image.resize_bilinear(image[None], new, align_corners=False)[0].numpy()
    top, left = int((new[0] - 224) / 2), int((new[1] - 224) / 2)
    expected = image[top : top + 224, left : left + 224]
    assert difference(transform(224, style="slim_vgg")(file), expected).max() <= 0.51


def test_every_published_weight_file_has_its_transform():
    for record in RECORDS:
        size, options = from_preprocessing(record.preprocessing)
        image = make_transform(Data(size=size, transform=options), 3)(encoded(photo(300, 400)))
        assert image.shape == (size, size, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": "torch"}, "data.transform.style='torch' is unknown; did you mean torchvision"),
        (
            {"interpolation": "lanczos"},
            "data.transform.interpolation of torchvision is bilinear or bicubic, got 'lanczos'",
        ),
        (
            {"style": "slim", "interpolation": "bicubic"},
            "data.transform.interpolation of slim is bilinear, got 'bicubic'",
        ),
        ({"resize": 100}, "data.transform.resize=100 is smaller than data.size=224"),
    ],
)
def test_mistakes(options, sentence):
    with pytest.raises(UserError) as caught:
        transform(224, **options)
    assert sentence in str(caught.value)


def test_the_styles():
    assert set(STYLES) == {"torchvision", "timm", "slim", "slim_vgg", "keras"}
