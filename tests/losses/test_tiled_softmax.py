import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import tiled_softmax as module
from tfcontrast.losses.tiled_softmax import Exclusion, in_tiles, join, split, tiled_softmax

N, M, D = 7, 11, 3
RNG = np.random.default_rng(0)
Q, K = RNG.normal(size=(N, D)), RNG.normal(size=(M, D))
OWN = np.array([3, 0, 10, 5, 9, 1, 7], np.int32)
ROW_CLASSES = np.array([0, 1, 2, 0, 1, 5, 0], np.int32)
COLUMN_CLASSES = np.array([0, 0, 1, 1, 2, 0, 2, 1, 0, 3, 1], np.int32)
UPSTREAM = RNG.normal(size=N)

COUNTS = {
    "all": np.ones([N, M], bool),
    "others": OWN[:, None] != np.arange(M),
    "other classes": ROW_CLASSES[:, None] != COLUMN_CLASSES,
    "same class": (ROW_CLASSES[:, None] == COLUMN_CLASSES) & (OWN[:, None] != np.arange(M)),
}
EXCLUSIONS = {
    "all": None,
    "others": Exclusion(own=OWN),
    "other classes": Exclusion(row_classes=ROW_CLASSES, column_classes=COLUMN_CLASSES),
    "same class": Exclusion(OWN, ROW_CLASSES, COLUMN_CLASSES, same_class=True),
}


def reference(q, k, counts):
    """Rows' log-sum-exp, and the gradients of its product with UPSTREAM, number by number."""
    values, dq, dk = np.zeros(len(q)), np.zeros_like(q), np.zeros_like(k)
    for i in range(len(q)):
        columns = np.flatnonzero(counts[i])
        if not len(columns):
            continue
        exponentials = np.exp([q[i] @ k[j] for j in columns])
        values[i] = np.log(exponentials.sum())
        for j, e in zip(columns, exponentials, strict=True):
            share = UPSTREAM[i] * e / exponentials.sum()
            dq[i] += share * k[j]
            dk[j] += share * q[i]
    return values, dq, dk


def tiled(q, k, exclusion=None, **learn):
    return tf.reduce_sum(
        tiled_softmax(q, k, exclusion=exclusion, **learn).log_sum_exp
        * tf.constant(UPSTREAM, q.dtype)
    )


@pytest.mark.parametrize("which", COUNTS)
@pytest.mark.parametrize("size", [1, 3, 4, 64])
def test_value_and_gradients_are_those_of_the_loop(small_tiles, value_and_gradients, which, size):
    small_tiles(size)
    values, *gradients = reference(Q, K, COUNTS[which])
    exclusion = EXCLUSIONS[which]
    got = tiled_softmax(tf.constant(Q), tf.constant(K), exclusion=exclusion).log_sum_exp
    np.testing.assert_allclose(got, values, atol=1e-12)
    found = value_and_gradients(lambda q, k: tiled(q, k, exclusion), Q, K)[1:]
    for one, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("compiled", ["graph", "xla"])
@pytest.mark.parametrize("which", ["others", "same class"])
def test_compiled_equals_the_loop_in_float32(small_tiles, value_and_gradients, which, compiled):
    values, *gradients = reference(Q, K, COUNTS[which])
    value, *found = value_and_gradients(
        lambda q, k: tiled(q, k, EXCLUSIONS[which]), Q, K, dtype="float32", compiled=compiled
    )
    assert value.dtype == np.float32
    assert value == pytest.approx(values @ UPSTREAM, abs=1e-5)
    for one, other in zip(found, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_best_and_own_logits(small_tiles):
    softmax = tiled_softmax(tf.constant(Q), tf.constant(K), exclusion=EXCLUSIONS["others"])
    logits = Q @ K.T
    np.testing.assert_allclose(softmax.own, logits[np.arange(N), OWN], atol=1e-12)
    best = np.where(COUNTS["others"], logits, -np.inf).max(axis=1)
    np.testing.assert_allclose(softmax.best, best, atol=1e-12)
    with tf.GradientTape(persistent=True) as tape:
        q = tf.constant(Q)
        tape.watch(q)
        softmax = tiled_softmax(q, tf.constant(K), exclusion=EXCLUSIONS["others"])
    assert tape.gradient(softmax.own, q) is None
    assert tape.gradient(softmax.best, q) is None


def test_a_row_without_columns_gives_zero_and_no_gradient(small_tiles, value_and_gradients):
    assert not COUNTS["same class"][5].any()
    softmax = tiled_softmax(tf.constant(Q), tf.constant(K), exclusion=EXCLUSIONS["same class"])
    assert softmax.log_sum_exp[5] == 0
    _, dq, _ = value_and_gradients(lambda q, k: tiled(q, k, EXCLUSIONS["same class"]), Q, K)
    assert (dq[5] == 0).all()


@pytest.mark.parametrize("learner", ["queries", "keys"])
def test_only_the_side_that_learns_gets_a_gradient(small_tiles, value_and_gradients, learner):
    learn = {"queries_learn": learner == "queries", "keys_learn": learner == "keys"}
    _, *expected = reference(Q, K, COUNTS["all"])
    _, *found = value_and_gradients(lambda q, k: tiled(q, k, **learn), Q, K, compiled="graph")
    place = ["queries", "keys"].index(learner)
    np.testing.assert_allclose(found[place], expected[place], atol=1e-12)
    assert found[1 - place] is None


def test_large_logits_neither_overflow_nor_vanish(small_tiles):
    q, k = tf.constant([[1000.0, 0.0]]), tf.constant([[1.0, 0.0]] + [[0.0, 1.0]] * 5)
    out = tiled_softmax(q, k, exclusion=Exclusion(own=tf.constant([0]))).log_sum_exp
    np.testing.assert_allclose(out, np.log(5), rtol=1e-6)
    np.testing.assert_allclose(tiled_softmax(q, k).log_sum_exp, 1000)
    np.testing.assert_allclose(tiled_softmax(-q, k[::-1]).log_sum_exp, np.log(5), rtol=1e-6)


def elements(graph):
    """The largest number of elements of any tensor in a graph and its functions."""
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    shapes = [s for node in nodes for s in node.attr["_output_shapes"].list.shape]
    known = [s for s in shapes if not s.unknown_rank]
    assert len(known) > 100
    return max(np.prod([d.size for d in s.dim], dtype=np.int64) for s in known)


def test_no_tensor_of_the_graph_grows_with_the_number_of_logits():
    rows = tf.TensorSpec([2**16, 32])

    def step(q, k):
        with tf.GradientTape() as tape:
            tape.watch([q, k])
            total = tf.reduce_sum(tiled_softmax(q, k).log_sum_exp)
        return tape.gradient(total, [q, k])

    graph = tf.function(step).get_concrete_function(rows, rows).graph
    assert elements(graph) == 2**16 * 32  # the rows themselves


def test_in_tiles_from_the_threshold_on():
    few = module.TILED_LOGITS // 1024
    assert in_tiles(tf.zeros([1024, 1]), tf.zeros([few, 1]))
    assert not in_tiles(tf.zeros([1024, 1]), tf.zeros([few - 1, 1]))

    @tf.function(input_signature=[tf.TensorSpec([None, 1])])
    def unknown(rows):
        return tf.constant(in_tiles(rows, rows))

    assert not unknown(tf.zeros([2, 1]))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_join_undoes_split(count):
    rows = tf.reshape(tf.range(2 * count), [count, 2])
    tiles = split(rows, 2)
    assert tiles.shape == [-(-count // 2), 2, 2]
    np.testing.assert_array_equal(join(tiles, count), rows)
