"""The claims that training tests; `experiments.py` has their runs.

A table of rows with two languages each.
"""

from train.lineage.claims import Training
from train.lineage.texts import Text, both

COURSE = Text("the course's notes", "los apuntes del curso")
ALEXNET = "Krizhevsky et al. 2012"
ON_DIGITS = Text(
    "Ten digits in grey are an easy task: a difference that needs a thousand classes, or millions "
    "of photographs, cannot show here.",
    "Diez dígitos en gris son una tarea fácil: una diferencia que necesita mil clases, o millones "
    "de fotografías, no puede verse aquí.",
)
NARROW = Text(
    "A gap also narrows when the network learns less: it says nothing about accuracy. And ten "
    "digits in grey are an easy task.",
    "La distancia también se reduce cuando la red aprende menos: no dice nada sobre el acierto. Y "
    "diez dígitos en gris son una tarea fácil.",
)
GREY = Text(
    "The digits are grey, so their three channels are equal and permuting them changes nothing. "
    "Only colour images can decide it: --data=folder:DIR.",
    "Los dígitos son grises, así que sus tres canales son iguales y permutarlos no cambia nada. "
    "Solo imágenes en color pueden decidirlo: --data=folder:DIR.",
)
MIRRORED = Text(
    "A mirrored digit is no digit. The idea is for photographs, in which left and right are alike.",
    "Un dígito en espejo no es un dígito. La idea es para fotografías, donde izquierda y derecha "
    "significan lo mismo.",
)
SHALLOW = Text(
    "LeNet-5 has five layers. The paper's figure is for a network of four layers on CIFAR-10, "
    "and the gain grows with depth.",
    "LeNet-5 tiene cinco capas. La figura del artículo es de una red de cuatro capas con CIFAR-10, "
    "y la ganancia crece con la profundidad.",
)
SHORT = Text(
    "A hundred updates on images of 32 pixels show how training begins, not where it ends.",
    "Cien actualizaciones con imágenes de 32 píxeles muestran cómo empieza el entrenamiento, no "
    "dónde termina.",
)
TINY = Text(
    "30 to 60 updates with the smallest images that the network takes; the paper trains on "
    "ImageNet for weeks. The test loss says nothing yet: BatchNorm's moving averages are still "
    "near their initial values.",
    "De 30 a 60 actualizaciones con las imágenes más pequeñas que la red admite; el artículo "
    "entrena con ImageNet durante semanas. La pérdida en prueba aún no dice nada: las medias "
    "móviles de BatchNorm siguen cerca de sus valores iniciales.",
)
NARROWS = {
    "crop": ("Random crops", "Recortes aleatorios"),
    "scale": ("Random scales", "Escalas aleatorias"),
    "permutation": ("Permuted colour channels", "Canales de color permutados"),
    "flip": ("Mirror images", "Imágenes en espejo"),
}
AUGMENTATIONS = {
    "crop": (both(f"{ALEXNET}, § 4.1"), ("center", "scale"), NARROW),
    "scale": (both("Simonyan, Zisserman 2014, § 3.1"), ("0.0", "0.15"), NARROW),
    "permutation": (COURSE, ("False", "True"), GREY),
    "flip": (both(f"{ALEXNET}, § 4.1"), ("False", "True"), MIRRORED),
}
BATCHNORM = "Ioffe, Szegedy 2015, § 4.2"
RATES = {"low": "0.001", "middle": "0.003", "high": "0.01"}
HEADS = {
    "paper": ("1.0 + 0.3 + 0.3", both("Szegedy et al. 2014, § 5")),
    "course": ("0.7 / 0.3", COURSE),
}
RESIDUAL = "Szegedy et al. 2016"

