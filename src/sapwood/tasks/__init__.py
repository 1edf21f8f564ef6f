"""Kinds of task, one file each; shared by all: reading, checking, splitting, pulling data.

In the order they run: `readers` (with `encodings`, `columns`, `rows`), `check` (with
`duplicates`, `labels`, `languages`) and `findings`, `splits`. `pull` fetches real data sets.
"""

TASKS = {"classification": "sapwood.tasks.classification:data_card"}
