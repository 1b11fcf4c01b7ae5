"""The calls of ``fit`` into which a run is cut."""

import pytest

from tfcontrast.train import epochs


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("per_epoch", [1, 3, 5])
def test_segments_cover_every_step_once(per_epoch, alone):
    for last in range(12):
        for start in range(last + 1):
            step, steps = start, []
            while step < last:
                epoch, until, length = epochs.segment(step, last, per_epoch, alone=alone)
                assert epoch == step // per_epoch
                assert until == epoch + 1 or (length == per_epoch and not alone)
                for number in range(epoch, until):
                    begin = step if number == epoch else number * per_epoch
                    assert begin // per_epoch == number == (begin + length - 1) // per_epoch
                    steps += range(begin, begin + length)
                step += (until - epoch) * length
            assert steps == list(range(start, last))
