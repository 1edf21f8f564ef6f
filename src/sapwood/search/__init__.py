"""The main job, in the order it runs: job, workbench, ladder (plain, prompting, tuning), verdict.

`adapt` tries prepending, perturbing and reading under one budget, on the same splits, with the
same meter, and hands over the result.
"""
