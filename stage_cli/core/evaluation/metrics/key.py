"""Key of a stem against that of its song: MIREX's weighted score, by mir_eval.

1 for the same key; 0.5 for a fifth above it, same mode; 0.3 for its relative key (A minor for C major); 0.2 for its
parallel key (C minor for C major); 0 for any other. Sharps and flats are the same (F# = Gb). A single stem tells a key
less surely than a whole song, a bass least: compare with the true stem. Source: Raffel et al., "mir_eval", ISMIR 2014.
"""

from __future__ import annotations

import math


def key_agreement(key: str | None, reference: str | None) -> float:
    """Return the weighted score of a key; nan without a reference (None). No key at all scores 0.

    Args:
        key: of the stem, such as "F# minor"; None where none was found.
        reference: of its song.

    Raises:
        ValueError: a key is not of the form "F# minor".
    """
    import mir_eval

    for name in (key, reference):
        if name is not None:
            mir_eval.key.validate_key(name)
    if reference is None:
        return math.nan
    return 0.0 if key is None else float(mir_eval.key.weighted_score(reference, key))
