from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of public data sets; tests that read them are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the public data sets are not here")
    return SHARED.resolve()


@pytest.fixture
def paper_samples(shared_data) -> Path:
    folder = shared_data / "licence_unstated" / "instructgpt_samples"
    if not folder.is_dir():
        pytest.skip("the released InstructGPT samples are not here")
    return folder
