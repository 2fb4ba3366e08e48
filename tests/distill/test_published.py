"""The sizes that the paper prints, row by row."""

import pytest

from mixstill.distill.published import PAPER, Published
from mixstill.distill.sizes import size_of


@pytest.mark.parametrize("row", PAPER, ids=lambda row: row.student)
def test_students_have_the_published_size(row: Published) -> None:
    size = size_of(f"std_{row.backbone}")
    assert (size.input_size, size.num_classes, size.modules) == (224, 1000, 2)
    assert size.plain_params / 1e6 == pytest.approx(row.plain_params, abs=0.05)
    assert size.params / 1e6 == pytest.approx(row.params, abs=0.05)
    assert size.plain_macs / 1e9 == pytest.approx(row.plain_macs, abs=0.1)
    assert size.macs / 1e9 == pytest.approx(row.macs, abs=0.1)


def test_the_table_is_the_papers() -> None:
    printed = {row.student: (row.plain_params, row.params, row.plain_macs, row.macs) for row in PAPER}
    assert printed == {
        "Mixer-S16": (18.5, 22.2, 3.8, 4.3),
        "Mixer-B16": (59.9, 66.7, 12.7, 13.7),
        "ResMLP-S24": (30.0, 32.5, 6.0, 6.2),
        "ResMLP-B24/16": (115.7, 122.6, 23.0, 24.1),
        "CycleMLP-B1": (15.2, 18.4, 2.1, 2.2),
        "CycleMLP-B2": (26.8, 30.1, 3.9, 4.0),
    }
