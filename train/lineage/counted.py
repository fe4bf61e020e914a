"""The claims that counting decides: modules that differ in one option, and what must hold."""

from typing import Any

from cnnjax import get_spec
from train.lineage.claims import Counting, of_registry
from train.lineage.counting import CHANNELS, Classifier, Pyramid, Stack, one, pair, stages
from train.lineage.texts import Text, both

VGG_PAPER = "Simonyan, Zisserman 2014"
V1_PAPER = "Szegedy et al. 2014"
V3_PAPER = "Szegedy et al. 2015 (Rethinking)"
V4_PAPER = "Szegedy et al. 2016"
DEEPER = ("lenet5", "alexnet", "vgg19", "inception_v1", "inception_v3", "inception_resnet_v2")
SIZES = {name: get_spec(name).input_size for name in DEEPER}
STACK: dict[str, Any] = dict(build=Stack, common={}, switch="kernels", size=(28, 28, CHANNELS))


def near(a: float, b: float, tolerance: float) -> bool:
    return abs(a / b - 1) <= tolerance


CLAIMS: tuple[Counting, ...] = (
    Counting(
        "two_3x3",
        Text("Two 3×3 for one 5×5", "Dos 3×3 en lugar de un 5×5"),
        both(f"{VGG_PAPER}, § 2.3"),
        Text(
            "Two stacked 3×3 convolutions see the same 5×5 pixels as one 5×5, with 28 % fewer "
            "weights and one more ReLU.",
            "Dos convoluciones 3×3 apiladas ven los mismos 5×5 píxeles que una 5×5, con un 28 % "
            "menos de pesos y una ReLU más.",
        ),
        values=(one(5), one(3) * 2),
        quantity="parameters",
        holds=lambda c: (
            c[0].receptive_field == c[1].receptive_field == 5
            and near(c[1].parameters, 18 / 25 * c[0].parameters, 0.002)
            and (c[0].relus, c[1].relus) == (1, 2)
        ),
        **STACK,
    ),
    Counting(
        "three_3x3",
        Text("Three 3×3 for one 7×7", "Tres 3×3 en lugar de un 7×7"),
        both(f"{VGG_PAPER}, § 2.3"),
        Text(
            "Three stacked 3×3 convolutions see the same 7×7 pixels as one 7×7, which needs 81 % "
            "more weights, and have two more ReLUs.",
            "Tres convoluciones 3×3 apiladas ven los mismos 7×7 píxeles que una 7×7, que necesita "
            "un 81 % más de pesos, y tienen dos ReLU más.",
        ),
        values=(one(7), one(3) * 3),
        quantity="parameters",
        holds=lambda c: (
            c[0].receptive_field == c[1].receptive_field == 7
            and near(c[0].parameters, 49 / 27 * c[1].parameters, 0.002)
            and (c[0].relus, c[1].relus) == (1, 3)
        ),
        **STACK,
    ),
    Counting(
        "doubling",
        Text("Filters double where maps halve", "Los filtros se doblan cuando el mapa se reduce"),
        both(f"{VGG_PAPER}, § 2.1"),
        Text(
            "With twice the filters at half the resolution, a layer of every stage costs the same. "
            "With equal filters the cost falls to a quarter from stage to stage.",
            "Con el doble de filtros a la mitad de resolución, una capa de cada etapa cuesta lo "
            "mismo. Con los mismos filtros el coste cae a la cuarta parte de etapa en etapa.",
        ),
        Pyramid,
        {},
        "growth",
        (1, 2),
        (56, 56, CHANNELS),
        "multiply_adds",
        lambda c: (
            len({*stages(2)}) == 1 and [a / b for a, b in zip(stages(1), stages(1)[1:])] == [4] * 3
        ),
    ),
    Counting(
        "reductions",
        Text("1×1 convolutions before the large ones", "Convoluciones 1×1 antes de las grandes"),
        both(f"{V1_PAPER}, § 4, fig. 2"),
        Text(
            "Without its 1×1 reductions the same network has 14 times the parameters and eight "
            "times the multiply-adds.",
            "Sin sus reducciones 1×1 la misma red tiene 14 veces más parámetros y ocho veces más "
            "multiplicaciones.",
        ),
        of_registry,
        {"name": "inception_v1"},
        "reductions",
        (False, True),
        (224, 224, 3),
        "parameters",
        lambda c: (
            13 < c[0].parameters / c[1].parameters < 15
            and 7.5 < c[0].multiply_adds / c[1].multiply_adds < 8.5
        ),
    ),
    Counting(
        "asymmetric_3",
        Text("1×3 and 3×1 for one 3×3", "1×3 y 3×1 en lugar de un 3×3"),
        both(f"{V3_PAPER}, § 3.2"),
        Text(
            "A 3×3 as 1×3 and 3×1 is 33 % cheaper and sees the same pixels.",
            "Un 3×3 como 1×3 y 3×1 es un 33 % más barato y ve los mismos píxeles.",
        ),
        values=(one(3), pair(3)),
        quantity="multiply_adds",
        holds=lambda c: (
            near(c[1].multiply_adds, 2 / 3 * c[0].multiply_adds, 1e-9)
            and c[0].receptive_field == c[1].receptive_field == 3
        ),
        **STACK,
    ),
    Counting(
        "asymmetric_n",
        Text("1×n and n×1 for one n×n, n to 7", "1×n y n×1 en lugar de un n×n, n hasta 7"),
        both(f"{V3_PAPER}, § 3.2"),
        Text(
            "The factorised form costs 2/n of the whole: the larger the kernel, the more it saves, "
            "71 % for n = 7.",
            "La forma factorizada cuesta 2/n del total: cuanto mayor el núcleo, más se ahorra, un "
            "71 % para n = 7.",
        ),
        values=tuple(form(n) for n in range(2, 8) for form in (one, pair)),
        quantity="multiply_adds",
        holds=lambda c: all(
            near(c[2 * i + 1].multiply_adds, 2 / n * c[2 * i].multiply_adds, 1e-9)
            for i, n in enumerate(range(2, 8))
        ),
        **STACK,
    ),
    Counting(
        "factorised",
        Text(
            "Factorised convolutions in a whole network",
            "Convoluciones factorizadas en toda la red",
        ),
        both(f"{V3_PAPER}, §§ 3.1, 3.2"),
        Text(
            "Inception v3 with its 5×5 and 7×7 undone costs more: factorisation saves 41 % of the "
            "multiply-adds.",
            "Inception v3 con sus 5×5 y 7×7 sin factorizar cuesta más: la factorización ahorra un "
            "41 % de las multiplicaciones.",
        ),
        of_registry,
        {"name": "inception_v3"},
        "factorized",
        (False, True),
        (299, 299, 3),
        "multiply_adds",
        lambda c: 0.40 < 1 - c[1].multiply_adds / c[0].multiply_adds < 0.42,
    ),
    Counting(
        "global_average",
        Text("A global average for dense layers", "Una media global en lugar de capas densas"),
        both(f"{V1_PAPER}, § 5 (Lin et al. 2013)"),
        Text(
            "On a map of 7×7×512, a global average and one dense layer have less than a hundredth "
            "of the parameters of three dense layers.",
            "Sobre un mapa de 7×7×512, una media global y una capa densa tienen menos de la "
            "centésima parte de los parámetros de tres capas densas.",
        ),
        Classifier,
        {},
        "average",
        (False, True),
        (7, 7, 512),
        "parameters",
        lambda c: c[1].parameters < 0.01 * c[0].parameters,
    ),
    Counting(
        "depth",
        Text("Deeper, with fewer parameters", "Más profundas, con menos parámetros"),
        both("LeCun 1998; Krizhevsky 2012; Simonyan 2014; Szegedy 2014, 2015, 2016"),
        Text(
            "Depth grows from 5 to 8, 19, 22, 48 and more than 160 layers, while the parameters "
            "fall after VGG: depth comes from cheaper layers, not from more weights. The number "
            "often quoted for Inception-ResNet-v2 is 164; the longest way through the released "
            "network has 176 convolutions and dense layers.",
            "La profundidad crece de 5 a 8, 19, 22, 48 y más de 160 capas, mientras los parámetros "
            "bajan después de VGG: la profundidad viene de capas más baratas, no de más pesos. El "
            "número que se suele citar para Inception-ResNet-v2 es 164; el camino más largo de la "
            "red publicada tiene 176 convoluciones y capas densas.",
        ),
        of_registry,
        {},
        "name",
        DEEPER,
        SIZES,
        "depth",
        lambda c: (
            [x.depth for x in c[:5]] == [5, 8, 19, 22, 48]
            and c[5].depth > 160
            and all(x.parameters < c[2].parameters / 2 for x in c[3:])
        ),
    ),
    Counting(
        "stems",
        Text("Strides for low resolution", "Zancadas para baja resolución"),
        both(f"{V3_PAPER}, § 8"),
        Text(
            "Inception v3 with the stem for 151 or for 79 pixels costs as much on its small images "
            "as the usual one on 299 pixels, within 10 %.",
            "Inception v3 con la entrada para 151 o para 79 píxeles cuesta con sus imágenes "
            "pequeñas lo mismo que la habitual con 299 píxeles, con un margen del 10 %.",
        ),
        of_registry,
        {"name": "inception_v3"},
        "stem",
        (299, 151, 79),
        {side: (side, side, 3) for side in (299, 151, 79)},
        "multiply_adds",
        lambda c: all(near(x.multiply_adds, c[0].multiply_adds, 0.1) for x in c),
    ),
    Counting(
        "residual_cost",
        Text("Inception v4 and Inception-ResNet-v2", "Inception v4 e Inception-ResNet-v2"),
        both(f"{V4_PAPER}, § 1"),
        Text(
            "Inception-ResNet-v2 costs about as much as Inception v4, within 10 %.",
            "Inception-ResNet-v2 cuesta aproximadamente lo mismo que Inception v4, con un margen "
            "del 10 %.",
        ),
        of_registry,
        {},
        "name",
        ("inception_v4", "inception_resnet_v2"),
        (299, 299, 3),
        "multiply_adds",
        lambda c: near(c[1].multiply_adds, c[0].multiply_adds, 0.1),
    ),
)
