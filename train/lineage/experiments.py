"""The experiments of the training claims: a recipe, one option that differs, its values.

All experiments are on the demo's digits, in settings that separate: few digits, few updates, few
pixels. Budgets are equal within an experiment.
"""

from train.lineage.claims import Experiment

BASE = "lineage_mnist5k"
STILL = ("data.augment.rotate=0", "data.augment.scale=0", "data.augment.shear=0")
HARD = ("loss.label_smoothing=0",)  # plain cross-entropy
LOGS = ("log.every=4", "log.eval_every=1000000", "checkpoint.every=1000000", "parallel.devices=1")
PLAIN = (*STILL, *HARD, *LOGS)
FEW = ("data.train_split=train[:400]", "data.batch_size=50", *PLAIN)  # 8 steps an epoch
FEWEST = ("data.train_split=train[:100]", "data.batch_size=50", *PLAIN)  # 2 steps an epoch
LENET = f"{BASE}:lenet5"
ALEXNET = f"{BASE}:alexnet_owt"
GOOGLENET = f"{BASE}:inception_v1"
RESNET = f"{BASE}:inception_resnet_v1"
TRAINING = ("data.eval_split=test[:100]", *PLAIN)  # for claims that are about training only
SHORT = ("data.batch_size=32", "optim.warmup=0.1", *TRAINING)
SGD = ("optim.name=sgd", "optim.schedule=constant", "optim.clip=0", "optim.weight_decay=0")
BN = ("model.options.aux=False", "epochs=0.48", "on_nan=skip", *SHORT, *SGD, "optim.warmup=0")
DEEP = ("data.batch_size=16", "epochs=0.24", "optim.warmup=0.05", *TRAINING)
AUGMENTED = ("epochs=40", "data.channels=3", *FEW)

EXPERIMENTS = {
    "activation_lenet": Experiment(
        LENET, "model.options.activation", ("tanh", "relu", "course"), ("epochs=30", *FEW), 6
    ),
    "activation_alexnet": Experiment(
        ALEXNET, "model.options.activation", ("tanh", "relu"), ("epochs=6", *FEW)
    ),
    "dropout": Experiment(ALEXNET, "model.options.dropout", ("0.0", "0.5"), ("epochs=30", *FEWEST)),
    "crop": Experiment(
        LENET,
        "data.augment.crop",
        ("center", "scale"),
        (*AUGMENTED, "data.augment.short_side=(32,32)"),
        6,
    ),
    "scale": Experiment(LENET, "data.augment.scale", ("0.0", "0.15"), AUGMENTED, 6),
    "permutation": Experiment(
        LENET, "data.augment.permute_channels", ("False", "True"), AUGMENTED, 6
    ),
    "flip": Experiment(LENET, "data.augment.flip", ("False", "True"), AUGMENTED, 6),
    "aux_paper": Experiment(
        GOOGLENET,
        "model.options.aux",
        ("False", "True"),
        ("epochs=0.8", *SHORT, "loss.main_weight=1.0", "loss.aux_weight=0.6"),
    ),
    "aux_course": Experiment(
        GOOGLENET,
        "model.options.aux",
        ("False", "True"),
        ("epochs=0.8", *SHORT, "loss.main_weight=0.7", "loss.aux_weight=0.3"),
    ),
    "batchnorm_low": Experiment(
        GOOGLENET, "model.options.batch_norm", ("False", "True"), (*BN, "optim.lr=0.001")
    ),
    "batchnorm_middle": Experiment(
        GOOGLENET, "model.options.batch_norm", ("False", "True"), (*BN, "optim.lr=0.003")
    ),
    "batchnorm_high": Experiment(
        GOOGLENET, "model.options.batch_norm", ("False", "True"), (*BN, "optim.lr=0.01")
    ),
    "smoothing": Experiment(LENET, "loss.label_smoothing", ("0.0", "0.1"), ("epochs=60", *FEW), 6),
    "stem": Experiment(
        f"{BASE}:inception_v3",
        "model.options.stem",
        ("299", "79"),
        (*DEEP, "data.size=79", "data.batch_size=8", "epochs=0.06"),
    ),
    "residual": Experiment(RESNET, "model.options.residual", ("False", "True"), DEEP),
    "residual_scale": Experiment(
        RESNET, "model.options.residual_scale", ("0.1", "1.0"), (*DEEP, "optim.lr=0.003")
    ),
}
