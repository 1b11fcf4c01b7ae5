import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import dense_rows, info_nce, match_locations


@pytest.fixture
def maps():
    """Backbone maps [2, 5, 7], [2, 5, 7] and grids [2, 5, 3], [2, 5, 3]."""
    rng = np.random.default_rng(0)
    return [*rng.normal(size=(2, 2, 5, 7)), *rng.normal(size=(2, 2, 5, 3))]


def loop_match(query, key):
    matches = np.zeros(query.shape[:2], int)
    for i, (q, k) in enumerate(zip(query, key, strict=True)):
        for u, row in enumerate(q):
            matches[i, u] = np.argmax([row @ other / np.linalg.norm(other) for other in k])
    return matches


def test_matches_equal_the_loop(maps):
    query, key = maps[0], maps[1][:, :4] * [[[9.0], [1.0], [1.0], [0.1]]]  # lengths do not matter
    matches = match_locations(query, key)
    assert matches.dtype == tf.int32
    np.testing.assert_array_equal(matches, loop_match(query, key))


def test_equal_maps_match_themselves(maps):
    np.testing.assert_array_equal(match_locations(maps[0], 3 * maps[0]), [np.arange(5)] * 2)


def test_rows_pair_each_location_with_its_match(maps):
    matches = loop_match(*maps[:2])
    queries, keys = dense_rows(*maps[2:], matches)
    assert queries.shape == keys.shape == (10, 3)
    for i in range(2):
        for u in range(5):
            np.testing.assert_array_equal(queries[5 * i + u], maps[2][i, u])
            np.testing.assert_array_equal(keys[5 * i + u], maps[3][i, matches[i, u]])


def dense_loss(feature_q, feature_k, grid_q, grid_k):
    queue = np.random.default_rng(1).normal(size=(6, 3))
    rows = dense_rows(grid_q, grid_k, match_locations(feature_q, feature_k))
    return info_nce(*rows, queue, temperature=0.2)


def test_order_of_locations_does_not_matter(maps):
    value = float(dense_loss(*maps))
    order = np.random.default_rng(3).permutation(5)
    keys_moved = dense_loss(maps[0], maps[1][:, order], maps[2], maps[3][:, order])
    assert float(keys_moved) == pytest.approx(value, abs=1e-12)
    queries_moved = dense_loss(maps[0][:, order], maps[1], maps[2][:, order], maps[3])
    assert float(queries_moved) == pytest.approx(value, abs=1e-12)
    assert abs(float(dense_loss(maps[0], maps[1], maps[2], maps[3][:, order])) - value) > 1e-3


def test_only_the_query_grid_learns(maps):
    tensors = [tf.constant(x) for x in maps]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = dense_loss(*tensors)
    gradients = tape.gradient(value, tensors)
    assert gradients[0] is gradients[1] is gradients[3] is None
    assert np.abs(gradients[2]).max() > 1e-3


def test_dense_keys_are_constants(maps):
    query_grid, key_grid = (tf.constant(x) for x in maps[2:])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query_grid, key_grid])
        queries, keys = dense_rows(query_grid, key_grid, np.zeros([2, 5], int))
    assert tape.gradient(keys, key_grid) is None
    np.testing.assert_array_equal(tape.gradient(queries, query_grid), np.ones([2, 5, 3]))


@pytest.mark.parametrize("locations", [1, 4])
def test_finite_for_zero_maps_and_one_image(assert_finite, locations):
    zeros = np.zeros([1, locations, 3], np.float32)
    assert (match_locations(zeros, zeros).numpy() == 0).all()

    def loss(grid):
        queries, keys = dense_rows(grid, zeros, match_locations(zeros, zeros))
        return info_nce(queries, keys, tf.ones([4, 3]), temperature=1e-3)

    value, _ = assert_finite(loss, zeros, jit=True)
    assert value == pytest.approx(np.log(5), rel=1e-6)


def test_half_precision_maps_are_compared_in_float32(maps):
    half = [x.astype(np.float16) for x in maps[:2]]
    np.testing.assert_array_equal(match_locations(*half), loop_match(*maps[:2]))
    assert dense_rows(*half, np.zeros([2, 5], int))[0].dtype == tf.float32


def test_bad_arguments_are_refused(maps):
    matches = np.zeros([2, 5], int)
    for bad in (maps[1][:1], maps[1][:, :, :3], maps[1][0], np.zeros([2, 5, 7], int)):
        with pytest.raises(ValueError, match="Received: "):
            match_locations(maps[0], bad)
    for bad in (matches[:, :4], matches[:1], matches * 1.0, matches[0]):
        with pytest.raises(ValueError, match=r"matches must .*Received: "):
            dense_rows(*maps[2:], bad)
