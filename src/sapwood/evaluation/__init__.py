"""From texts to probabilities, in the order it runs: bases, reader, predictor."""

from sapwood.evaluation.asking import answers_of, asked_safely, asking, sealed
from sapwood.evaluation.bases import Bases
from sapwood.evaluation.predictor import CHUNK, Predictor, check_golden, predicting
from sapwood.evaluation.reader import Reader, Reading

__all__ = [
    "CHUNK",
    "Bases",
    "Predictor",
    "Reader",
    "Reading",
    "answers_of",
    "asked_safely",
    "asking",
    "check_golden",
    "predicting",
    "sealed",
]
