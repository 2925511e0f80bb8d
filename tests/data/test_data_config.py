import math

import pytest

from stage_cli.core.data.config import DataConfig
from stage_cli.errors import UsageError


def test_the_defaults_are_as_published():
    config = DataConfig.from_dict({"root": "songs"})
    assert config == DataConfig(("songs",))
    assert (config.chunk_seconds, config.context_seconds, config.uncut_probability) == (10.0, (5.0, 10.0), 0.05)
    assert (config.speed, config.pitch, config.speed_probability, config.pitch_probability) == ((0.8, 1.2), 4, 0.5, 0.5)
    assert (config.silence_peak, config.genres, config.moods, config.validation_songs) == (0.01, 3, 3, 24)
    assert config.augments
    assert not config.without_augmentation().augments


def test_a_table_of_toml_is_read():
    values = {
        "root": ["a", "b"],
        "stem": "Bass Guitar",
        "context_seconds": [2, 4],
        "chunk_seconds": 4,
        "exclude": ["x"],
    }
    config = DataConfig.from_dict(values)
    assert (config.root, config.stem, config.context_seconds, config.exclude) == (("a", "b"), "bass", (2, 4), ("x",))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"data\.root cannot be \[\] · allowed: a folder, or a list of folders"),
        ({"root": ""}, r"data\.root"),
        ({"root": [1]}, r"data\.root cannot be \[1\]"),
        ({"root": 5}, r"data\.root cannot be 5"),
        ({"stem": "drumz"}, r"data\.stem cannot be 'drumz' · did you mean drums\? · allowed: any, vocals"),
        ({"stem": 3}, r"data\.stem cannot be 3"),
        ({"context": "clicks"}, r'data\.context cannot be \'clicks\' · allowed: "mix", "metronome", "both"'),
        ({"chunk_seconds": 0}, r"data\.chunk_seconds cannot be 0 · allowed: a number above 0, up to 600"),
        ({"chunk_seconds": math.nan}, r"data\.chunk_seconds cannot be nan"),
        ({"chunk_seconds": "10"}, r"data\.chunk_seconds cannot be '10'"),
        ({"chunk_seconds": 4}, r"data\.context_seconds cannot be \[5\.0, 10\.0\] .* up to 4 \(data\.chunk_seconds\)"),
        ({"context_seconds": [8, 5]}, r"data\.context_seconds cannot be \[8, 5\] .*the lower first"),
        ({"context_seconds": 5}, r"data\.context_seconds cannot be 5"),
        ({"context_seconds": [0, 5]}, r"data\.context_seconds .*above 0"),
        ({"uncut_probability": 1.1}, r"data\.uncut_probability cannot be 1\.1 · allowed: a number from 0 to 1"),
        ({"silence_peak": -1}, r"data\.silence_peak"),
        ({"speed": [0.1, 1]}, r"data\.speed cannot be \[0\.1, 1\] .* from 0\.5 to 2"),
        ({"speed_probability": True}, r"data\.speed_probability cannot be True"),
        ({"pitch": 2.5}, r"data\.pitch cannot be 2\.5 · allowed: a whole number from 0 to 12"),
        ({"pitch_probability": "half"}, r"data\.pitch_probability"),
        ({"genres": -1}, r"data\.genres"),
        ({"split": "random"}, r'data\.split cannot be \'random\' · allowed: "last", "fraction", "file", "none"'),
        ({"split": "file"}, r"data\.validation_file cannot be ''"),
        ({"validation_songs": 0}, r"data\.validation_songs cannot be 0 · allowed: a whole number from 1"),
        ({"validation_fraction": 1}, r"data\.validation_fraction cannot be 1"),
        ({"split_seed": -1}, r"data\.split_seed"),
        ({"exclude": [1]}, r"data\.exclude"),
        ({"spede": [1, 1]}, r"unknown key data\.spede · did you mean data\.speed\?"),
    ],
)
def test_errors_name_the_key_the_value_and_what_is_allowed(values, message):
    root = {} if message.startswith(r"data\.root") else {"root": "songs"}
    with pytest.raises(UsageError, match=message):
        DataConfig.from_dict(root | values)
