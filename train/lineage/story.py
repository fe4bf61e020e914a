"""What the page tells: the networks in their order, and figures that others have published."""

from typing import Any, NamedTuple

from cnnjax import counts, get_spec
from cnnjax.weights import RECORDS
from train.lineage.texts import Text

CONVOLVES_FIRST = Text(
    "Where a branch averages, the code convolves before it averages; the result is the same.",
    "Donde una rama promedia, el código convoluciona antes de promediar; el resultado es el mismo.",
)


class Picture(NamedTuple):
    """A block of a network that is drawn."""

    block: str
    caption: Text
    options: dict[str, Any] = {}
    model: str = ""  # by default the chapter's


class Chapter(NamedTuple):
    """One network of the story."""

    model: str
    title: str
    paper: str
    story: Text
    pictures: tuple[Picture, ...] = ()
    heads: bool = False  # whether the whole network is drawn as it trains, with auxiliary heads


CHAPTERS = (
    Chapter(
        "lenet5",
        "LeNet-5, 1998",
        "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition",
        Text(
            "Weights shared over positions, and maps that shrink while their channels grow: the "
            "plan of every network below. Its five layers read digits of 32 by 32 pixels, with "
            "tanh and average pooling. The course's own variant keeps tanh in the convolutions "
            "and puts ReLU into the dense layers.",
            "Pesos compartidos entre posiciones, y mapas que se reducen mientras crecen sus "
            "canales: el plan de todas las redes que siguen. Sus cinco capas leen dígitos de 32 "
            "por 32 píxeles, con tanh y promedios. La variante del curso conserva tanh en las "
            "convoluciones y pone ReLU en las capas densas.",
        ),
    ),
    Chapter(
        "alexnet",
        "AlexNet, 2012",
        "Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional networks",
        Text(
            "The same plan, a thousand times larger, on 1.2 million photographs. ReLU made eight "
            "layers trainable; dropout and augmentation kept 61 million parameters from learning "
            "the photographs by heart. 54 of the 61 million are in two dense layers.",
            "El mismo plan, mil veces mayor, con 1,2 millones de fotografías. ReLU hizo "
            "entrenables ocho capas; el dropout y el aumento de datos evitaron que 61 millones de "
            "parámetros memorizaran las fotografías. 54 de los 61 millones están en dos capas "
            "densas.",
        ),
    ),
    Chapter(
        "vgg19",
        "VGG, 2014",
        "Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition",
        Text(
            "One kernel, 3×3, stacked up to 16 times: depth instead of large kernels. Channels "
            "double where maps halve. Simple and accurate, and the most expensive network of this "
            "page: 144 million parameters and 20 billion multiply-adds.",
            "Un solo núcleo, 3×3, apilado hasta 16 veces: profundidad en lugar de núcleos grandes. "
            "Los canales se doblan donde el mapa se reduce a la mitad. Simple y precisa, y la red "
            "más cara de esta página: 144 millones de parámetros y 20 mil millones de "
            "multiplicaciones.",
        ),
        (
            Picture(
                "block3",
                Text("Four 3×3 convolutions, then pooling", "Cuatro convoluciones 3×3 y reducción"),
            ),
        ),
    ),
    Chapter(
        "inception_v1",
        "Inception v1 (GoogLeNet), 2014",
        "Szegedy et al.: Going deeper with convolutions",
        Text(
            "Kernels of several sizes side by side. The naive module would be unaffordable; 1×1 "
            "convolutions that reduce the channels first make it cheap. A global average replaces "
            "the dense layers. Two auxiliary classifiers bring gradients to the middle of 22 "
            "layers while it trains.",
            "Núcleos de varios tamaños en paralelo. El módulo ingenuo sería inasumible; "
            "convoluciones 1×1 que antes reducen los canales lo hacen barato. Una media global "
            "sustituye a las capas densas. Dos clasificadores auxiliares llevan gradientes a la "
            "mitad de las 22 capas durante el entrenamiento.",
        ),
        (
            Picture(
                "mixed3a", Text("The naive module", "El módulo ingenuo"), {"reductions": False}
            ),
            Picture("mixed3a", Text("The reduced module", "El módulo con reducciones")),
        ),
        heads=True,
    ),
    Chapter(
        "inception_v2",
        "Inception v2 (BN-Inception), 2015",
        "Ioffe, Szegedy: Batch normalization",
        Text(
            "BatchNorm before every ReLU. It allows far higher learning rates, and makes local "
            "response normalisation and most dropout unnecessary. The 5×5 becomes two 3×3, and "
            "modules with strides halve the map beside a pooling.",
            "BatchNorm antes de cada ReLU. Permite tasas de aprendizaje mucho mayores y hace "
            "innecesarios la normalización local y casi todo el dropout. El 5×5 pasa a ser dos "
            "3×3, y módulos con zancadas reducen el mapa junto a una reducción por máximos.",
        ),
        (
            Picture("mixed3a", Text("5×5 as two 3×3", "5×5 como dos 3×3")),
            Picture(
                "mixed3c", Text("A module that halves the map", "Un módulo que reduce el mapa")
            ),
        ),
    ),
    Chapter(
        "inception_v3",
        "Inception v3, 2015",
        "Szegedy et al.: Rethinking the Inception architecture for computer vision",
        Text(
            "Convolutions factorised in two ways: n×n as 1×n and n×1 on the middle maps, and wide "
            "filter banks where the map is smallest. No bottleneck comes before a pooling. Label "
            "smoothing keeps the network from being too sure. Other stems keep the resolution of "
            "small images.",
            "Convoluciones factorizadas de dos maneras: n×n como 1×n y n×1 en los mapas "
            "intermedios, y bancos de filtros anchos donde el mapa es menor. Ningún cuello de "
            "botella precede a una reducción. El suavizado de etiquetas evita que la red esté "
            "demasiado segura. Otras entradas conservan la resolución de imágenes pequeñas.",
        ),
        (
            Picture("mixed5b", Text("Undone: 5×5", "Sin factorizar: 5×5"), {"factorized": False}),
            Picture("mixed5b", Text("5×5 as two 3×3 (figure 5)", "5×5 como dos 3×3 (figura 5)")),
            Picture("mixed6b", Text("Undone: 7×7", "Sin factorizar: 7×7"), {"factorized": False}),
            Picture(
                "mixed6b", Text("7×7 as 1×7 and 7×1 (figure 6)", "7×7 como 1×7 y 7×1 (figura 6)")
            ),
            Picture("mixed6a", Text("A reduction (figure 10)", "Una reducción (figura 10)")),
            Picture(
                "mixed7b",
                Text("Wide filter banks (figure 7)", "Bancos de filtros anchos (figura 7)"),
            ),
        ),
        heads=True,
    ),
    Chapter(
        "inception_v4",
        "Inception v4, 2016",
        "Szegedy et al.: Inception-v4, Inception-ResNet and the impact of residual connections",
        Text(
            "The modules of v3 made uniform and repeated: 76 layers without shortcuts. It is the "
            "measure for the residual networks that the same paper builds at equal cost.",
            "Los módulos de v3, uniformes y repetidos: 76 capas sin atajos. Es la referencia para "
            "las redes residuales que el mismo artículo construye con igual coste.",
        ),
        (
            Picture("mixed4a", Text("A part of its stem", "Parte de su entrada")),
            Picture("mixed6a", Text("Reduction-A", "Reducción A")),
            Picture("mixed6b", Text("Inception-B", "Inception-B")),
            Picture("mixed7b", Text("Inception-C", "Inception-C")),
        ),
    ),
    Chapter(
        "inception_resnet_v2",
        "Inception-ResNet v2, 2016",
        "Szegedy et al.: Inception-v4, Inception-ResNet and the impact of residual connections",
        Text(
            "Each module adds to its input: its branches meet in a 1×1 convolution without "
            "activation, the result is scaled by 0.1 to 0.2, and a shortcut passes the input on. "
            "It trains faster than Inception v4 at about the same cost.",
            "Cada módulo suma a su entrada: sus ramas se unen en una convolución 1×1 sin "
            "activación, el resultado se escala por 0,1 a 0,2, y un atajo deja pasar la entrada. "
            "Entrena más rápido que Inception v4 con un coste parecido.",
        ),
        (
            Picture("block35_1", Text("Inception-ResNet-A", "Inception-ResNet-A")),
            Picture("block17_1", Text("Inception-ResNet-B", "Inception-ResNet-B")),
            Picture("block8_1", Text("Inception-ResNet-C", "Inception-ResNet-C")),
            Picture(
                "block17_1",
                Text("The same without shortcut", "Lo mismo sin atajo"),
                {"residual": False},
            ),
            Picture("mixed7a", Text("Reduction-B", "Reducción B")),
        ),
    ),
)

