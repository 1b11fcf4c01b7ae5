import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import evaluate
from tfcontrast.train import build, measure


@pytest.fixture(scope="module")
def run(tiny_config):
    config = tiny_config(train_split="train", train_batch_size=256, eval_batch_size=500)
    return config, build.open_data(config)


def pixel_rows(source):
    return source.images.reshape(source.num_examples, -1) / np.float32(255)


def embed_pixels(images):
    return tf.reshape(images, [-1, 192])


def test_every_number_has_its_protocol_and_its_baselines(run, monkeypatch):
    config, data = run
    monkeypatch.setattr(measure, "_untrained", lambda *_: lambda x: tf.reduce_mean(x, [1, 2]))
    records, text = measure.measure_encoders(config, data, data.evaluation, embed_pixels, "mine")
    assert [(r["encoder"], r["metric"]) for r in records] == [
        (encoder, metric)
        for encoder in ("mine", "untrained network", "raw pixels")
        for metric in ("knn_top1", "knn_top5", "linear_top1")
    ]
    by_name = {(r["encoder"], r["metric"]): r for r in records}
    for record in records:
        assert (record["split"], record["count"], record["seed"]) == ("test", 359, 0)
        assert 0 <= record["value"] <= 1
    pixels = by_name["raw pixels", "knn_top1"]
    expected = evaluate.knn_accuracy(
        pixel_rows(data.whole_train),
        data.whole_train.labels,
        pixel_rows(data.evaluation),
        data.evaluation.labels,
        num_classes=10,
        k=5,
        temperature=0.1,
    )
    assert pixels["value"] == pytest.approx(expected["knn_top1"], abs=0.003)
    assert pixels["value"] > 0.97
    assert pixels["protocol"] == (
        "weighted kNN, k=5, T=0.1, on features, bank: 1438 training images"
    )
    # the same features have the same numbers, under any name
    for metric in ("knn_top1", "knn_top5", "linear_top1"):
        assert by_name["mine", metric]["value"] == by_name["raw pixels", metric]["value"]
    assert by_name["raw pixels", "linear_top1"]["value"] > 0.94
    assert by_name["untrained network", "knn_top1"]["value"] < 0.5  # mean grey says little
    lines = text.splitlines()
    assert lines[0].split() == ["kNN", "top-1", "kNN", "top-5", "probe", "top-1"]
    assert lines[4].split()[:3] == ["raw", "pixels", f"{100 * pixels['value']:.1f}"]


def test_baselines_are_an_option(run, tiny_config):
    config = tiny_config(eval_baselines=False, train_split="test")
    data = build.open_data(config)
    records, text = measure.measure_encoders(config, data, data.evaluation, embed_pixels, "mine")
    assert {record["encoder"] for record in records} == {"mine"}
    assert len(text.splitlines()) == 3


def test_large_images_are_compared_at_32_pixels():
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
    found = measure._pixels(64)(images)
    expected = tf.image.resize(images, [32, 32], antialias=True)
    np.testing.assert_allclose(found, tf.reshape(expected, [2, -1]), rtol=1e-6)
    small = images[:, :16, :16]
    np.testing.assert_array_equal(measure._pixels(16)(small), tf.reshape(small, [2, -1]))


def test_the_untrained_network_is_the_runs_start_with_real_statistics(run, build_run, strategy_of):
    config, data = run
    start, _ = build_run(config, strategy_of(1))
    embed = measure._untrained(config, data)
    images = tf.constant(pixel_rows(data.evaluation).reshape(-1, 8, 8, 3)[:64])
    found = embed(images).numpy()
    # as if the batch norms took the statistics of this batch, which resembles the training images
    with_batch = start.backbone(images, training=True).numpy()
    with_start = start.embed(images).numpy()
    assert np.corrcoef(found.ravel(), with_batch.ravel())[0, 1] > 0.9
    assert np.abs(found - with_batch).mean() < 0.5 * np.abs(with_start - with_batch).mean()


def test_the_untrained_network_takes_whole_batches(run):
    config, data = run
    model = dataclasses.replace(config.model, batch_norm_splits=7)  # does not divide 500
    images = tf.constant(pixel_rows(data.evaluation).reshape(-1, 8, 8, 3)[:16])
    found, expected = (
        measure._untrained(used, data)(images).numpy()
        for used in (dataclasses.replace(config, model=model), config)
    )
    np.testing.assert_array_equal(found, expected)


def test_announcing(capsys):
    measure.announce("title", "table")
    assert capsys.readouterr().out == "\ntitle\ntable\n"
