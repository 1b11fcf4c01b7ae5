import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.view_pairs import view_pairs


def test_rows_and_columns_are_what_they_are_said_to_be(random_views):
    z1, z2 = random_views(3, 5)
    pairs = view_pairs(z1, z2)
    unit = np.concatenate([z1, z2])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(pairs.cosines, unit @ unit.T, atol=1e-12)
    for i in range(6):
        partner = (i + 3) % 6
        assert float(pairs.positives[i]) == pytest.approx(unit[i] @ unit[partner])
        assert set(np.flatnonzero(~pairs.others[i])) == {i}
        assert set(np.flatnonzero(~pairs.negatives[i])) == {i, partner}


@pytest.mark.parametrize("first_row", [0, 2, 4])
def test_a_block_is_the_matching_rows_of_the_whole(random_views, first_row):
    z1, z2 = random_views(6, 5)
    whole = view_pairs(z1, z2)
    block = slice(first_row, first_row + 2)
    part = view_pairs(z1[block], z2[block], (z1, z2), tf.constant(first_row))
    rows = [first_row, first_row + 1, first_row + 6, first_row + 7]
    for ours, all_rows in zip(part, whole, strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, float), np.asarray(all_rows, float)[rows], atol=1e-12
        )


def test_masks_follow_rows_and_not_values():
    pairs = view_pairs(tf.ones([3, 2]), tf.ones([3, 2]))
    assert pairs.negatives.numpy().sum() == 6 * 4


@pytest.mark.parametrize(
    "shapes",
    [
        {"z1": (2, 3), "z2": (3, 3)},
        {"z1": (2, 3), "z2": (2, 4)},
        {"z1": (2, 3, 1), "z2": (2, 3, 1)},
        {"z1": (2, 3), "z2": (2, 3), "candidates": ((4, 5), (4, 5))},
        {"z1": (2, 3), "z2": (2, 3), "candidates": ((4, 3), (5, 3))},
        {"z1": (2, 3), "z2": (2, 3), "candidates": ((1, 3), (1, 3))},
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    candidates = shapes.get("candidates")
    if candidates:
        candidates = tuple(tf.zeros(shape) for shape in candidates)
    with pytest.raises(ValueError, match="Received: "):
        view_pairs(tf.zeros(shapes["z1"]), tf.zeros(shapes["z2"]), candidates)
