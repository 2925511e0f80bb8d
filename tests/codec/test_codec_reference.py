"""Our EnCodec against the transformers library's with the same random weights, through the published names."""

import math
import re

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.encodec import IGNORABLE_SUFFIXES, Encodec, published_names, state_from_published
from stage_cli.errors import WeightsError

CONFIGS = {
    "published ratios": CodecConfig(filters=2, dimension=8, codebook_size=64),
    "odd ratios, shortcut": CodecConfig(
        ratios=(3, 5, 2),
        filters=4,
        dimension=6,
        residual_layers=2,
        conv_shortcut=True,
        lstm_layers=1,
        codebooks=3,
        codebook_size=32,
    ),
    "other kernels": CodecConfig(
        ratios=(4, 2),
        filters=6,
        dimension=4,
        kernel_size=5,
        last_kernel_size=3,
        residual_kernel_size=5,
        residual_layers=3,
        dilation_growth=3,
        compress=3,
        codebooks=2,
        codebook_size=16,
    ),
}


def make_reference(config: CodecConfig) -> EncodecModel:
    torch.manual_seed(0)
    frames_a_second = -(-config.sample_rate // config.hop_length)
    reference = EncodecModel(
        EncodecConfig(
            sampling_rate=config.sample_rate,
            hidden_size=config.dimension,
            num_filters=config.filters,
            upsampling_ratios=config.ratios,
            num_residual_layers=config.residual_layers,
            kernel_size=config.kernel_size,
            last_kernel_size=config.last_kernel_size,
            residual_kernel_size=config.residual_kernel_size,
            dilation_growth_rate=config.dilation_growth,
            compress=config.compress,
            use_conv_shortcut=config.conv_shortcut,
            num_lstm_layers=config.lstm_layers,
            codebook_size=config.codebook_size,
            use_causal_conv=False,
            # The bandwidth is what decides how many codebooks there are.
            target_bandwidths=[(config.codebooks + 0.01) * math.log2(config.codebook_size) * frames_a_second / 1000],
        )
    ).eval()
    for name, parameter in reference.named_parameters():
        if name.endswith("original0"):
            parameter.data *= torch.rand_like(parameter) + 0.5  # lengths that are not those of the directions
    # Codebooks that lie where the latents (then the residuals) do, or every code would be the same.
    with torch.no_grad():
        residual = reference.encoder(torch.randn(1, 1, 300 * config.hop_length)).transpose(1, 2)
        for layer in reference.quantizer.layers:
            spread = residual.std((0, 1))
            layer.codebook.embed.copy_(residual.mean((0, 1)) + spread * torch.randn(config.codebook_size, len(spread)))
            residual = residual - layer.codebook.decode(layer.codebook.encode(residual))
    assert len(reference.quantizer.layers) == config.codebooks
    return reference


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request) -> tuple[Encodec, EncodecModel]:
    config = CONFIGS[request.param]
    reference = make_reference(config)
    codec = Encodec(config).eval()
    codec.load_state_dict(state_from_published(reference.state_dict(), config, "transformers"))
    return codec, reference


def lengths(hop: int) -> list[int]:
    return [1, 2, 7, hop - 1, hop, hop + 1, 3 * hop + 5, 31 * hop + hop // 2 + 1]


def test_codes_and_audio_equal_transformers_at_any_length(pair):
    codec, reference = pair
    seen = set()
    for samples in lengths(codec.config.hop_length):
        audio = torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(samples))
        with torch.no_grad():
            expected_latents = reference.encoder(audio)
            expected_codes = reference.encode(audio).audio_codes[0]
            expected_audio = reference.decode(expected_codes[None], [None]).audio_values
        codes = codec.encode(audio)
        assert codes.shape == (2, codec.config.codebooks, codec.config.frames(samples))
        torch.testing.assert_close(codec.latents(audio), expected_latents, rtol=0, atol=1e-6)
        assert torch.equal(codes, expected_codes)
        decoded = codec.decode(codes)
        assert decoded.shape == (2, 1, codec.config.frames(samples) * codec.config.hop_length)
        torch.testing.assert_close(decoded, expected_audio, rtol=0, atol=1e-6)
        seen.update(codes[:, 0].flatten().tolist())
    assert len(seen) > codec.config.codebook_size // 4, "codes too uniform to compare anything"


def test_long_audio_in_pieces_equals_transformers(pair):
    codec, reference = pair
    samples = 123 * codec.config.hop_length + 11
    audio = torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_codes = reference.encode(audio).audio_codes[0]
        expected_audio = reference.decode(expected_codes[None], [None]).audio_values
    codes = codec.encode(audio, whole_seconds=0.0)
    assert torch.equal(codes, expected_codes)
    torch.testing.assert_close(codec.decode(codes, whole_seconds=0.0), expected_audio, rtol=0, atol=1e-6)


def test_names_cover_both_state_dicts(pair):
    codec, reference = pair
    names = published_names(codec.config, "transformers")
    assert set(names) == set(codec.state_dict())
    read = set()
    for published in names.values():
        read.update(published.split_names[1] if published.weight_norm else published.names)
    kept = {name for name in reference.state_dict() if not name.endswith(IGNORABLE_SUFFIXES)}
    assert kept == read


