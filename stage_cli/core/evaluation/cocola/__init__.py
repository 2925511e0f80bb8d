"""COCOLA: does a stem sound coherent with its context? (Ciranni et al., arXiv 2404.16969, ICASSP 2025).

`Cocola.load(FILE)` reads the user's checkpoint of the published model; `score` compares a context with a stem, and
`pair_anchor` says what true and shuffled pairs score.
"""
