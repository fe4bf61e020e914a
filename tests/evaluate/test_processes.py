"""Two processes share an evaluation: both have the answers of one process."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.evaluate.classifiers import make, photos
from tests.helpers import ROOT
from train.evaluate import evaluation

PROCESS = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
port, process, root = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from tests.evaluate.classifiers import make
from train import data
from train.evaluate.evaluation import answer
split, classifier = data.load(f"folder:{root}", "val"), make(root)
answers = [answer([classifier], split, name) for name in ("center", "ten_crop", "dense")]
print(json.dumps([[a.views, a.labels.tolist(), a.log_probabilities.tolist()] for a in answers]))
"""


@pytest.mark.slow
def test_two_processes_answer_as_one(tmp_path):
    split = photos(tmp_path / "set")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", PROCESS, port]
    running = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path / "set")], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for i in range(2)
    ]
    printed = [
        json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in running
    ]
    for i, name in enumerate(("center", "ten_crop", "dense")):
        expected = evaluation.answer([make(tmp_path / "set")], split, name)
        for views, labels, logs in (printed[0][i], printed[1][i]):
            assert views == expected.views and labels == split.labels.tolist()
            np.testing.assert_allclose(logs, expected.log_probabilities, atol=2e-6)