CLAIMS: tuple[Training, ...] = (
    Training(
        "relu",
        Text("ReLU for tanh", "ReLU en lugar de tanh"),
        both(f"{ALEXNET}, § 3.1, fig. 1"),
        Text(
            "With ReLU the training loss falls to 0.5 in fewer steps than with tanh.",
            "Con ReLU la pérdida de entrenamiento baja a 0,5 en menos pasos que con tanh.",
        ),
        SHALLOW,
        "activation_lenet",
        ("tanh", "relu"),
        "steps_to_0.5",
        -1,
    ),
    Training(
        "relu_course",
        Text(
            "The course's LeNet: ReLU in dense layers", "La LeNet del curso: ReLU en capas densas"
        ),
        COURSE,
        Text(
            "With tanh in the convolutions and ReLU in the dense layer, the training loss falls to "
            "0.5 in fewer steps than with tanh alone.",
            "Con tanh en las convoluciones y ReLU en la capa densa, la pérdida de entrenamiento "
            "baja a 0,5 en menos pasos que solo con tanh.",
        ),
        SHALLOW,
        "activation_lenet",
        ("tanh", "course"),
        "steps_to_0.5",
        -1,
    ),
    Training(
        "relu_alexnet",
        Text("ReLU for tanh in AlexNet", "ReLU en lugar de tanh en AlexNet"),
        both(f"{ALEXNET}, § 3.1"),
        Text(
            "In AlexNet with ReLU the training loss falls to 1.0 in fewer steps than with tanh.",
            "En AlexNet con ReLU la pérdida de entrenamiento baja a 1,0 en menos pasos que con "
            "tanh.",
        ),
        Text(
            "48 updates on images of 63 pixels show how training begins, not where it ends. A run "
            "that never gets there counts as 49.",
            "48 actualizaciones con imágenes de 63 píxeles muestran cómo empieza el entrenamiento, "
            "no dónde termina. Una ejecución que no llega cuenta como 49.",
        ),
        "activation_alexnet",
        ("tanh", "relu"),
        "steps_to_1.0",
        -1,
    ),
    Training(
        "dropout",
        Text("Dropout", "Dropout"),
        both(f"{ALEXNET}, § 4.2"),
        Text(
            "Dropout of one half in the dense layers narrows the gap between test and training "
            "loss.",
            "El dropout de un medio en las capas densas reduce la distancia entre la pérdida de "
            "prueba y la de entrenamiento.",
        ),
        NARROW,
        "dropout",
        ("0.0", "0.5"),
        "gap",
        -1,
    ),
    *(
        Training(
            name,
            Text(*NARROWS[name]),
            source,
            Text(
                f"{NARROWS[name][0]} narrow the gap between test and training loss.",
                f"{NARROWS[name][1]} reducen la distancia entre la pérdida de prueba y la de "
                "entrenamiento.",
            ),
            limits,
            name,
            pair,
            "gap",
            -1,
        )
        for name, (source, pair, limits) in AUGMENTATIONS.items()
    ),
    *(
        Training(
            f"aux_steps_{name}",
            Text(
                f"Auxiliary classifiers, {weights}: speed",
                f"Clasificadores auxiliares, {weights}: velocidad",
            ),
            source,
            Text(
                "In a deep network without BatchNorm, the auxiliary classifiers let the "
                "classifier's training loss fall to 2.0 (chance is 2.3) in fewer steps.",
                "En una red profunda sin BatchNorm, los clasificadores auxiliares hacen que la "
                "pérdida del clasificador baje a 2,0 (el azar es 2,3) en menos pasos.",
            ),
            SHORT,
            f"aux_{name}",
            ("False", "True"),
            "steps_to_2.0",
            -1,
        )
        for name, (weights, source) in HEADS.items()
    ),
    *(
        Training(
            f"aux_gradient_{name}",
            Text(
                f"Auxiliary classifiers, {weights}: gradients",
                f"Clasificadores auxiliares, {weights}: gradientes",
            ),
            source,
            Text(
                "In a deep network without BatchNorm, the auxiliary classifiers bring larger "
                "gradients to the first layers.",
                "En una red profunda sin BatchNorm, los clasificadores auxiliares llevan "
                "gradientes mayores a las primeras capas.",
            ),
            Text(
                "Measured at the initial parameters only, on images of 32 pixels. The heads' "
                "losses also add weight to the sum, which alone enlarges the gradient.",
                "Medido solo con los parámetros iniciales, en imágenes de 32 píxeles. Las pérdidas "
                "auxiliares también añaden peso a la suma, y eso ya agranda el gradiente.",
            ),
            f"aux_{name}",
            ("False", "True"),
            "gradient",
            1,
        )
        for name, (weights, source) in HEADS.items()
    ),
    *(
        Training(
            f"batchnorm_{name}",
            Text(f"BatchNorm, learning rate {rate}", f"BatchNorm, tasa de aprendizaje {rate}"),
            both(BATCHNORM),
            Text(
                f"At a learning rate of {rate}, the training loss falls to 2.0 (chance is 2.3) in "
                "fewer steps with BatchNorm than without.",
                f"Con tasa de aprendizaje {rate}, la pérdida de entrenamiento baja a 2,0 (el azar "
                "es 2,3) en menos pasos con BatchNorm que sin él.",
            ),
            Text(
                "60 updates of 32 images. The switch also exchanges the initial weights, as each "
                "network's authors chose them. An update whose loss is not a number is left out.",
                "60 actualizaciones de 32 imágenes. El interruptor cambia también los pesos "
                "iniciales, como los eligieron los autores de cada red. Se omite toda "
                "actualización cuya pérdida no sea un número.",
            ),
            f"batchnorm_{name}",
            ("False", "True"),
            "steps_to_2.0",
            -1,
        )
        for name, rate in RATES.items()
    ),
    Training(
        "smoothing_confidence",
        Text("Label smoothing: confidence", "Suavizado de etiquetas: confianza"),
        both("Szegedy et al. 2015 (Rethinking), § 7"),
        Text(
            "Label smoothing of 0.1 makes the network less confident in its answers.",
            "El suavizado de etiquetas de 0,1 hace que la red esté menos segura de sus respuestas.",
        ),
        ON_DIGITS,
        "smoothing",
        ("0.0", "0.1"),
        "confidence",
        -1,
    ),
    Training(
        "smoothing_calibration",
        Text("Label smoothing: calibration", "Suavizado de etiquetas: calibración"),
        both("Müller et al. 2019 (When does label smoothing help?), § 3"),
        Text(
            "Label smoothing of 0.1 lowers the calibration error on the test digits.",
            "El suavizado de etiquetas de 0,1 reduce el error de calibración en los dígitos de "
            "prueba.",
        ),
        ON_DIGITS,
        "smoothing",
        ("0.0", "0.1"),
        "calibration",
        -1,
    ),
    Training(
        "stem",
        Text("The stem for 79 pixels", "La entrada para 79 píxeles"),
        both("Szegedy et al. 2015 (Rethinking), § 8"),
        Text(
            "On images of 79 pixels, the stem that keeps their resolution has a lower training "
            "loss than the usual one over the same updates. (It also costs 25 times as much.)",
            "Con imágenes de 79 píxeles, la entrada que conserva su resolución tiene menor pérdida "
            "de entrenamiento que la habitual durante las mismas actualizaciones. (También cuesta "
            "25 veces más.)",
        ),
        TINY,
        "stem",
        ("299", "79"),
        "later_loss",
        -1,
    ),
    Training(
        "residual",
        Text("Residual connections at equal cost", "Conexiones residuales a igual coste"),
        both(f"{RESIDUAL}, §§ 3.2, 5"),
        Text(
            "Inception-ResNet-v1 with its shortcuts has a lower training loss over the same "
            "updates than without them.",
            "Inception-ResNet-v1 con sus atajos tiene menor pérdida de entrenamiento durante las "
            "mismas actualizaciones que sin ellos.",
        ),
        TINY,
        "residual",
        ("False", "True"),
        "later_loss",
        -1,
    ),
    Training(
        "residual_scale",
        Text("Scaled residuals", "Residuos escalados"),
        both(f"{RESIDUAL}, § 3.3"),
        Text(
            "Without scaling (factor 1.0) the training loss over the same updates is higher than "
            "with the factor 0.1.",
            "Sin escalar (factor 1,0) la pérdida de entrenamiento durante las mismas "
            "actualizaciones es mayor que con el factor 0,1.",
        ),
        TINY,
        "residual_scale",
        ("0.1", "1.0"),
        "later_loss",
        1,
    ),
)
