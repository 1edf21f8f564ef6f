"""Readouts: ways to read an answer, from texts, features or label scores. One file each.

Each is a frozen dataclass that satisfies `sapwood.interfaces.Readout` and has the class methods
`fit(inputs, gold, *, labels, seed=0)` and `from_state(settings, arrays)`; `reads` says what it is
given: "texts", or "features" or "scores" of a base under a context. `bias` is what calibrates the
scores a verbalizer reads, `decision` a temperature and thresholds of confidence, `thresholds` of
several labels, `inputs` makes texts to fit it on, `logistic` is the regression that two
of them share; `scheme` and `chain` are what tags stand for and how sequences of them are read.

majority   nothing: how common the labels are
tf-idf     texts: word and character n-grams
probe      features (rows, width): logistic regression
head       features of an encoder: a linear map trained with it; starts as the probe
sigmoid    features of an encoder: a linear map and a threshold for each of several labels
label-grams texts: n-grams as tf-idf reads them, for several labels; gives answers itself
tags       states of an encoder: a linear map trained with it, and what may follow what; for spans
knn        features, or label scores: the nearest training rows
verbalizer label scores of a language model, direct or through the noisy channel
"""

READOUTS = {
    "majority": "sapwood.readouts.majority:Majority",
    "tf-idf": "sapwood.readouts.tfidf:TfIdf",
    "probe": "sapwood.readouts.probe:Probe",
    "head": "sapwood.readouts.head:Head",
    "sigmoid": "sapwood.readouts.labels:Sigmoid",
    "label-grams": "sapwood.readouts.labels:LabelGrams",
    "tags": "sapwood.readouts.tags:Tags",
    "knn": "sapwood.readouts.knn:NearestNeighbours",
    "verbalizer": "sapwood.readouts.verbalizer:Verbalizer",
    "dictionary": "sapwood.readouts.dictionary:Dictionary",
    "n-gram": "sapwood.readouts.bytegrams:Bytegrams",
    "generate": "sapwood.readouts.written:Written",
}
