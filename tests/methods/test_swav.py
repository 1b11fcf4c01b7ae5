import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.config import check_options
from tfcontrast.errors import UserError
from tfcontrast.methods import Plan, SwAV, SwAVConfig
from tfcontrast.optim import make_optimizer

PLAN = Plan(batch_size=4, num_examples=40, steps_per_epoch=3, total_steps=30, seed=5)
TINY = {
    "num_local_views": 0, "proj_hidden_dim": 8, "proj_out_dim": 5, "num_prototypes": 6,
    "freeze_prototypes_steps": 0,
}  # fmt: skip


def unit(rows, axis=-1):
    return rows / np.linalg.norm(rows, axis=axis, keepdims=True)


def tiny(tiny_backbone, *, plan=PLAN, **options):
    method = SwAV(tiny_backbone(), SwAVConfig(**{**TINY, **options}), plan=plan)
    method.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9), jit_compile=False)
    method.prepare(8)
    return method


def made_up(rng, *, views=2, size=4, dim=5, prototypes=None, count=6):
    """Outputs of ``call`` with random embeddings."""
    embeddings = unit(rng.normal(size=(views * size, dim)))
    prototypes = unit(rng.normal(size=(dim, count)), 0) if prototypes is None else prototypes
    scores = (embeddings @ prototypes).reshape(views, size, -1)
    named = {"features": embeddings, "embeddings": embeddings, "scores": scores}
    tensors = {name: tf.constant(value, tf.float32) for name, value in named.items()}
    return {**tensors, "step": tf.constant(0, tf.int64), "taken": tf.constant(True)}


