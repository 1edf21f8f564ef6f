"""The faces of one run's evidence, a file each: page, card, terminal; plots, words and verdict."""
