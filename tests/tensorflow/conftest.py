"""Tests of the second engine run where TensorFlow is installed: `make test-tensorflow`."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _tensorflow():
    pytest.importorskip("tensorflow", reason="needs sapwood[tensorflow]")
