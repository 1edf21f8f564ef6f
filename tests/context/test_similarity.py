"""Likeness of texts without a model."""

from __future__ import annotations

import numpy as np
import pytest

from sapwood.context.similarity import lexical_vectors, same_text, unit

FILMS = ["a dull film about war", "the film about war was dull", "a dull war film"]
MEALS = ["the soup was cold and salty", "cold soup, salty bread", "salty soup and cold bread"]


def alike(texts) -> np.ndarray:
    vectors = unit(lexical_vectors(texts))
    return vectors @ vectors.T


@pytest.mark.parametrize(
    "texts",
    [
        [*FILMS, *MEALS],
        ["房间很干净", "房间干净舒服", "干净的房间", "菜的味道不错", "味道不错的菜", "这菜味道好"],
    ],
)
def test_lexical_vectors_tell_subjects_apart(texts):
    cosine = alike(texts)
    inside = min(cosine[:3, :3].min(), cosine[3:, 3:].min())
    assert inside > cosine[:3, 3:].max()


def test_lexical_vectors_of_odd_input():
    assert lexical_vectors(["abc", "xyz"]).tolist() == [[0.0], [0.0]]
    assert lexical_vectors(["!!", "??"]).tolist() == [[0.0], [0.0]]
    assert lexical_vectors(["good"]).shape == (1, 1)
    same = lexical_vectors(["good"] * 3)
    assert same.shape[0] == 3
    assert np.ptp(same, axis=0).max() < 1e-6
    assert lexical_vectors(["word" + str(i) for i in range(300)]).shape[1] <= 100


def test_lexical_vectors_are_repeatable():
    np.testing.assert_array_equal(
        lexical_vectors([*FILMS, *MEALS], 1), lexical_vectors([*FILMS, *MEALS], 1)
    )


def test_same_text_ignores_case_and_spaces_only():
    assert same_text("  Red\n FILM ") == same_text("red film") != same_text("redfilm")
