import resource
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfcontrast.train.tensorboard import TensorBoard, contact_sheet


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def scalars(found, name):
    return [(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in found.Tensors(name)]


def drive(board, *, first=0):
    optimizer = types.SimpleNamespace(iterations=first, learning_rate=0.125)
    board.set_model(types.SimpleNamespace(steps_per_execution=1, optimizer=optimizer))
    board.on_train_begin()
    for batch in range(3):
        board.on_train_batch_end(batch, {"loss": tf.constant(float(batch))})
    board.on_epoch_end(0, {"loss": 7.0, "monitor_knn_top1": np.float64(0.5)})
    board.close()


def test_an_epochs_numbers_stand_at_its_last_step(tmp_path):
    drive(TensorBoard(tmp_path), first=10)
    found = events(tmp_path)
    assert scalars(found, "loss") == [(13, 7.0)]
    assert scalars(found, "monitor_knn_top1") == [(13, 0.5)]


def test_points_by_the_step(tmp_path):
    drive(TensorBoard(tmp_path, every=2))
    found = events(tmp_path)
    assert scalars(found, "loss") == [(2, 1.0), (3, 7.0)]
    assert scalars(found, "learning_rate") == [(2, 0.125)]


def test_a_full_disk_costs_points_and_is_told_once(tmp_path, caplog):
    board = TensorBoard(tmp_path)
    (file,) = tmp_path.iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # a write beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, hard))
        for _ in range(3):
            board._write({"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    board.close()
    assert caplog.text.count("TensorBoard's points cannot be written to") == 1


def test_the_picture_of_the_views(tmp_path):
    board = TensorBoard(tmp_path)
    views = tuple(tf.random.stateless_uniform([5, 8, 8, 3], [0, i]) for i in range(2))
    board.write_views(views, most=3)
    board.close()
    (event,) = events(tmp_path).Tensors("views")
    assert event.step == 0
    width, height, png = tf.make_ndarray(event.tensor_proto)
    assert (int(width), int(height)) == (3 * 64, 2 * 64)
    np.testing.assert_array_equal(tf.io.decode_png(png), contact_sheet(views, most=3))


@pytest.mark.parametrize(("size", "side"), [(31, 64), (100, 100)])
def test_the_sheet_has_a_row_a_view_and_a_column_an_image(size, side):
    flat = np.array([[0.0, 0.2, 0.4], [0.6, 0.8, 1.0]], np.float32)
    views = [np.tile(row[:, None, None, None], [1, size, size, 3]) for row in flat]
    sheet = contact_sheet([tf.constant(view) for view in views])
    assert sheet.shape == (2 * side, 3 * side, 3)
    assert sheet.dtype == np.uint8
    for row in range(2):
        for column in range(3):
            cell = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert (cell[1:-1, 1:-1] == int(np.float32(flat[row, column]) * 255)).all()
            for edge in (cell[0], cell[-1], cell[:, 0], cell[:, -1]):
                assert (edge == 255).all()
