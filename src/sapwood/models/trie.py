"""Labels as a tree of tokens, so that a query scores all of them in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sapwood.models.layout import Row


@dataclass(frozen=True, kw_only=True)
class LabelTrie:
    """The label token sequences, merged where they begin alike.

    Node 0 is the end of the query; every further node is a label token that other tokens follow.
    `tokens[n]`, `parents[n]`: of node n (node 0: -1). `paths[y]`: for each token of label y the
    pair (node it is predicted at, token id). `children[n]`: the token ids that may follow node n.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]
    children: tuple[tuple[int, ...], ...]

    def row(self, query: Sequence[int]) -> Row:
        """Return the row of one query: its tokens, then the tree; wanted are all nodes."""
        inner = len(self.tokens) - 1
        last = len(query) - 1
        ids = [*query, *self.tokens[1:]]
        wanted = [last, *range(last + 1, last + 1 + inner)]
        if not inner:
            return Row(ids=ids, wanted=wanted)
        chain = range(-1, last)
        tree = [last + parent for parent in self.parents[1:]]
        return Row(ids=ids, wanted=wanted, parents=[*chain, *tree])


def build_trie(labels: Sequence[Sequence[int]]) -> LabelTrie:
    """Build the trie of `labels`, each a non-empty sequence of token ids."""
    assert all(labels), "a label needs at least one token"
    tokens, parents = [-1], [-1]
    nodes: dict[tuple[int, ...], int] = {(): 0}
    children: list[dict[int, None]] = [{}]
    paths = []
    for label in labels:
        path, node = [], 0
        for depth, token in enumerate(label):
            path.append((node, token))
            children[node][token] = None
            if depth + 1 < len(label):
                key = tuple(label[: depth + 1])
                if key not in nodes:
                    nodes[key] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                    children.append({})
                node = nodes[key]
        paths.append(tuple(path))
    return LabelTrie(
        tokens=tuple(tokens),
        parents=tuple(parents),
        paths=tuple(paths),
        children=tuple(tuple(c) for c in children),
    )
