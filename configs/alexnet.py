"""AlexNet as the paper trains it, on ImageNet.

Paper: Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural
networks, 2012.

    python -m train --config=configs/alexnet.py --workdir=runs/alexnet

Values, with their source:
    section 5            SGD, batch 128, momentum 0.9, weight decay 5e-4 inside the velocity; rate
                         0.01, divided by ten three times, when the validation error stops
                         improving; about 90 epochs
    section 2            short side 256, raw RGB values minus the mean of the training set
    section 4.1          random windows, mirrored; colours shifted along their principal
                         components, standard deviation 0.1
    BVLC/caffe, models/bvlc_alexnet/train_val.prototxt
                         windows of 227, biases at twice the rate and without weight decay
    our choice           a plateau is five evaluations in a row without a better top-1 accuracy

Published: 40.7 % top-1 and 18.2 % top-5 error on the validation set (section 6, Table 2), one
network, ten crops (`train.evaluate --protocol=ten_crop`).

What differs: the paper lowers the rate by hand, gives biases the same rate as weights, takes
windows of 224 from the central 256x256 pixels (here 227 from the whole image), and subtracts a
mean image (here one colour).

What was really run: not on ImageNet; one step is part of the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Model, Optim, Transform


def get_config() -> Config:
    return Config(
        epochs=90,
        model=Model(name="alexnet"),
        data=Data(
            source="tfds:imagenet2012",
            eval_split="validation",
            size=227,
            batch_size=128,
            eval_batch_size=512,
            mean=(0.485, 0.456, 0.406),
            std=(1 / 255,),  # pixels stay in 0..255, for which the initial weights are made
            transform=Transform(resize=256),
            augment=Augment(crop="scale", short_side=(256, 256), flip=True, lighting=0.1),
        ),
        optim=Optim(
            name="sgd",
            lr=0.01,
            momentum=0.9,
            lr_inside=True,
            weight_decay=5e-4,
            lr_scale=("bias$=2",),
            schedule="plateau",
            decay_rate=0.1,
            patience=5,
            floor=1e-3,
        ),
        log=Log(every=100, eval_every=10_010),  # an epoch
        checkpoint=Checkpoint(every=2500),
    )
