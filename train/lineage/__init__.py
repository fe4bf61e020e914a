"""The ideas of twenty years of convolutional networks, each as one switch, measured."""
