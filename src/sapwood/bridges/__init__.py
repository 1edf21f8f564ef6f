"""From context to weights and back; each is a generator of events that ends in an adaptation.

compress     a context becomes a prefix, as it is or shorter, and trains on from there
distil       a context is learnt from its own answers to unlabelled texts
demonstrate  weights learn to read demonstrations
"""
