"""What a model is told about a song in words. Imports no torch.

Source of the wording: STAGE's training data, https://arxiv.org/abs/2504.05690, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence


def describe(
    genres: Sequence[str], moods: Sequence[str], *, most_genres: int, most_moods: int, stem: str | None = None
) -> str:
    """Return "Genres: Rock, Blues. Moods: happy.": the first genres and moods; "" where nothing is known.

    Args:
        genres: of the song, the surest first.
        moods: likewise.
        most_genres: how many to name at most.
        most_moods: likewise.
        stem: the target, for a model that writes several: "… Instruments: other keys."
    """
    sentences = [_listed("Genre", genres, most_genres), _listed("Mood", moods, most_moods)]
    if stem is not None:
        sentences.append(stem_sentence(stem))
    return " ".join(sentence for sentence in sentences if sentence)


def stem_sentence(stem: str) -> str:
    """Return the sentence that names the target: "Instruments: other keys."."""
    # The underscore is the file system's; the text encoder has seen words.
    return f"Instruments: {stem.replace('_', ' ')}."


def _listed(noun: str, names: Sequence[str], most: int) -> str:
    chosen = list(dict.fromkeys(name.strip() for name in names if name.strip()))[:most]
    return f"{noun}{'s' if len(chosen) > 1 else ''}: {', '.join(chosen)}." if chosen else ""
