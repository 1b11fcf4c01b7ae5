import math
import types

import pytest

from tfcontrast.train.health import Health

STUCK = math.log(2 * 64 - 1)


@pytest.fixture
def said(caplog):
    """Drives the callback through epochs of these numbers; returns what it says by epoch."""

    def run(epochs, *, stuck=STUCK, **options):
        caplog.clear()
        health = Health(**{"batch_size": 64, "held_out": 2000, **options})
        health.set_model(
            types.SimpleNamespace(
                backbone=types.SimpleNamespace(feature_dim=100),
                stuck_loss=lambda batch_size: stuck if batch_size == 64 else None,
            )
        )
        words = {}
        for epoch, logs in enumerate(epochs):
            before = len(caplog.messages)
            health.on_epoch_end(epoch, {"loss": 1.0, **logs})
            if caplog.messages[before:]:
                words[epoch + 1] = caplog.messages[before:]
        return words

    return run


def test_collapsed_features_are_told_once(said):
    words = said([{"feature_std": value} for value in (0.05, 0.0051, 0.0049, 0.0, 0.05, 0.0)])
    assert list(words) == [3]
    (text,) = words[3]
    for part in ("after epoch 3", "feature_std is 0.0049", "have 0.1", "collapse", "Try a lower"):
        assert part in text
    assert "\n" not in text


def test_nothing_is_said_of_a_healthy_run_or_of_numbers_that_are_not_there(said):
    assert not said([{"loss": 4.0 - epoch / 9, "feature_std": 0.04} for epoch in range(9)])
    assert not said([{}] * 5)
    assert not said([{"loss": float("nan"), "feature_std": float("nan")}] * 5)


@pytest.mark.parametrize("offset", [-0.04, 0.0, 0.04])
def test_a_loss_that_stands_at_the_collapsed_value(said, offset):
    words = said([{"loss": STUCK + offset}] * 6)
    assert list(words) == [3]
    assert f"near {STUCK:.4g} for 3 epochs" in words[3][0]
    assert "learns nothing. Try another --learning_rate" in words[3][0]


def test_a_loss_that_leaves_the_value_is_not_stuck(said):
    near, away = {"loss": STUCK}, {"loss": STUCK - 0.06}
    assert not said([near, near, away] * 3)
    assert not said([near] * 5, stuck=None)
    assert list(said([near, near, away, near, near, near])) == [6]


def test_the_warm_up_is_not_judged(said):
    bad = {"loss": STUCK, "feature_std": 0.0}
    assert {epoch: len(texts) for epoch, texts in said([bad] * 9, warmup_epochs=4.5).items()} == {
        5: 1,  # collapsed
        7: 1,  # stuck, three epochs later
    }


def measured(pretext, knn):
    """Epochs of which every other one has a measurement."""
    for accuracy, neighbours in zip(pretext, knn, strict=True):
        yield {"contrastive_accuracy": accuracy, "monitor_knn_top1": neighbours}
        yield {"contrastive_accuracy": accuracy}


def test_a_pretext_task_that_is_learned_alone(said):
    words = said(list(measured([0.5, 0.6, 0.7, 0.8], [0.4, 0.42, 0.38, 0.33])))
    assert list(words) == [7]
    (text,) = words[7]
    assert "risen (60.0, 70.0, 80.0 %)" in text
    assert "fallen (42.0, 38.0, 33.0 %)" in text
    assert "shortcut" in text
    assert "--augmentation" in text


@pytest.mark.parametrize(
    ("pretext", "knn", "held_out"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.38, 0.39], 2000),  # the kNN recovers
        ([0.5, 0.4, 0.7], [0.4, 0.38, 0.33], 2000),  # the pretext task falls too
        ([0.5, 0.6, 0.7], [0.4, 0.398, 0.391], 10**6),  # less than a point
        ([0.5, 0.6, 0.7], [0.4, 0.38, 0.33], 100),  # within the luck of 100 images
    ],
)
def test_other_courses_are_no_shortcut(said, pretext, knn, held_out):
    assert not said(list(measured(pretext, knn)), held_out=held_out)
