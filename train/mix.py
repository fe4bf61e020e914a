"""Changes of a training batch on the device: distortion, noise, mixup, CutMix. Pure functions.

Images are (n, H, W, C), as in the batch or as the network reads them. `prepare` turns the former
into the latter, image by image: partners are then gathered as bytes. Mixed labels are soft, (n, K);
the loss smooths them like hard ones. Partners come from the same device's share of the batch.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from cnnjax.ops.platform import by_platform


def warp(images: jax.Array, transforms: jax.Array) -> jax.Array:
    """Images (n, H, W, C), distorted by transforms (n, 6) of `train.data.affine`.

    Bilinear, black beyond the border. The images may be uint8; the result is float32 in the same
    range.
    """
    y, x = jnp.mgrid[: images.shape[1], : images.shape[2]]

    def one(image: jax.Array, transform: jax.Array) -> jax.Array:
        a, b, x0, c, d, y0 = transform
        read = partial(
            map_coordinates, coordinates=[c * x + d * y + y0, a * x + b * y + x0], order=1
        )
        return jax.vmap(read, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(one)(images.astype(jnp.float32), transforms)


def as_they_are(images: jax.Array) -> jax.Array:
    return images


def make_mix(
    num_classes: int,
    *,
    noise: float = 0.0,
    std: tuple[float, ...] = (1.0,),
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Callable | None:
    """(images, labels, key, prepare) -> (images, labels), mixed; None if all are off.

    Labels are (n,), or (n, K) for several an image; mixed, they are always (n, K).
    `noise` is a standard deviation for images in [0, 1], before the division by `std`. With both
    mixup and CutMix, each device tosses a coin at each step.
    """
    if not (noise or mixup or cutmix):
        return None

    def mix(
        images: jax.Array, labels: jax.Array, key: jax.Array, prepare: Callable = as_they_are
    ) -> tuple[jax.Array, jax.Array]:
        noise_key, coin_key, mix_key = jax.random.split(key, 3)
        if noise:
            images, prepare = prepare(images), as_they_are
            images = add_noise(images, noise_key, noise / jnp.array(std, images.dtype))
        if not (mixup or cutmix):
            return images, labels
        several = labels.ndim == 2
        soft = labels.astype(float) if several else jax.nn.one_hot(labels, num_classes)
        if mixup and cutmix:
            coin = jax.random.bernoulli(coin_key)
            return jax.lax.cond(
                coin,
                lambda: mix_up(images, soft, mix_key, mixup, prepare),
                lambda: cut_mix(images, soft, mix_key, cutmix, prepare),
            )
        if mixup:
            return mix_up(images, soft, mix_key, mixup, prepare)
        return cut_mix(images, soft, mix_key, cutmix, prepare)

    return mix


def add_noise(images: jax.Array, key: jax.Array, deviation: jax.Array | float) -> jax.Array:
    """Gaussian noise on every value; one standard deviation, or one for each channel.

    Bishop: Training with noise is equivalent to Tikhonov regularization, 1995.
    """
    return images + deviation * jax.random.normal(key, images.shape, images.dtype)


def mix_up(
    images: jax.Array,
    soft: jax.Array,
    key: jax.Array,
    alpha: float,
    prepare: Callable = as_they_are,
) -> tuple[jax.Array, jax.Array]:
    """lam x + (1 - lam) partner, for images and labels; lam from Beta(alpha, alpha), a pair each.

    Zhang, Cisse, Dauphin, Lopez-Paz: mixup: Beyond empirical risk minimization, 2017, section 2.
    """
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, (len(images),))
    partner = jax.random.permutation(partner_key, len(images))
    own = prepare(images)
    other = by_platform(  # as bytes; on a CPU the sum of two prepared images is rounded otherwise
        images,
        cpu=lambda images: prepare(images)[partner],
        default=lambda images: prepare(images[partner]),
    )
    wide = share[:, None, None, None].astype(own.dtype)
    return wide * own + (1 - wide) * other, _blend(soft, partner, share)


def cut_mix(
    images: jax.Array,
    soft: jax.Array,
    key: jax.Array,
    alpha: float,
    prepare: Callable = as_they_are,
) -> tuple[jax.Array, jax.Array]:
    """A rectangle of each image is its partner's; labels mix by area.

    Yun et al.: CutMix, 2019, section 3.1. The rectangle has a share 1 - lam of the area, lam from
    Beta(alpha, alpha), and the image's aspect. Its centre is anywhere; what reaches beyond the
    border is lost, and lam is corrected for that.
    """
    share_key, partner_key, place_key = jax.random.split(key, 3)
    count, height, width, _ = images.shape
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (count,)))
    partner = jax.random.permutation(partner_key, count)
    centre = jax.random.uniform(place_key, (2, count))

    def inside(length: int, middle: jax.Array) -> jax.Array:  # (n, length) bool
        low, high = (jnp.round(length * (middle + sign * side / 2))[:, None] for sign in (-1, 1))
        places = jnp.arange(length)
        return (places >= low) & (places < high)

    cut = inside(height, centre[0])[:, :, None] & inside(width, centre[1])[:, None, :]
    share = 1 - cut.mean((1, 2))
    mixed = jnp.where(cut[..., None], images[partner], images)
    return prepare(mixed), _blend(soft, partner, share)


def _blend(soft: jax.Array, partner: jax.Array, share: jax.Array) -> jax.Array:
    return share[:, None] * soft + (1 - share[:, None]) * soft[partner]
