"""Your own photographs: a folder with one sub-folder for each class, on a CPU in minutes.

    python -m train --config=configs/folder.py:photos/flowers --workdir=runs/flowers

The network is BN-Inception without auxiliary heads, at 96 pixels. It reads whole photographs,
squeezed into a square, and random crops of at least 80 % of the area, so that what is small stays.
`--config.model.name` takes any other network. With a few hundred photographs, start from published
weights of the same network and train the classifier alone at first:

    … --config.init.weights=weights.safetensors --config.optim.lr_scale=freeze=trunk

Values: our choice.
Expected: it depends on the photographs; `python -m train.report` shows which ones go wrong.
What was really run: lenet5, inception_v1_bn and inception_v2 on crops of photographs
(configs/README.md); folders of generated images, in the tests; no published set of photographs.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Loss, Model, Optim, Transform


def get_config(folder: str = "photos") -> Config:
    return Config(
        epochs=30,
        model=Model(name="inception_v2", options={"aux": False}),
        data=Data(
            source=f"folder:{folder}",
            eval_split="val",
            size=96,
            channels=3,
            batch_size=32,
            eval_batch_size=64,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            on_bad_image="skip",
            # The whole photograph, squeezed into a square: what is small and at the edge stays.
            transform=Transform(fraction=1.0),
            augment=Augment(crop="area", area=(0.8, 1.0), flip=True),
        ),
        optim=Optim(
            name="sgd",
            lr=0.01,  # at 0.05 a rare class was learned worse: configs/README.md
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
            clip=5.0,
            schedule="cosine",
            warmup=2,
        ),
        loss=Loss(label_smoothing=0.1),
        log=Log(every=20, eval_every=100),
        checkpoint=Checkpoint(every=100),
    )
