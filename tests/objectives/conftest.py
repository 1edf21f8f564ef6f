"""A vocabulary whose special ids are small, and a generator."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.testing import sample_vocabulary


@pytest.fixture(scope="session")
def vocabulary():
    return sample_vocabulary()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
