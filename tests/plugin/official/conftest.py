import pytest


@pytest.fixture
def checkout(tmp_path):
    from stand_in import write_checkout

    return write_checkout(tmp_path / "DESED_task")