def plain_codes(scores, *, epsilon=0.05, iterations=3, keep=None):
    """Sinkhorn as the authors write it, in float64; the codes of the last rows."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    count, samples = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * count
        q /= q.sum(axis=0, keepdims=True) * samples
    return (q * samples).T[-(keep or samples) :]


def plain_loss(scores, codes, temperature=0.1):
    """Equation 2 over all crops, in loops."""
    terms = []
    for i, code in enumerate(codes):
        for v, rows in enumerate(np.asarray(scores, np.float64)):
            if v != i:
                logits = rows / temperature
                logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
                terms.append(-np.mean(np.sum(code * logs, axis=1)))
    return np.mean(terms)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_golden_loss(tiny_backbone):
    i, j, k = np.arange(4)[:, None], np.arange(6)[None], np.arange(3)[:, None]
    z1 = unit(np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j))
    z2 = unit(np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j))
    prototypes = unit(np.cos(0.2 + 0.6 * k + 0.9 * j))
    scores = tf.constant(np.stack([z1, z2]) @ prototypes.T, tf.float32)
    rows = tf.constant(np.concatenate([z1, z2]), tf.float32)
    outputs = {"features": rows, "embeddings": rows, "scores": scores, "step": tf.constant(0)}
    method = SwAV(tiny_backbone(), SwAVConfig(num_prototypes=3))
    found = method.compute_losses(outputs, {})
    assert tuple(found) == SwAV.metric_names
    assert float(found["loss"]) == pytest.approx(1.0017409947, abs=1e-6)
    codes = np.concatenate([plain_codes(scores[0]), plain_codes(scores[1])])
    entropy = -np.mean(np.sum(codes * np.log(codes), axis=1))
    assert float(found["code_entropy"]) == pytest.approx(entropy, abs=1e-5)
    assert float(found["queue_age"]) == 0


@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_is_the_papers_over_all_crops(tiny_backbone, rng, views):
    method = tiny(tiny_backbone, temperature=0.2, epsilon=0.1, sinkhorn_iterations=5)
    outputs = made_up(rng, views=views)
    found = method.compute_losses(outputs, {})
    scores = outputs["scores"].numpy()
    codes = [plain_codes(rows, epsilon=0.1, iterations=5) for rows in scores[:2]]
    assert float(found["loss"]) == pytest.approx(plain_loss(scores, codes, 0.2), rel=1e-5)
    swapped = {**outputs, "scores": tf.constant(scores[[1, 0, *range(2, views)]])}
    assert float(method.compute_losses(swapped, {})["loss"]) == pytest.approx(
        float(found["loss"]), rel=1e-6
    )


def test_the_gradient_reaches_every_crop_and_no_code(tiny_backbone, rng):
    method = tiny(tiny_backbone)
    outputs = made_up(rng, views=3)
    scores = outputs["scores"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(scores)
        found = method.compute_losses({**outputs, "scores": scores}, {})
        codes = method.codes(scores[0], 0, outputs["step"])
    assert tape.gradient(codes, scores) is None
    for name in method.metric_names[1:]:
        assert tape.gradient(found[name], scores) is None
    # Of the cross entropy with constant codes: (softmax - code) / t, in the mean of 2 (V - 1) B.
    codes = [plain_codes(rows) for rows in scores.numpy()[:2]]
    expected = np.zeros(scores.shape)
    for i in range(2):
        for v in range(3):
            if v != i:
                expected[v] += tf.nn.softmax(scores[v] / 0.1).numpy() - codes[i]
    np.testing.assert_allclose(tape.gradient(found["loss"], scores), expected / 0.1 / 16, atol=1e-5)


def test_encoder_and_prototypes_get_a_gradient_from_every_crop(tiny_backbone, rng):
    method = tiny(tiny_backbone)
    views = [tf.constant(rng.random([4, s, s, 3]), tf.float32) for s in (8, 8, 4)]
    with tf.GradientTape(persistent=True) as tape:
        outputs = {**method(views, training=True), "step": tf.constant(0)}
        assert outputs["scores"].shape == (3, 4, 6)
        loss = method.compute_losses(outputs, {})["loss"]
    for variable in method.encoder_variables:
        assert np.any(tape.gradient(loss, variable)), variable.path
    assert np.all(np.abs(tape.gradient(loss, outputs["scores"])).max(axis=(1, 2)) > 0)


def test_prototypes_have_length_one_between_steps(tiny_backbone, batches, fit):
    method = tiny(tiny_backbone, plan=PLAN)
    np.testing.assert_allclose(np.linalg.norm(method.prototypes.kernel, axis=0), 1, atol=1e-6)
    before = method.prototypes.kernel.numpy().copy()
    fit(method, 3)
    after = method.prototypes.kernel.numpy()
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(after, axis=0), 1, atol=1e-6)


def test_the_first_steps_leave_the_prototypes_alone(tiny_backbone, fit):
    method = SwAV(tiny_backbone(), SwAVConfig(**{**TINY, "freeze_prototypes_steps": 2}))
    method.compile(
        optimizer=make_optimizer("lars", learning_rate=0.5, lars_variant="larc"),
        jit_compile=False,
    )
    method.prepare(8)
    start = method.prototypes.kernel.numpy().copy()
    dense = method.projector.dense_layers[0].kernel
    first = dense.numpy().copy()
    fit(method, 2)
    np.testing.assert_allclose(method.prototypes.kernel, start, atol=1e-6)
    assert np.abs(dense.numpy() - first).max() > 1e-5
    fit(method, 1)
    assert np.abs(method.prototypes.kernel.numpy() - start).max() > 1e-5


def test_a_skipped_step_leaves_no_trace(tiny_backbone, rng):
    method = tiny(tiny_backbone, queue_size=8)
    method.prototypes.kernel.assign(3 * tf.convert_to_tensor(method.prototypes.kernel))
    outputs = made_up(rng)
    bad = {**outputs, "embeddings": outputs["embeddings"] * float("nan")}
    before = [v.numpy().copy() for v in method.variables]
    method.after_update({**bad, "taken": tf.constant(False)}, {})
    for variable, value in zip(method.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)
    method.after_update(outputs, {})
    np.testing.assert_allclose(np.linalg.norm(method.prototypes.kernel, axis=0), 1, atol=1e-6)


def test_each_queue_takes_the_embeddings_of_its_view(tiny_backbone, rng):
    method = tiny(tiny_backbone, queue_size=11)  # two batches of 4 fit
    assert [queue.size for queue in method.queues] == [8, 8]
    pushed = [made_up(rng, views=3) for _ in range(3)]
    for step, outputs in enumerate(pushed):
        assert bool(method.queues[0].is_full()) == (step >= 2)
        method.after_update(outputs, {})
    rows = [outputs["embeddings"].numpy() for outputs in pushed]
    for view, queue in enumerate(method.queues):
        mine = slice(4 * view, 4 * view + 4)
        # The third batch lies over the first.
        expected = np.concatenate([rows[2][mine], rows[1][mine]])
        np.testing.assert_array_equal(queue.read(), expected)
    assert float(method.compute_losses(pushed[0], {})["queue_age"]) == 0.5


def test_a_full_queue_stands_before_the_batch_from_its_epoch_on(tiny_backbone, rng):
    method = tiny(tiny_backbone, queue_size=8, queue_start_epoch=2)
    kernel = method.prototypes.kernel.numpy()
    outputs = made_up(rng, prototypes=kernel)
    scores = outputs["scores"].numpy()

    def codes(step):
        return [method.codes(outputs["scores"][view], view, step) for view in (0, 1)]

    alone = [plain_codes(rows) for rows in scores]
    for pushes in range(3):
        for step in (5, 6):  # epochs 1 and 2
            if (pushes, step) == (2, 6):
                continue
            for found, expected in zip(codes(step), alone, strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-5)
        if pushes < 2:
            method.after_update({**made_up(rng), "taken": tf.constant(False)}, {})
    joined = [
        plain_codes(np.concatenate([queue.read() @ kernel, rows]), keep=4)
        for queue, rows in zip(method.queues, scores, strict=True)
    ]
    assert np.abs(joined[0] - alone[0]).max() > 0.01
    for found, expected in zip(codes(6), joined, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    loss = method.compute_losses({**outputs, "step": tf.constant(6)}, {})["loss"]
    assert float(loss) == pytest.approx(plain_loss(scores, joined), rel=1e-5)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_share_the_queue_out(tiny_backbone, rng, strategy_of, replicas):
    batch = made_up(rng)
    past = [made_up(rng) for _ in range(2)]

    def found(strategy):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            method = tiny(tiny_backbone, queue_size=8, queue_start_epoch=0)
        for outputs in past:
            for view, queue in enumerate(method.queues):
                queue.push(outputs["embeddings"][4 * view : 4 * view + 4])
        share = 4 // strategy.num_replicas_in_sync

        def step():
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group * share
            rows = tf.slice(batch["scores"][1], [first, 0], [share, 6])
            return method.codes(rows, 1, tf.constant(0, tf.int64))

        codes = strategy.run(tf.function(step))
        return np.concatenate(strategy.experimental_local_results(codes))

    np.testing.assert_allclose(found(strategy_of(replicas)), found(strategy_of(1)), atol=1e-6)


def test_constant_scores_give_the_stuck_loss(tiny_backbone, rng):
    method = tiny(tiny_backbone)
    outputs = {**made_up(rng), "scores": tf.fill([2, 4, 6], 0.3)}
    found = method.compute_losses(outputs, {})
    assert method.stuck_loss(4) == pytest.approx(math.log(6))
    assert float(found["loss"]) == pytest.approx(math.log(6), rel=1e-6)
    assert float(found["code_entropy"]) == pytest.approx(math.log(6), rel=1e-6)
    assert float(found["prototype_use"]) == pytest.approx(1 / 6)


def test_the_defaults_are_the_papers():
    config = SwAVConfig()
    assert (config.num_prototypes, config.proj_hidden_dim, config.proj_out_dim) == (3000, 2048, 128)
    assert (config.temperature, config.epsilon, config.sinkhorn_iterations) == (0.1, 0.05, 3)
    assert (config.queue_size, config.queue_start_epoch) == (0, 15)
    assert (config.freeze_prototypes_steps, config.num_local_views) == (313, 6)
    pretrain = SwAVConfig.DEFAULTS["pretrain"]
    # 4.8 at batch 4096, from 0.3 and to 0.0048.
    peak = pretrain["learning_rate"] * 4096 / 256
    assert peak == pytest.approx(4.8)
    assert peak * pretrain["initial_learning_rate"] == pytest.approx(0.3)
    assert peak * pretrain["final_learning_rate"] == pytest.approx(0.0048)
    assert (pretrain["lars_variant"], pretrain["weight_decay"]) == ("larc", 1e-6)
    assert not SwAV.needs_labels


def test_bad_options(tiny_backbone):
    with pytest.raises(UserError, match=r"--queue_size must be 0 or at least .*=4\. Received: 3"):
        tiny(tiny_backbone, queue_size=3)
    with pytest.raises(ValueError, match=r"queue_size needs plan=Plan.batch_size=.*Received: 0"):
        tiny(tiny_backbone, queue_size=8, plan=Plan())
    with pytest.raises(UserError, match=r"--num_prototypes must be at least 2\. Received: 1"):
        check_options(SwAVConfig(num_prototypes=1))
