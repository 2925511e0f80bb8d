import re

import pytest

from stage_cli.core.stems import STEMS, parse_stem
from stage_cli.errors import UsageError

MOISESDB = "vocals bass drums guitar piano other_keys other_plucked percussion bowed_strings wind other"


def test_the_stems_are_moisesdbs():
    assert set(STEMS) == set(MOISESDB.split())
    assert len(STEMS) == 11


@pytest.mark.parametrize("stem", STEMS)
def test_a_stems_own_name_means_itself(stem):
    assert parse_stem(stem) == stem
    assert parse_stem(f"  {stem.upper().replace('_', ' ')} ") == stem


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("drum", "drums"),
        ("kit", "drums"),
        ("Drum Kit", "drums"),
        ("bass guitar", "bass"),
        ("double-bass", "bass"),
        ("keys", "other_keys"),
        ("voice", "vocals"),
        ("Strings", "bowed_strings"),
        ("bowed-strings", "bowed_strings"),
        ("sax", "wind"),
        ("electric  guitar", "guitar"),
    ],
)
def test_names_that_musicians_write(text, stem):
    assert parse_stem(text) == stem


@pytest.mark.parametrize(("text", "near"), [("drms", "drums"), ("vocalz", "vocals"), ("percusion", "percussion")])
def test_a_misspelt_stem_gets_a_suggestion(text, near):
    with pytest.raises(UsageError, match=rf"unknown stem '{text}' · did you mean {near}"):
        parse_stem(text)


@pytest.mark.parametrize("text", ["", "  ", "qqqqqq", "drums\0", "ドラム"])
def test_an_unknown_stem_gets_the_whole_list(text):
    with pytest.raises(UsageError, match=re.escape(f"the stems are: {', '.join(STEMS)}")) as caught:
        parse_stem(text)
    assert caught.value.exit_code == 2
