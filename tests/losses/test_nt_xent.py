import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import nt_xent


def loop_nt_xent(z1, z2, t):
    """Equation 1 of arXiv:2002.05709, anchor by anchor."""
    z = [v / np.linalg.norm(v) for v in np.concatenate([z1, z2])]
    n, losses = len(z1), []
    for i in range(2 * n):
        total = sum(np.exp(z[i] @ z[k] / t) for k in range(2 * n) if k != i)
        losses.append(-np.log(np.exp(z[i] @ z[(i + n) % (2 * n)] / t) / total))
    return np.mean(losses)


@pytest.mark.parametrize(("temperature", "value"), [(0.5, 1.2517735549), (0.1, 0.8828174464)])
def test_golden_values(golden_views, temperature, value):
    z1, z2, _ = golden_views
    assert float(nt_xent(z1, z2, temperature=temperature)) == pytest.approx(value, abs=1e-9)
    single = nt_xent(z1.astype(np.float32), z2.astype(np.float32), temperature=temperature)
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("b", [1, 2, 5])
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
def test_equals_the_papers_formula(random_views, b, d, temperature):
    z1, z2 = random_views(b, d)
    value = float(nt_xent(z1, z2, temperature=temperature))
    assert value == pytest.approx(loop_nt_xent(z1, z2, temperature), abs=1e-10)


@pytest.mark.parametrize("b", [1, 2, 7])
def test_collapsed_embeddings_give_log_of_the_candidates(b):
    z = tf.ones([b, 4])
    assert float(nt_xent(z, z, temperature=0.1)) == pytest.approx(np.log(2 * b - 1), abs=1e-6)


def test_orthogonal_images_with_equal_views():
    z = tf.eye(6)
    expected = np.log(1 + 10 * np.exp(-1 / 0.3))
    assert float(nt_xent(z, z, temperature=0.3)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 0.5])
def test_random_directions(temperature):
    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 512, 128))
    expected = np.log(1023) + 1 / (2 * 128 * temperature**2)
    assert float(nt_xent(z1, z2, temperature=temperature)) == pytest.approx(expected, abs=0.03)


def test_order_of_images_views_and_length_do_not_matter(random_views):
    z1, z2 = random_views(6, 8)
    value = float(nt_xent(z1, z2))
    order = np.random.default_rng(3).permutation(6)
    scales = np.random.default_rng(4).uniform(0.1, 10, size=(6, 1))
    assert float(nt_xent(z1[order], z2[order])) == pytest.approx(value, abs=1e-10)
    assert float(nt_xent(z2, z1)) == pytest.approx(value, abs=1e-10)
    assert float(nt_xent(z1 * scales, z2)) == pytest.approx(value, abs=1e-10)
    assert float(nt_xent(z1, z2[order])) > value  # which views belong together does matter


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole_in_value_and_gradient(random_views, shards):
    z1, z2 = (tf.constant(z) for z in random_views(8, 5))
    size = 8 // shards

    def whole(a, b):
        return nt_xent(a, b, temperature=0.3)

    def sharded(a, b):
        blocks = [slice(s * size, (s + 1) * size) for s in range(shards)]
        losses = [
            nt_xent(a[r], b[r], temperature=0.3, candidates=(a, b), first_row=r.start)
            for r in blocks
        ]
        return tf.add_n(losses) / shards

    results = []
    for loss in (whole, sharded):
        with tf.GradientTape() as tape:
            tape.watch([z1, z2])
            value = loss(z1, z2)
        results.append([value, *tape.gradient(value, [z1, z2])])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradient_is_that_of_finite_differences(random_views, check_gradient, temperature):
    check_gradient(lambda a, b: nt_xent(a, b, temperature=temperature), *random_views(4, 5))


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_equals_eager(random_views, jit):
    z1, z2 = (tf.constant(z, tf.float32) for z in random_views(8, 16))
    compiled = tf.function(lambda a, b: nt_xent(a, b), jit_compile=jit)
    assert float(compiled(z1, z2)) == pytest.approx(float(nt_xent(z1, z2)), rel=1e-5)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision_rows_are_computed_in_float32(random_views, dtype):
    z1, z2 = (tf.constant(z, tf.float32) for z in random_views(8, 16))
    half = nt_xent(tf.cast(z1, dtype), tf.cast(z2, dtype), temperature=0.5)
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(nt_xent(z1, z2, temperature=0.5)), abs=1e-2)


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("case", ["one image", "zeros", "one zero", "duplicates", "views", "huge"])
def test_finite_at_the_edges(random_views, assert_finite, case, temperature):
    z1, z2 = random_views(1 if case == "one image" else 4, 6)
    if case == "zeros":
        z1, z2 = z1 * 0, z2 * 0
    if case == "one zero":
        z1[1] = 0
    if case == "duplicates":
        z1[1], z2[1], z1[2] = z1[0], z2[0], z2[0]
    if case == "views":
        z2 = z1
    if case == "huge":
        z1 = z1 * 1e15
    value, gradients = assert_finite(
        lambda a, b: nt_xent(a, b, temperature=temperature), z1, z2, jit=temperature < 0.01
    )
    if case == "one image":
        assert value == 0
        assert all((g == 0).all() for g in gradients)
    if case == "one zero":
        assert (gradients[0][1] == 0).all()


