"""How alike texts are: by the direction of their embeddings, or by the words they share.

BM25 (Robertson & Zaragoza 2009) in Lucene's form, from the bm25s library. `lexical_vectors` stand
in for an encoder's embeddings where there is none: latent semantic analysis (Deerwester et al.
1990) of character n-grams, which needs no word boundaries and so reads Chinese as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sapwood.interfaces import Floats

CELLS = 4_000_000  # similarities held at once: 32 MB
# Han and kana are written without spaces: each character is a token, and each pair of neighbours.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
TOKEN = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+")
# The dimensions scikit-learn recommends for latent semantic analysis.
LEXICAL_WIDTH = 100
# N-grams kept: 100,000 rows of reviews have millions, nearly all of them seen once.
MOST_GRAMS = 50_000


def tokens(text: str) -> list[str]:
    """Return lower-case words; runs of Han and kana as single characters and pairs of neighbours.

    >>> tokens("Good 味道好")
    ['good', '味', '道', '好', '味道', '道好']
    """
    out: list[str] = []
    for run in TOKEN.findall(text.lower()):
        if re.match(f"[{UNSPACED}]", run):
            out += [*run, *(run[i : i + 2] for i in range(len(run) - 1))]
        else:
            out.append(run)
    return out


def same_text(text: str) -> str:
    """Return what two texts have in common that differ only in case and spaces."""
    return " ".join(text.casefold().split())


def unit(vectors: Floats) -> NDArray[np.float64]:
    """Return the rows at length 1, float64; a zero row stays zero."""
    exact = np.asarray(vectors, np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled = np.divide(exact, length, out=np.zeros_like(exact), where=length > 0)
    return np.asarray(scaled, np.float64)


def cosines(queries: Floats, pool: Floats) -> Iterator[Floats]:
    """Yield the cosines of each query with the pool, shape (pool,), computed in blocks.

    `queries`: (queries, width), `pool`: (pool, width), both of unit rows.
    """
    block = max(1, CELLS // max(len(pool), 1))
    for start in range(0, len(queries), block):
        yield from queries[start : start + block] @ pool.T


def bm25_scores(documents: Sequence[list[str]], queries: Sequence[str]) -> Iterator[Floats]:
    """Yield each query's BM25 scores over tokenised documents, shape (documents,)."""
    known = {token for document in documents for token in document}
    if not known:
        yield from (np.zeros(len(documents)) for _ in queries)
        return
    import bm25s

    index = bm25s.BM25(method="lucene")
    index.index(list(documents), show_progress=False)
    for query in queries:
        shared = [token for token in tokens(query) if token in known]
        yield index.get_scores(shared) if shared else np.zeros(len(documents))


def lexical_vectors(texts: Sequence[str], seed: int = 0) -> NDArray[np.float64]:
    """Return vectors of texts made from their own characters, shape (texts, at most 100).

    TF-IDF of 1 to 3 characters where most letters are Han or kana, of 3 to 5 within words
    elsewhere, reduced by a truncated singular value decomposition. Texts that share no n-gram with
    any other get zeros. The vectors mean something among these texts only.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    letters = "".join(texts[:2000])
    unspaced = 2 * len(re.findall(f"[{UNSPACED}]", letters)) > len(re.findall(r"\w", letters))
    vectorizer = TfidfVectorizer(
        analyzer="char" if unspaced else "char_wb",
        ngram_range=(1, 3) if unspaced else (3, 5),
        sublinear_tf=True,
        min_df=2,  # an n-gram of one text says nothing about how alike two are
        max_features=MOST_GRAMS,
        dtype=np.float32,
    )
    try:
        grams = vectorizer.fit_transform(texts)
    except ValueError:  # no n-gram is in two texts
        return np.zeros((len(texts), 1))
    width = min(LEXICAL_WIDTH, grams.shape[1] - 1, len(texts) - 1)
    if width < 1:
        return np.asarray(grams.toarray(), np.float64)
    with np.errstate(invalid="ignore"):  # where all texts are the same, no variance is explained
        reduced = TruncatedSVD(width, random_state=seed).fit_transform(grams)
    return np.asarray(reduced, np.float64)