@pytest.mark.parametrize("spelling", ["weight_g", "folded"])
def test_other_spellings_of_weight_norm_give_the_same_state(pair, spelling):
    codec, reference = pair
    published = reference.state_dict()
    if spelling == "weight_g":
        published = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for name, tensor in published.items()
        }
    else:
        published = {**codec.state_dict()}
        names = published_names(codec.config, "transformers")
        published = {
            name: tensor
            for ours, entry in names.items()
            for name, tensor in zip(
                entry.names, published[ours] if len(entry.names) > 1 else [published[ours]], strict=True
            )
        }
    state = state_from_published(published, codec.config, "transformers")
    for name, tensor in codec.state_dict().items():
        assert torch.equal(state[name], tensor), name


# The other library's names, from its own converter: encodec_32khz's places in audiocraft and in transformers.
AUDIOCRAFT_TO_TRANSFORMERS = [
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.(conv\.conv|convtr\.convtr)\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d)\._codebook\.", r"quantizer.layers.\1.codebook."),
]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_audiocraft_names_convert_to_those_of_transformers(config):
    theirs = published_names(config, "transformers")
    for ours, published in published_names(config, "audiocraft").items():
        converted = published.names
        for pattern, replacement in AUDIOCRAFT_TO_TRANSFORMERS:
            converted = tuple(re.sub(pattern, replacement, name) for name in converted)
        assert converted == theirs[ours].names
        assert published.weight_norm == theirs[ours].weight_norm


def test_audiocraft_names_of_the_published_codec():
    names = published_names(CodecConfig(), "audiocraft")
    expected = {
        "encoder.input.weight": "encoder.model.0.conv.conv.weight",
        "encoder.stages.0.residuals.0.dilated.bias": "encoder.model.1.block.1.conv.conv.bias",
        "encoder.stages.0.residuals.0.pointwise.bias": "encoder.model.1.block.3.conv.conv.bias",
        "encoder.stages.0.downsample.weight": "encoder.model.3.conv.conv.weight",
        "encoder.stages.3.downsample.weight": "encoder.model.12.conv.conv.weight",
        "encoder.lstm.weight_hh_l1": "encoder.model.13.lstm.weight_hh_l1",
        "encoder.output.weight": "encoder.model.15.conv.conv.weight",
        "decoder.lstm.bias_ih_l0": "decoder.model.1.lstm.bias_ih_l0",
        "decoder.stages.0.upsample.weight": "decoder.model.3.convtr.convtr.weight",
        "decoder.stages.3.residuals.0.pointwise.weight": "decoder.model.13.block.3.conv.conv.weight",
        "decoder.output.weight": "decoder.model.15.conv.conv.weight",
    }
    assert {ours: names[ours].names[0] for ours in expected} == expected
    assert names["encoder.input.weight"].split_names == (
        ("encoder.model.0.conv.conv.weight_g", "encoder.model.0.conv.conv.weight_v"),
        (
            "encoder.model.0.conv.conv.parametrizations.weight.original0",
            "encoder.model.0.conv.conv.parametrizations.weight.original1",
        ),
    )
    assert names["encoder.lstm.weight_hh_l1"].split_names == ()
    assert names["quantizer.codebooks"].names[3] == "quantizer.vq.layers.3._codebook.embed"


def test_without_an_lstm_the_names_still_match_our_state():
    config = CodecConfig(ratios=(2, 2), filters=2, dimension=4, lstm_layers=0, codebook_size=4)
    names = published_names(config, "audiocraft")
    assert set(names) == set(Encodec(config).state_dict())
    assert names["decoder.stages.0.upsample.weight"].names == ("decoder.model.2.convtr.convtr.weight",)


def test_an_absent_tensor_is_named():
    config = CONFIGS["other kernels"]
    tensors = dict(make_reference(config).state_dict())
    del tensors["quantizer.layers.1.codebook.embed"]
    with pytest.raises(WeightsError, match=r"no tensor 'quantizer\.layers\.1\.codebook\.embed'"):
        state_from_published(tensors, config, "transformers")


@pytest.mark.slow
def test_ten_seconds_at_the_published_size_equal_transformers():
    config = CodecConfig()
    reference = make_reference(config)
    codec = Encodec(config).eval()
    codec.load_state_dict(state_from_published(reference.state_dict(), config, "transformers"))
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(1, 1, 320000, generator=generator) * torch.rand(1, 1, 320000, generator=generator)
    with torch.no_grad():
        expected_codes = reference.encode(audio).audio_codes[0]
        expected_audio = reference.decode(expected_codes[None], [None]).audio_values
    for whole_seconds in (2.0, 20.0):
        codes = codec.encode(audio, whole_seconds=whole_seconds)
        assert (codes != expected_codes).sum() <= 2, "of 2000 codes, near ties apart"
        decoded = codec.decode(expected_codes, whole_seconds=whole_seconds)
        torch.testing.assert_close(decoded, expected_audio, rtol=0, atol=1e-6)
