import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.channel_share import channel_share


@pytest.mark.parametrize("channels", [1, 4, 5, 7])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_shares_make_up_the_matrix(channels, replicas):
    batch = np.random.default_rng(0).normal(size=(8, channels))
    matrix = np.zeros([channels, channels])
    seen = np.zeros([channels, channels], bool)
    start = 0
    for r in range(replicas):
        share = channel_share(
            tf.constant(batch), local_rows=8 // replicas, first_row=r * 8 // replicas
        )
        assert share.replicas == replicas
        rows = share.columns.numpy().T @ batch
        kept = min(len(rows), max(channels - start, 0))
        matrix[start : start + kept] = rows[:kept]
        seen[start : start + kept] = share.diagonal.numpy()[:kept]
        assert (rows[kept:] == 0).all()
        assert not share.diagonal.numpy()[kept:].any()
        start += len(rows)
    assert start >= channels
    np.testing.assert_allclose(matrix, batch.T @ batch)
    np.testing.assert_array_equal(seen, np.eye(channels, dtype=bool))


def test_the_place_may_be_a_tensor_also_when_compiled():
    batch = tf.reshape(tf.range(12.0), [4, 3])
    compiled = tf.function(
        lambda rows, first: channel_share(rows, local_rows=2, first_row=first).columns,
        jit_compile=True,
    )
    np.testing.assert_array_equal(compiled(batch, tf.constant(0)), batch[:, :2])
    second = compiled(batch, tf.constant(2)).numpy()
    np.testing.assert_array_equal(second, np.stack([batch[:, 2], np.zeros(4)], axis=1))


def test_sizes_may_be_unknown():
    spec = tf.TensorSpec([None, None], tf.float32)

    @tf.function(input_signature=[spec])
    def columns(rows):
        return channel_share(rows, local_rows=tf.shape(rows)[0] // 2, first_row=0).columns

    batch = tf.reshape(tf.range(12.0), [4, 3])
    np.testing.assert_array_equal(columns(batch), batch[:, :2])


@pytest.mark.parametrize(("local_rows", "first_row"), [(3, 0), (2, 1)])
def test_unequal_replicas_are_refused(local_rows, first_row):
    with pytest.raises(ValueError, match=r"equally many rows. Received: "):
        channel_share(tf.ones([4, 3]), local_rows=local_rows, first_row=first_row)
