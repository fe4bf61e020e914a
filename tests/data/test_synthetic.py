"""Images that are made up on the spot."""

import numpy as np

from train import data


def test_a_synthetic_image_is_the_same_whenever_it_is_drawn():
    some, all_of_them = (data.load("synthetic:9x7x3/4", "train") for _ in range(2))
    images, labels = some.fetch(np.array([7, 2, 2, 9]))
    np.testing.assert_array_equal(images, all_of_them.images[[7, 2, 2, 9]])
    np.testing.assert_array_equal(all_of_them.fetch([-1, 0])[0], all_of_them.images[[-1, 0]])
    assert images.shape == (4, 9, 7, 3) and labels.tolist() == [3, 2, 2, 1]
    assert len({image.tobytes() for image in all_of_them.images}) == 2048
    held_out = data.load("synthetic:9x7x3/4", "test")
    assert not (held_out.images[:4] == all_of_them.images[:4]).all()
