"""Published weights as variables of these networks, and a file format of our own.

`load` reads a file, `save` writes our format, `export` writes a publisher's, `RECORDS` lists the
known files. Only `cnnjax.pretrained` fetches anything. README.md explains the sources and commands.
"""

from cnnjax.weights.export import export
from cnnjax.weights.layout import WeightsError, WeightsWarning
from cnnjax.weights.loading import load
from cnnjax.weights.metadata import RECORDS, Preprocessing, Record
from cnnjax.weights.network import Prediction, Pretrained
from cnnjax.weights.own import save
from cnnjax.weights.publishers import SOURCES

__all__ = [
    "RECORDS",
    "SOURCES",
    "Prediction",
    "Preprocessing",
    "Pretrained",
    "Record",
    "WeightsError",
    "WeightsWarning",
    "export",
    "load",
    "save",
]