def test_a_small_temperature_still_sees_the_negatives():
    # all cosines are 0, so log(2B - 1); shifted by the self term, exp(-1000) would be 0
    z = np.eye(8, dtype=np.float32)
    value = float(nt_xent(z[:4], z[4:], temperature=1e-3))
    assert value == pytest.approx(np.log(7), abs=1e-5)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
def test_a_temperature_not_above_zero_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature must be above 0. Received: "):
        nt_xent(tf.ones([2, 3]), tf.ones([2, 3]), temperature=temperature)


def test_first_row_without_candidates_is_refused():
    with pytest.raises(ValueError, match=r"first_row needs candidates. Received: "):
        nt_xent(tf.ones([2, 3]), tf.ones([2, 3]), first_row=2)


def test_replicas_with_gathered_candidates_give_the_value_of_one(strategy_of):
    from tfcontrast import distribute

    rng = np.random.default_rng(0)
    z1, z2 = rng.normal(size=(2, 8, 6)).astype(np.float32)
    strategy = strategy_of(4)

    def local(context):
        block = slice(2 * context.replica_id_in_sync_group, None)
        return z1[block][:2], z2[block][:2]

    @tf.function
    def step(a, b):
        def replica(a, b):
            pool = (distribute.gather(a), distribute.gather(b))
            return nt_xent(a, b, candidates=pool, first_row=distribute.first_row(a))

        return strategy.reduce("MEAN", strategy.run(replica, args=(a, b)), axis=None)

    a = strategy.experimental_distribute_values_from_function(lambda c: local(c)[0])
    b = strategy.experimental_distribute_values_from_function(lambda c: local(c)[1])
    assert float(step(a, b)) == pytest.approx(float(nt_xent(z1, z2)), rel=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("b", [2, 5, 8])
def test_in_tiles_value_and_gradients_are_those_of_the_dense_form(
    random_views, small_tiles, value_and_gradients, monkeypatch, b, temperature
):
    def loss(a, b):
        return nt_xent(a, b, temperature=temperature)

    views = random_views(b, 6)
    tiled = value_and_gradients(loss, *views)
    monkeypatch.undo()
    for one, other in zip(tiled, value_and_gradients(loss, *views), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_in_tiles_compiled_float32_equals_the_papers_formula(
    random_views, small_tiles, value_and_gradients, monkeypatch, compiled
):
    views = random_views(9, 16)
    value, *gradients = value_and_gradients(nt_xent, *views, dtype="float32", compiled=compiled)
    assert value == pytest.approx(loop_nt_xent(*views, 0.1), abs=1e-5)
    monkeypatch.undo()
    _, *expected = value_and_gradients(nt_xent, *views)
    for one, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("shards", [2, 4])
def test_in_tiles_shards_average_to_the_whole(random_views, small_tiles, shards):
    test_shards_average_to_the_whole_in_value_and_gradient(random_views, shards)


def test_from_the_threshold_on_it_works_in_tiles(random_views, value_and_gradients, monkeypatch):
    from tfcontrast.losses import tiled_softmax

    views = random_views(1024, 8)
    results = []
    for threshold in (2**22, 2**22 + 1):
        monkeypatch.setattr(tiled_softmax, "TILED_LOGITS", threshold)
        results.append(value_and_gradients(nt_xent, *views, dtype="float32", compiled="graph"))
    for tiled, dense in zip(*results, strict=True):
        np.testing.assert_allclose(tiled, dense, atol=1e-5)
    assert (results[0][1] != results[1][1]).any()  # two forms, whose gradients round differently
