"""The codec's config: arithmetic, validation, JSON."""

import json

import pytest

from stage_cli.core.codec.config import CodecConfig
from stage_cli.errors import WeightsError


def test_defaults_are_the_published_codec():
    config = CodecConfig()
    assert config.hop_length == 640
    assert config.frame_rate == 50.0
    assert config.stage_channels == (64, 128, 256, 512, 1024)
    assert config.frames(10 * config.sample_rate) == 500


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (5, 1), (6, 1), (7, 2), (12, 2)])
def test_a_begun_frame_counts(samples, frames):
    assert CodecConfig(ratios=(3, 2)).frames(samples) == frames


def test_json_round_trip():
    config = CodecConfig(ratios=(5, 2), filters=4, conv_shortcut=True)
    assert CodecConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert CodecConfig.from_dict({}) == CodecConfig()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"filters": 0}, r"filters = 0 · allowed: a whole number of at least 1"),
        ({"codebooks": 2.0}, r"codebooks = 2\.0"),
        ({"lstm_layers": True}, r"lstm_layers = True"),
        ({"ratios": []}, r"ratios = \[\]"),
        ({"ratios": [4, 1]}, r"ratios = \[4, 1\].*at least 2"),
        ({"ratios": 8}, r"ratios = 8"),
        ({"conv_shortcut": 1}, r"conv_shortcut = 1 · allowed: true or false"),
        ({"filters": 4, "compress": 8}, r"compress = 8 · allowed: at most filters = 4"),
        ({"bandwidth": 2}, r"unknown key 'bandwidth' · known are: sample_rate"),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(values, match):
    with pytest.raises(WeightsError, match=match):
        CodecConfig.from_dict(values)
