"""From dumps, books and crawls to packed shards: the files here in the order they run.

samples (fetch) -> sources (what is given) -> streams (open) -> formats: wiki, web, books, tables
(records, extract) -> normalise -> language -> quality -> private -> overlap -> duplicates ->
tokenizers -> packing -> card; `cleaning` does the steps of one piece, `build` all pieces, `corpus`
reads the result.
"""

# How a source is read: name -> a `draft.Format`.
FORMATS = {
    "wiki": "sapwood.corpora.wiki:WIKI",
    "warc": "sapwood.corpora.web:WARC",
    "html": "sapwood.corpora.web:HTML",
    "epub": "sapwood.corpora.epub:EPUB",
    "gutenberg": "sapwood.corpora.books:GUTENBERG",
    "text": "sapwood.corpora.books:TEXT",
    "blocks": "sapwood.corpora.books:BLOCKS",
    "lines": "sapwood.corpora.books:LINES",
    "jsonl": "sapwood.corpora.tables:JSONL",
    "csv": "sapwood.corpora.tables:CSV",
    "parquet": "sapwood.corpora.tables:PARQUET",
}
ALIASES = {"wet": "warc", "xml": "wiki", "mediawiki": "wiki", "tsv": "csv", "txt": "text"}
