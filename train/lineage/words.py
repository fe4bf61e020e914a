"""The page's own words."""

from train.lineage.texts import Text

WORDS = {
    "title": Text("The lineage lab", "El laboratorio del linaje"),
    "lead": Text(
        "Twenty years of convolutional networks, each idea as one switch: what it costs is "
        "counted from the modules, what it is worth is tested by training small networks.",
        "Veinte años de redes convolucionales, cada idea como un interruptor: lo que cuesta se "
        "cuenta en los módulos, lo que vale se prueba entrenando redes pequeñas.",
    ),
    "skip": Text("Skip to the content", "Saltar al contenido"),
    "contents": Text("Contents", "Contenido"),
    "summary": Text("All claims", "Todas las afirmaciones"),
    "story": Text("The networks", "Las redes"),
    "charts": Text("Accuracy and cost", "Precisión y coste"),
    "counting": Text("Claims, by counting", "Afirmaciones, contando"),
    "training": Text("Claims, by training", "Afirmaciones, entrenando"),
    "idea": Text("idea", "idea"),
    "source": Text("paper", "artículo"),
    "verdict": Text("verdict", "veredicto"),
    "how": Text("how", "cómo"),
    "counted": Text("counted", "contando"),
    "trained": Text("trained", "entrenando"),
    "reproduced": Text("reproduced", "reproducida"),
    "not reproduced": Text("not reproduced", "no reproducida"),
    "undecided": Text("undecided", "sin decidir"),
    "": Text("not run yet", "aún sin ejecutar"),
    "test": Text(
        "Each experiment trains every value with the same seeds, data and number of updates. The "
        "difference of the pair is taken seed by seed. A claim is reproduced if the 95 % interval "
        "of the mean difference (Student's t) lies wholly on the claimed side of zero, not "
        "reproduced if it lies wholly on the other side, and undecided otherwise. The bars below "
        "the dots are means with their own 95 % intervals. With so many claims, one in forty of "
        "those without any effect is expected to come out as reproduced by chance.",
        "Cada experimento entrena todos los valores con las mismas semillas, los mismos datos y el "
        "mismo número de actualizaciones. La diferencia del par se toma semilla a semilla. Una "
        "afirmación queda reproducida si el intervalo del 95 % de la diferencia media (t de "
        "Student) está entero en el lado afirmado del cero, no reproducida si está entero en el "
        "otro lado, y sin decidir en los demás casos. Las barras bajo los puntos son medias con su "
        "propio intervalo del 95 %. Con tantas afirmaciones, es de esperar que una de cada "
        "cuarenta sin efecto alguno resulte reproducida por azar.",
    ),
    "count_test": Text(
        "Counting needs no statistics: the figures are traced from the modules that this package "
        "builds, and either agree with the statement or do not.",
        "Contar no necesita estadística: las cifras se obtienen de los módulos que construye este "
        "paquete, y coinciden o no con la afirmación.",
    ),
    "switch": Text("Switch", "Interruptor"),
    "limits": Text("What this cannot show", "Lo que esto no puede mostrar"),
    "repeat": Text("Repeat it", "Repetirlo"),
    "figures": Text("All figures", "Todas las cifras"),
    "difference": Text("difference", "diferencia"),
    "interval": Text("95 % interval", "intervalo del 95 %"),
    "seeds": Text("seeds", "semillas"),
    "value": Text("value", "valor"),
    "mean": Text("mean", "media"),
    "on": Text("on", "sí"),
    "off": Text("off", "no"),
    "parameters": Text("parameters", "parámetros"),
    "multiply_adds": Text("multiply-adds", "multiplicaciones"),
    "receptive_field": Text("receptive field", "campo receptivo"),
    "relus": Text("ReLUs", "ReLU"),
    "depth": Text("layers deep", "capas de profundidad"),
    "input": Text("image", "imagen"),
    "stage": Text("stage", "etapa"),
    "whole": Text("The whole network, block by block", "La red completa, bloque a bloque"),
    "with_heads": Text(
        "The whole network as it trains, with auxiliary heads, block by block",
        "La red completa como se entrena, con clasificadores auxiliares, bloque a bloque",
    ),
    "layers": Text("layers", "capas"),
    "top1": Text("top-1 accuracy, ImageNet", "acierto top-1, ImageNet"),
    "against_costs": Text(
        "Published accuracy against multiply-adds", "Acierto publicado frente a multiplicaciones"
    ),
    "against_parameters": Text(
        "Published accuracy against parameters", "Acierto publicado frente a parámetros"
    ),
    "published": Text(
        "The best accuracy that a publisher states for one crop of the validation images (cnnjax "
        "weights lists the files); alexnet and inception_v1: Caffe's; inception_v2 and "
        "inception_resnet_v1: their papers'. Nothing of it was measured here.",
        "El mejor acierto que declara quien publica los pesos para un recorte de las imágenes de "
        "validación (cnnjax weights lista los archivos); alexnet e inception_v1: los de Caffe; "
        "inception_v2 e inception_resnet_v1: los de sus artículos. Nada de ello se midió aquí.",
    ),
    "ilsvrc": Text("Winners of ILSVRC, top-5 error", "Ganadores de ILSVRC, error top-5"),
    "ilsvrc_source": Text(
        "Classification task. 2010 to 2014: Russakovsky et al. 2015, and the papers (2012 with "
        "further training data). 2015: He et al. 2015. 2017: Hu et al. 2017. 2016: the challenge's "
        "page of results, as surveys quote it. Russakovsky et al. put a trained person at 5.1 %.",
        "Tarea de clasificación. 2010 a 2014: Russakovsky et al. 2015 y los artículos (2012 con "
        "datos de entrenamiento adicionales). 2015: He et al. 2015. 2017: Hu et al. 2017. 2016: la "
        "página de resultados del concurso, citada por revisiones posteriores. Russakovsky et al. "
        "sitúan a una persona entrenada en el 5,1 %.",
    ),
}


def word(name: str, lang: str) -> str:
    return WORDS[name](lang)
