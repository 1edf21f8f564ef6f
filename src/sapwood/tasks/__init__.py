"""Kinds of task, one family a file; shared by all: reading, checking, splitting, pulling data.

In the order they run: `readers` (with `encodings`, `columns`, `rows`, `conll`), `structured`,
which reads any task by its form (`kinds`, `roles`, `spans`, `bio`), `check` (with `duplicates`,
`labels`, `languages`) and `findings`, `splits`. `pull` fetches real data sets.
"""

TASKS = {
    "classification": "sapwood.tasks.several:ONE",
    "multi-label": "sapwood.tasks.several:SEVERAL",
    "pairs": "sapwood.tasks.relations:PAIRS",
    "entities": "sapwood.tasks.entities:TASK",
    "relations": "sapwood.tasks.relations:TASK",
    "events": "sapwood.tasks.events:TASK",
    "dialogue": "sapwood.tasks.conversations:TASK",
    "story": "sapwood.tasks.completions:STORY",
    "poetry": "sapwood.tasks.completions:POETRY",
}

# What people also call them.
OTHER_NAMES = {
    "sentiment": "classification",
    "topic": "classification",
    "intent": "classification",
    "multilabel": "multi-label",
    "relation": "pairs",
    "ner": "entities",
    "event": "events",
    "chat": "dialogue",
    "stories": "story",
    "poem": "poetry",
    "poems": "poetry",
}
