from __future__ import annotations

import pytest
import torch

from samslib.cells import Batch, Condition, Plate


@pytest.fixture
def condition():
    return Condition(
        torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.0, 2.0]]),
        torch.ones(3, 1),
        torch.zeros(3, 0),
        torch.tensor([[1.0], [0.0], [1.0]]),
    )


def test_touched_is_where_the_dose_is_not_zero(condition):
    assert condition.touched(Plate.DOSE).tolist() == [[0, 0], [1, 1], [0, 1]]
    assert condition.touched(Plate.QC).tolist() == [[1], [0], [1]]
    with pytest.raises(ValueError, match="CELL"):
        condition.touched(Plate.CELL)


def test_do_sets_what_is_named_and_nothing_else(condition):
    changed = condition.do(dose=torch.tensor([[0.0, 1.0]]))
    assert changed.dose.tolist() == [[0, 1]] * 3
    assert changed.library is condition.library and condition.dose[0, 1] == 0
    with pytest.raises(ValueError, match="dosage.*dose"):
        condition.do(dosage=torch.zeros(1, 2))


def test_rows_and_types_go_through_every_tensor(condition):
    b = Batch(torch.arange(6.0).reshape(3, 2), condition)
    part = b[torch.tensor([2, 0])].to(torch.float64)
    assert part.x.tolist() == [[4, 5], [0, 1]] and part.x.dtype == torch.float64
    assert part.condition.dose.tolist() == [[0, 2], [0, 0]] and part.condition.qc.dtype == torch.float64
    assert part.twin is None and len(part) == 2
