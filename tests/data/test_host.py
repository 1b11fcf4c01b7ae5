import numpy as np

from tfcontrast.data import host


def test_resident_rows_are_on_the_host_and_cores_are_counted(toy_source):
    source = toy_source("resident")
    images, labels = host.resident_rows(source)
    np.testing.assert_array_equal(images, source.images)
    np.testing.assert_array_equal(labels, source.labels)
    assert "CPU:0" in images.device
    assert host.cores() >= 1
    assert host.ordered_options().deterministic is True
