"""Image files to pixels as training reads them: JPEG with TensorFlow, which is faster."""

import numpy as np

from cnnjax.images import BadImage, check_size, decode


def decode_as_training(data: bytes, channels: int, *, exif: bool, max_pixels: int) -> np.ndarray:
    """As `decode`, but grey and RGB JPEG with TensorFlow unless `exif`: how training reads files.

    The two decoders differ in which damaged JPEG files they accept.

    Raises:
        BadImage: the file cannot be read.
    """
    if exif or data[:3] != b"\xff\xd8\xff":
        return decode(data, channels, exif=exif, max_pixels=max_pixels)
    from train.data.tf import tf

    if check_size(data, max_pixels).mode == "CMYK":
        return decode(data, channels, max_pixels=max_pixels)
    try:
        return tf.io.decode_jpeg(data, channels=channels).numpy()
    except tf.errors.InvalidArgumentError as error:
        # "{{function_node …}} jpeg::Uncompress failed. … [Op:DecodeJpeg] name: "
        reason = error.message.split(" [Op:")[0].rpartition("}} ")[2]
        raise BadImage(reason) from None
