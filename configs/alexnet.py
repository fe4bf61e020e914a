"""AlexNet.

Krizhevsky, Sutskever, Hinton: ImageNet classification with deep convolutional neural networks, 2012, section 5.

    python -m train --config=configs/alexnet.py --workdir=runs/alexnet

Batch 128, momentum 0.9, weight decay 5e-4 inside the velocity, rate 0.01, divided by ten when the validation error
stops improving, at most three times, about 90 passes; biases at twice the rate and without decay (from Caffe's
reproduction). A random window of the image whose short side is 256, mirrored, its colours shifted along their
principal components; the mean is subtracted, pixels stay on the scale of 0..255, for which the initial values are
made.
Published: top-1 error 40.7 %, top-5 18.2 % (one network, ten crops of the test image; `train.evaluate
--protocol=ten_crop`).

What differs: the mean is one colour, not an image (the paper's is, from memory); a plateau is five evaluations in a
row.
The paper was stopped by hand.

What was really run: not on ImageNet here; one step of it is part of the tests.
"""

from train.config import Augment, Checkpoint, Config, Data, Log, Model, Optim, Transform


def get_config() -> Config:
    return Config(
        epochs=90,
        model=Model(name="alexnet"),
        data=Data(
            source="tfds:imagenet2012", eval_split="validation", size=227, batch_size=128, eval_batch_size=512,
            mean=(0.485, 0.456, 0.406), std=(1 / 255,), transform=Transform(resize=256),
            augment=Augment(crop="scale", short_side=(256, 256), flip=True, lighting=0.1),
        ),
        optim=Optim(
            name="sgd", lr=0.01, momentum=0.9, lr_inside=True, weight_decay=5e-4, lr_scale=("bias$=2",),
            schedule="plateau", decay_rate=0.1, patience=5, floor=1e-3,
        ),
        log=Log(every=100, eval_every=10_010),  # a pass
        checkpoint=Checkpoint(every=2500),
    )  # fmt: skip
