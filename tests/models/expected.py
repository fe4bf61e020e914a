"""Expected counts of every model, from the papers and the reference implementations.

The numbers are typed here and nowhere else, while the models are built from widths and kernels. So
a slip in either shows.
"""

from typing import NamedTuple


class Expected(NamedTuple):
    """One model at its own input size and number of classes.

    Counts are without auxiliary heads, unless the name says otherwise.
    """

    parameters: int  # trainable
    multiply_adds: int  # convolutions and dense layers, one image
    features: int  # width of the classifier's input
    smallest: int  # side of the smallest image in evaluation
    parameters_with_aux: int | None = None  # None: no auxiliary head by default
    heads: int = 0  # auxiliary heads
    norms: int = 0  # BatchNorm layers
    channels: int = 0  # channels that BatchNorm normalises: the number of its gammas
    smallest_with_aux: int | None = None  # the same side with auxiliary heads, where it differs


EXPECTED: dict[str, Expected] = {
    "lenet5": Expected(61_706, 416_520, 84, 28),
    "lenet5_1998": Expected(60_000, 326_520, 84, 28),
    "alexnet": Expected(60_965_224, 724_406_816, 4096, 67),
    "alexnet_owt": Expected(61_100_840, 714_188_480, 4096, 63),
    "vgg11": Expected(132_863_336, 7_609_090_048, 4096, 32),
    "vgg11_lrn": Expected(132_863_336, 7_609_090_048, 4096, 32),
    "vgg13": Expected(133_047_848, 11_308_466_176, 4096, 32),
    "vgg16_c": Expected(133_638_952, 11_770_888_192, 4096, 32),
    "vgg16": Expected(138_357_544, 15_470_264_320, 4096, 32),
    "vgg19": Expected(143_667_240, 19_632_062_464, 4096, 32),
    "vgg11_bn": Expected(132_868_840, 7_609_090_048, 4096, 32, norms=8, channels=2_752),
    "vgg13_bn": Expected(133_053_736, 11_308_466_176, 4096, 32, norms=10, channels=2_944),
    "vgg16_bn": Expected(138_365_992, 15_470_264_320, 4096, 32, norms=13, channels=4_224),
    "vgg19_bn": Expected(143_678_248, 19_632_062_464, 4096, 32, norms=16, channels=5_504),
    "inception_v1": Expected(
        6_998_552, 1_582_671_872, 1024, 31, parameters_with_aux=13_378_280, heads=2
    ),
    # Not published: summed by hand from the widths, without reductions and projections.
    "inception_v1_naive": Expected(97_526_008, 12_568_061_056, 4944, 31),
    "inception_v1_bn": Expected(
        6_624_904,
        1_498_376_192,
        1024,
        15,
        parameters_with_aux=13_004_888,
        heads=2,
        norms=57,
        channels=7_280,
    ),
    # Heads like v1's, with BatchNorm after both layers: 3_198_184 and 3_202_280, summed by hand.
    "inception_v2": Expected(
        11_285_224,
        2_032_600_064,
        1024,
        7,
        parameters_with_aux=17_685_688,
        heads=2,
        norms=69,
        channels=10_016,
    ),
    "inception_v2_slim": Expected(11_178_336, 1_934_857_216, 1024, 1, norms=68, channels=9_888),
    "inception_v3": Expected(
        23_834_568,
        5_713_216_096,
        2048,
        75,
        parameters_with_aux=27_161_264,
        heads=1,
        norms=94,
        channels=17_216,
        smallest_with_aux=299,
    ),
    "inception_v4": Expected(42_679_816, 12_253_974_624, 1536, 75, norms=149, channels=31_584),
    "inception_resnet_v1": Expected(
        22_756_328, 6_206_361_696, 1792, 75, norms=107, channels=13_520
    ),
    # facenet's 23,467,824 (no gamma, no classifier), 14,800 gammas, 513 for each of 8,631 classes.
    "inception_resnet_v1_facenet": Expected(
        27_910_327, 1_422_081_376, 512, 75, norms=112, channels=14_800
    ),
    "inception_resnet_v2": Expected(
        55_843_464, 13_155_794_016, 1536, 75, norms=204, channels=30_272
    ),
    "inception_resnet_v2_paper": Expected(
        32_433_928, 9_257_953_632, 2144, 75, norms=112, channels=16_432
    ),
}
