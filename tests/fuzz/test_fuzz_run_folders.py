"""Damaged run folders end in an error or in the very result: every kind of damage, twice."""

import pytest

from tests.fuzz import run_folders as fuzz


@pytest.mark.slow
def test_no_damage_goes_unnoticed_and_changes_the_result() -> None:
    found = fuzz.outcomes(2 * len(fuzz.DAMAGES))
    assert not found.keys() - {"error", "same"}
    assert found["error"] > 0
    assert found["same"] > 0