# Of networks whose publishers' files `cnnjax weights` does not list, top-1 in percent, one crop:
# Caffe's readme (alexnet, inception_v1), and the papers (inception_resnet_v1 without
# the images that its authors excluded).
OTHERS = {
    "alexnet": 57.1,
    "inception_v1": 68.7,
    "inception_v2": 74.8,
    "inception_resnet_v1": 78.7,
}
SHOWN = (
    "alexnet",
    "alexnet_owt",
    "vgg11",
    "vgg16",
    "vgg19",
    "vgg19_bn",
    "inception_v1",
    "inception_v1_bn",
    "inception_v2",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v1",
    "inception_resnet_v2",
)

# The lowest top-5 errors of the classification task, in percent. 2010 to 2014: Russakovsky et al.
# 2015 (ImageNet large scale visual recognition challenge), Tables 5 to 7, and the networks' papers.
# 2015: He et al. 2015, abstract. 2017: Hu et al. 2017 (SENet), abstract: 2.251, "a 25 % relative
# improvement" on 2016. 2016: the challenge's page of results, as later surveys quote it.
ILSVRC = (
    ("2010 NEC", 28.2),
    ("2011 XRCE", 25.8),
    ("2012 AlexNet", 15.3),
    ("2013 Clarifai", 11.7),
    ("2014 GoogLeNet", 6.7),
    ("2015 ResNet", 3.57),
    ("2016 Trimps-Soushen", 2.99),
    ("2017 SENet", 2.25),
)


def published() -> list[tuple[str, float, float, float]]:
    """(network, parameters, multiply-adds, top-1 in percent): the best published single crop."""
    best: dict[str, float] = dict(OTHERS)
    for record in RECORDS:
        if record.top1 is not None and get_spec(record.model).num_classes == 1000:
            best[record.model] = max(record.top1, best.get(record.model, 0.0))
    known = counts.load()
    return [
        (name, known[name]["parameters"], known[name]["multiply_adds"], best[name])
        for name in SHOWN
    ]
