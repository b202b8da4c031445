from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samslib.cells import Batch, Condition, Plate
from samslib.trace import Trace


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


def test_with_cells_of_each_particle_indexing_still_chooses_cells():
    """Library and covariates of 5 particles with 9 cells each: the cells are on the axis before the last."""
    library, covariate = torch.rand(5, 9, 1), torch.rand(5, 9, 2)
    c = Condition(torch.zeros(9, 4), library, covariate, torch.zeros(9, 0))
    for rows in (slice(0, 3), torch.tensor([8, 0]), torch.arange(9) % 2 == 0):
        part = c[rows]
        assert torch.equal(part.library, library[:, rows]) and torch.equal(part.covariate, covariate[:, rows])
        assert len(part) == len(part.dose) == part.library.shape[1]
    assert torch.equal(c.do(library=library[:, :1]).library, library[:, :1].expand(5, 9, 1))
    assert c.do(dose=torch.ones(1, 4)).dose.shape == (9, 4)
    for wrong in (torch.rand(9), torch.rand(9, 5, 1), torch.rand(5, 1, 1)):
        with pytest.raises(ValueError, match="library has shape .* dose is of 9 cells.*before the last"):
            Condition(torch.zeros(9, 4), wrong, covariate, torch.zeros(9, 0))


def test_models_take_cells_of_each_particle(model, data):
    """Two particles of which each is told the same as in a pass of its own give what the two passes give."""
    c = data.batch().condition
    libraries = torch.stack([c.library, 3 * c.library])
    covariates = torch.stack([c.covariate, c.covariate.flip(0)])
    torch.manual_seed(0)
    t = Trace(2)
    both = model.generate(t, replace(c, library=libraries, covariate=covariates)).mean
    for p in range(2):
        alone = Trace(1, given={name: value[p : p + 1] for name, value in t.values.items()})
        one = replace(c, library=libraries[p], covariate=covariates[p])
        torch.testing.assert_close(model.generate(alone, one).mean[0], both[p])
