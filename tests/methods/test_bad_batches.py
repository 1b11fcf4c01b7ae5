"""A batch that is not finite on one replica: as if its step had not been, on every replica."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses, optim
from tfcontrast.methods import METHODS
from tfcontrast.optim import make_optimizer
from tfcontrast.train import checkpoints, state

OPTIMIZERS = {
    "lars": lambda: make_optimizer("lars", learning_rate=0.02, weight_decay=1e-4, momentum=0.9),
    "sgd": lambda: make_optimizer("sgd", learning_rate=0.01, clip_norm=0.5),
}
COUNTERS = ("bad_steps", "bad_steps_in_a_row")


@pytest.fixture
def train(batches):
    """Trains on batches 0, 1, ...; in those of ``bad`` a pixel of the last image is NaN."""

    def run(method, numbers, bad=()):
        elements = []
        for number in numbers:
            batch = next(iter(batches(method.num_views, seed=number)))
            if number in bad:
                views = [view.numpy() for view in batch["views"]]
                views[0][-1, 0, 0, 0] = np.nan  # the other views are good
                batch["views"] = tuple(tf.constant(view) for view in views)
            elements.append(batch)
        dataset = tf.data.Dataset.from_tensor_slices(
            tf.nest.map_structure(lambda *parts: tf.stack(parts), *elements)
        )
        history = method.fit(
            dataset, epochs=1, steps_per_epoch=len(elements), shuffle=False, verbose=0
        )
        return {name: values[-1] for name, values in history.history.items()}

    return run


def skip_a_step(method):
    for optimizer in (method.optimizer, method.probe_optimizer):
        if optimizer is not None:
            optimizer.iterations.assign_add(1)


def counters(method):
    """Steps, skipped ones and those in a row, of the encoder's optimizer and of the probe's."""
    trained = [o for o in (method.optimizer, method.probe_optimizer) if o is not None]
    counts = [(o.iterations, o.bad_steps, o.bad_steps_in_a_row) for o in trained]
    return [[int(tf.convert_to_tensor(count)) for count in row] for row in counts]


def arrays(method):
    """Every variable on every replica, but for counters and the epoch's metrics."""
    return {
        name: [v.numpy().copy() for v in getattr(variable.value, "values", (variable.value,))]
        for name, variable in state.full_state(method).items()
        if variable.name not in COUNTERS and not name.startswith("metrics/")
    }


# SupCon, SimSiam, VICReg and the classifier keep nothing of a batch by themselves: the optimizers
# alone decide, which SimCLR has on several replicas.
@pytest.mark.parametrize(
    ("name", "optimizer", "replicas"),
    [
        ("deepcluster", "sgd", 2),
        ("deepcluster_v2", "lars", 2),
        ("simclr", "lars", 2),
        ("simclr", "sgd", 4),
        ("supcon", "sgd", 1),
        ("supervised", "lars", 1),
        ("simsiam", "sgd", 1),
        ("barlow_twins", "lars", 2),
        ("vicreg", "sgd", 1),
        ("swav", "sgd", 2),
        ("moco_v3", "sgd", 2),
        ("moco", "sgd", 2),
        ("densecl", "sgd", 1),
        ("dino", "sgd", 1),
        ("byol", "sgd", 1),
        ("nnclr", "sgd", 1),
        ("instdisc", "sgd", 1),
    ],
)
def test_every_replica_skips_the_same_step(
    make_method, train, strategy_of, name, optimizer, replicas
):
    method = make_method(name, optimizer=OPTIMIZERS[optimizer], strategy=strategy_of(replicas))
    start = {key: v.copy() for key, v in state.values(state.full_state(method)).items()}
    logs = train(method, [0, 1, 2], bad=[1])
    found, counts = arrays(method), counters(method)
    # The same one again, since tracing another takes the test's time.
    checkpoints.restore(state.full_state(method), start, source="memory", whole=True)
    first = train(method, [0])
    skip_a_step(method)
    second = train(method, [2])
    expected = arrays(method)
    assert found.keys() == expected.keys()
    for key, copies in found.items():
        assert len(copies) == replicas
        for copy in copies:
            assert np.isfinite(copy).all(), key
            np.testing.assert_array_equal(copy, expected[key][0], err_msg=key)
    assert logs == pytest.approx({k: (first[k] + second[k]) / 2 for k in first}, rel=1e-6)
    assert counts == [[3, 1, 0]] * (1 if method.probe is None else 2)


