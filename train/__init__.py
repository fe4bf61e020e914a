"""A functional trainer for the models of cnnjax.

python -m train --config=configs/lenet_mnist.py --workdir=runs/lenet
"""
