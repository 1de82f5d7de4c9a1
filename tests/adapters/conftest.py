import pytest

from tests.adapters.helpers import make_tiny


@pytest.fixture
def tiny():
    return make_tiny()