def test_an_epoch_of_bad_steps_has_no_loss(make_method, train):
    method = make_method("simclr", classes=0, optimizer=OPTIMIZERS["sgd"])
    before = arrays(method)
    assert np.isnan(train(method, [0, 1], bad=[0, 1])["loss"])
    after = arrays(method)
    changed = [k for k in before if not np.array_equal(before[k], after[k])]
    assert changed == ["optimizer/0000"]  # the step
    assert np.isfinite(train(method, [2])["loss"])


@pytest.mark.parametrize("compiled", [{"run_eagerly": True}, {}, {"jit_compile": True}])
def test_the_probes_adam_is_kerass_bit_for_bit(
    make_method, train, monkeypatch, dense_backbone, compiled
):
    options = {"compile": compiled, "optimizer": OPTIMIZERS["lars"], "backbone": dense_backbone}
    ours = make_method("simclr", **options)
    monkeypatch.setattr("tfcontrast.methods.base.Adam", keras.optimizers.Adam)
    theirs = make_method("simclr", **options)
    assert isinstance(ours.probe_optimizer, optim.Adam)
    assert not isinstance(theirs.probe_optimizer, optim.SummedOptimizer)
    train(ours, [0, 1, 2]), train(theirs, [0, 1, 2])
    for one, other in zip(ours.probe.variables, theirs.probe.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(ours.probe.kernel)


def collapsed(name, batch_size, config):
    """The method's loss when all embeddings, or all logits of an image, are the same."""
    labels = tf.range(batch_size, dtype=tf.int64) % 4
    if name == "supervised":
        return losses.cross_entropy(
            tf.ones([batch_size, 4]), labels, label_smoothing=config.label_smoothing
        )
    method = METHODS[name](keras.Model(), config)
    outputs = {
        "features": tf.ones([2 * batch_size, 6]), "embeddings": tf.ones([2 * batch_size, 3])
    }  # fmt: skip
    return method.compute_losses(outputs, {"label": labels})["loss"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr", {}),
        ("simclr", {"loss_scale": 2.0, "temperature": 0.5}),
        ("supcon", {}),
        ("supcon", {"supcon_variant": "in"}),
        ("supcon", {"loss_temperature_scale": "base"}),
        ("supcon", {"loss_temperature_scale": "temperature", "temperature": 0.3}),
        ("supervised", {}),
        ("supervised", {"label_smoothing": 0.1}),
        ("barlow_twins", {"proj_hidden_dim": 3, "proj_out_dim": 3}),
        ("barlow_twins", {"proj_hidden_dim": 3, "proj_out_dim": 3, "loss_scale": 0.1}),
        ("vicreg", {"proj_hidden_dim": 3, "proj_out_dim": 3}),
        ("vicreg", {"proj_hidden_dim": 3, "proj_out_dim": 3, "variance_halves": False}),
    ],
)
def test_the_stuck_loss_is_that_of_a_collapsed_encoder(make_method, name, options):
    config = METHODS[name].Config(**options)
    stuck = make_method(name, config=config).stuck_loss(12)
    assert stuck == pytest.approx(float(collapsed(name, 12, config)), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclr", {"contrastive_loss": "nt_logistic"}),
        ("supcon", {"denominator": "one_positive"}),
        ("supcon", {"positives_cap": 1}),
        ("simsiam", {"proj_hidden_dim": 3, "proj_out_dim": 3}),  # its best value and a collapse's
    ],
)
def test_no_stuck_loss_where_the_batch_decides_it(make_method, name, options):
    method = make_method(name, config=METHODS[name].Config(**options))
    assert method.stuck_loss(12) is None
