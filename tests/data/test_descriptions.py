import pytest

from stage_cli.core.data.dataset import describe, stem_sentence
from stage_cli.core.stems import STEMS


@pytest.mark.parametrize(
    ("genres", "moods", "expected"),
    [
        (("Rock", "Blues", "Folk"), ("happy", "calm", "dark"), "Genres: Rock, Blues, Folk. Moods: happy, calm, dark."),
        (("Rock",), ("happy",), "Genre: Rock. Mood: happy."),
        (("A", "B", "C", "D"), ("a", "b", "c", "d", "e"), "Genres: A, B, C. Moods: a, b, c."),
        (("Rock", "Blues"), (), "Genres: Rock, Blues."),
        ((), ("happy",), "Mood: happy."),
        ((), (), ""),
        ((" Rock ", "", "Rock", "  "), (), "Genre: Rock."),
    ],
)
def test_up_to_three_genres_and_moods(genres, moods, expected):
    assert describe(genres, moods, most_genres=3, most_moods=3) == expected


def test_how_many_is_a_setting():
    assert describe(("A", "B"), ("a", "b"), most_genres=1, most_moods=0) == "Genre: A."


def test_the_stem_is_named_where_a_model_writes_several():
    assert describe(("A",), (), most_genres=3, most_moods=3, stem="other_keys") == "Genre: A. Instruments: other keys."
    assert describe((), (), most_genres=3, most_moods=3, stem="bass") == "Instruments: bass."
    assert len({stem_sentence(stem) for stem in STEMS}) == len(STEMS)
