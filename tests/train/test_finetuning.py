"""A run that starts from another one's values: new head, frozen parts, rates by layer, BatchNorm
left alone.
"""

import jax
import numpy as np
import pytest

import cnnjax
from cnnjax import create_model
from cnnjax.analysis import abstract_variables
from tests.helpers import ROOT, assert_trees_close
from train import build
from train.__main__ import main
from train.classifier import from_run
from train.config import Config, Optim
from train.errors import CheckpointError, UserError
from train.run import Run

FLAGS = [
    f"--config={ROOT}/configs/lenet_mnist.py",
    "--config.data.batch_size=64",
    "--config.data.eval_batch_size=128",
    "--config.parallel.devices=1",
    "--config.checkpoint.every=500",
    "--config.optim.warmup=0",
]
DIGITS = [*FLAGS, "--config.data.source=synthetic:28x28x1/10", "--config.epochs=0.5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "first"
    main([*DIGITS, f"--workdir={workdir}"])
    return workdir


def params(workdir):
    run = Run(str(workdir))
    return run.restore("latest")[1]["params"]


def test_a_new_head_is_fresh_and_the_rest_is_taken(tmp_path, trained, capsys):
    """Six classes instead of ten; everything but the head is frozen, so it has to be what the first
    run left.
    """
    options = [
        "--config.data.source=synthetic:28x28x1/6",
        "--config.epochs=0.1",
        f"--config.init.weights={trained}",
    ]
    main(
        [*FLAGS, *options, "--config.optim.lr_scale=freeze=trunk", f"--workdir={tmp_path / 'run'}"]
    )
    assert f"starting from {trained}; fresh: output" in capsys.readouterr().err
    before, after = params(trained), params(tmp_path / "run")
    assert after["output"]["kernel"].shape == (84, 6)
    assert_trees_close(
        {k: v for k, v in after.items() if k != "output"},
        {k: v for k, v in before.items() if k != "output"},
    )


def test_a_run_folder_by_name(trained):
    net, images = cnnjax.pretrained(trained), np.arange(2 * 28 * 28).reshape(2, 28, 28, 1)
    images = images.astype(np.uint8)
    run = Run(str(trained))
    of_run = from_run(run, run.best_or_latest())
    direct = of_run.model.apply(of_run.variables, of_run.preprocess(images)).logits
    np.testing.assert_allclose(net(images).logits, direct, atol=1e-4)
    assert net.predict(images, top=1)[0][0].name in run.class_names == net.class_names
    assert cnnjax.pretrained(trained, num_classes=3).fresh == ("output",)


def test_grey_weights_for_colour_and_back(tmp_path, trained, capsys):
    """Grey images in three equal channels give what they gave in one, and the other way round."""
    base = [*DIGITS, "--config.optim.lr=0", "--config.epochs=0.1"]
    colour, grey = tmp_path / "colour", tmp_path / "grey"
    to_colour = [f"--config.init.weights={trained}", "--config.data.channels=3"]
    to_grey = [f"--config.init.weights={colour}", "--config.data.channels=1"]
    first = main([*base, *to_colour, f"--workdir={colour}"])
    assert "c1 was trained on 1 channel(s), and gets 3 here" in capsys.readouterr().err
    second = main([*base, *to_grey, f"--workdir={grey}"])
    assert params(colour)["c1"]["kernel"].shape[2] == 3
    assert_trees_close(params(grey), params(trained), atol=1e-6)
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-4)


def test_without_frozen_parts_all_moves_on(tmp_path, trained):
    main(
        [
            *DIGITS,
            f"--config.init.weights={trained}",
            "--config.epochs=0.1",
            "--config.optim.lr=1e-6",
            f"--workdir={tmp_path / 'run'}",
        ]
    )
    before, after = params(trained), params(tmp_path / "run")
    assert_trees_close(after, before, atol=1e-4)  # the head too: as many classes
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)))


def test_another_network_is_refused_by_name(tmp_path, trained):
    with pytest.raises(CheckpointError, match=r"does not fit lenet5_1998: ") as caught:
        main(
            [
                *DIGITS,
                "--config.model.name=lenet5_1998",
                f"--config.init.weights={trained}",
                f"--workdir={tmp_path / 'run'}",
            ]
        )
    assert caught.value.exit_code == 4


def test_frozen_up_to_a_stage():
    model, shape = create_model("inception_v3"), (299, 299, 3)
    rules = build.rate_rules(Config(optim=Optim(lr_scale=("freeze=mixed6a",))), model, shape)
    frozen = build.frozen_parameters(abstract_variables(model, shape, train=True)["params"], rules)
    assert {layer: all(jax.tree.leaves(tree)) for layer, tree in frozen.items()} == {
        layer: layer < "mixed6b" and layer not in ("aux", "head") for layer in frozen
    }
    with pytest.raises(UserError, match=r"freeze='mixed9a' is unknown; did you mean mixed"):
        build.rate_rules(Config(optim=Optim(lr_scale=("freeze=mixed9a",))), model, shape)


def test_rules_that_fit_nothing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no parameter is left for optim\.lr_scale='haed'"):
        main([*DIGITS, "--config.optim.lr_scale=('haed=10',)", f"--workdir={tmp_path / 'run'}"])


def test_a_file_of_published_weights(tmp_path, capsys):
    from cnnjax import weights

    model = create_model("lenet5", num_classes=10)
    variables = model.init(jax.random.key(7), np.zeros((1, 28, 28, 1), np.float32), train=True)
    file = tmp_path / "lenet.safetensors"
    preprocessing = weights.Preprocessing(28, (127.5,), (127.5,), channels="L")
    weights.save(
        file, weights.Pretrained(model, jax.device_get(variables), preprocessing, name="lenet5")
    )
    frozen = "--config.optim.lr_scale=('=0',)"
    main(
        [
            *DIGITS,
            f"--config.init.weights={file}",
            "--config.epochs=0.1",
            frozen,
            f"--workdir={tmp_path / 'run'}",
        ]
    )
    assert_trees_close(params(tmp_path / "run"), jax.device_get(variables["params"]))
    said = capsys.readouterr().err
    assert (
        f"starting from {file}" in said
        and "were trained with data.mean=(0.5,); here it is (0.0,)" in said
    )


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"init\.weights=no\.safetensors"):
        main([*DIGITS, "--config.init.weights=no.safetensors", f"--workdir={tmp_path / 'run'}"])
