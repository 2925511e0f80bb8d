"""The spectral codec: its lengths, what each frame depends on, pieces against the whole, and that it can learn."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from random_weights import randomise

from stage_cli.core.codec.config import SpectralConfig, codec_config_from_dict, make_codec
from stage_cli.core.codec.encodec import Encodec
from stage_cli.core.codec.spectral import COMPRESSION, SpectralCodec
from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder, stream_decode, stream_latents
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.checkpoint import load_codec, plan_directory
from stage_cli.core.weights.saving import pack_codec
from stage_cli.errors import WeightsError

SMALL = SpectralConfig(
    sample_rate=8000, hop_length=320, spectrum_hop=80, spectrum_size=320, width=16, dimension=8, codebook_size=32
)
CONFIGS = {
    "small": SMALL,
    "one spectrum a frame": SpectralConfig(
        hop_length=64, spectrum_hop=64, spectrum_size=64, width=8, encoder_layers=(1, 0), decoder_layers=(0, 2)
    ),
    "wide windows, no blocks": SpectralConfig(
        hop_length=30, spectrum_hop=10, spectrum_size=100, width=8, encoder_layers=(0, 0), decoder_layers=(0, 0)
    ),
    "tones": dataclasses.replace(SMALL, tones=30, lowest_tone=40, pitch_size=1024, tone_dimension=3),
    "kernels of one": SpectralConfig(hop_length=40, spectrum_hop=20, spectrum_size=40, width=8, kernel_size=1),
}


@pytest.fixture(scope="module", params=CONFIGS)
def codec(request: pytest.FixtureRequest) -> SpectralCodec:
    codec = SpectralCodec(CONFIGS[request.param]).eval()
    randomise(codec)
    return codec


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.3


def test_lengths(codec: SpectralCodec) -> None:
    for frames in (0.2, 1, 1.01, 3, 41.5):
        hop = codec.config.hop_length
        samples = max(1, round(frames * hop))
        codes = codec.encode(noise(samples, batch=2))
        assert codes.shape == (2, 4, -(-samples // hop))
        assert codec.decode(codes).shape == (2, 1, codes.shape[2] * hop)


def test_nothing_reaches_further_than_the_margins(codec: SpectralCodec) -> None:
    config = codec.config
    assert isinstance(config, SpectralConfig)
    hop, T, middle = config.hop_length, 101, 50
    audio = noise(T * hop)
    changed = audio.clone()
    changed[..., middle * hop : (middle + 1) * hop] += 1
    moved = (codec.latents(audio) - codec.latents(changed)).abs().amax(dim=(0, 1)).nonzero()[:, 0]
    assert moved.min() >= middle - config.encoder_margin
    assert moved.max() <= middle + config.encoder_margin
    assert moved.numel() > 0
    codes = codec.encode(audio)
    other = codes.clone()
    other[..., middle] = (other[..., middle] + 1) % config.codebook_size
    moved = (codec.decode(codes) - codec.decode(other)).abs().amax(dim=(0, 1)).nonzero()[:, 0] // hop
    assert moved.min() >= middle - config.decoder_margin
    assert moved.max() <= middle + config.decoder_margin
    assert moved.numel() > 0


@pytest.mark.parametrize("frames", [1, 29.3, 90])
def test_pieces_are_the_whole(codec: SpectralCodec, frames: float) -> None:
    audio = noise(round(frames * codec.config.hop_length), batch=2)
    whole, codes = codec.latents(audio), codec.encode(audio)
    decoded = codec.decode(codes)
    for piece in (1, 7, 30, 1000) if frames < 90 else (7, 30):
        latents = stream_latents(codec, audio, piece_frames=piece)
        torch.testing.assert_close(latents, whole, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(stream_decode(codec, codes, piece_frames=piece), decoded, atol=2e-4, rtol=1e-4)


def test_streams_take_pieces_of_any_size() -> None:
    codec = SpectralCodec(SMALL).eval()
    randomise(codec)
    audio = noise(20_000)
    encoder, decoder = StreamingEncoder(codec, piece_frames=10), StreamingDecoder(codec, piece_frames=10)
    codes = torch.cat([*(encoder.push(part) for part in audio.split(777, dim=-1)), encoder.finish()], dim=-1)
    assert codes.equal(codec.encode(audio))
    sound = torch.cat([*(decoder.push(part) for part in codes.split(3, dim=-1)), decoder.finish()], dim=-1)
    torch.testing.assert_close(sound, codec.decode(codes), atol=2e-4, rtol=1e-4)


def test_the_spectra_can_be_inverted() -> None:
    """Windows that are analysed and added again give the audio back: the transform itself loses nothing."""
    codec = SpectralCodec(SMALL)
    audio = noise(4000)
    edge = (SMALL.spectrum_size - SMALL.spectrum_hop) // 2
    window = torch.hann_window(SMALL.spectrum_size)
    pieces = torch.nn.functional.pad(audio[:, 0], (edge, edge)).unfold(-1, SMALL.spectrum_size, SMALL.spectrum_hop)
    again = codec.decoder._overlap(pieces * window, 1)
    # At the very ends a single window covers a sample, and the hann window is nearly zero there.
    torch.testing.assert_close(again[0, 160:-160], audio[0, 0, 160:-160], atol=1e-5, rtol=1e-5)


def test_it_learns() -> None:
    """A few steps on one batch bring the reconstruction's spectrum nearer, through the quantizer."""
    torch.manual_seed(0)
    codec = SpectralCodec(dataclasses.replace(SMALL, encoder_layers=(1, 1), decoder_layers=(1, 1), width=32)).train()
    codec.quantizer.start_training()
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(6400) / 8000
    audio = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (200, 440, 900)])[:, None] * 0.5
    optimizer = torch.optim.Adam(codec.parameters(), lr=1e-2)

    def spectrum(x: torch.Tensor) -> torch.Tensor:
        return (torch.stft(x[:, 0], 256, 64, window=torch.hann_window(256), return_complex=True).abs() + 0.1).log()

    losses = []
    for _ in range(60):
        made, quantized = codec(audio, generator=generator)
        loss = (spectrum(made) - spectrum(audio)).abs().mean() + 0.1 * quantized.commitment_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_config_is_checked() -> None:
    for values, match in [
        ({"hop_length": 100}, "hop_length = 100.*multiple of spectrum_hop = 240"),
        ({"spectrum_size": 961}, "spectrum_size = 961"),
        ({"kernel_size": 4}, "kernel_size = 4.*odd"),
        ({"channels": 2}, "channels = 2"),
        ({"encoder_layers": [1]}, r"encoder_layers = \[1\]"),
        ({"width": 0}, "width = 0"),
        ({"widht": 3}, "unknown key 'widht'"),
        ({"kind": "wavelet"}, "unknown kind 'wavelet'"),
    ]:
        with pytest.raises(WeightsError) as error:
            codec_config_from_dict({"kind": "spectral", **values})
        error.match(match.split(".*")[0])
        assert all(part in f"{error.value} {error.value.why}" for part in match.replace("\\", "").split(".*"))


def test_kinds() -> None:
    assert codec_config_from_dict(SMALL.to_dict()) == SMALL
    assert json.loads(json.dumps(SMALL.to_dict())) == SMALL.to_dict()
    assert isinstance(make_codec(SMALL), SpectralCodec)
    encodec = codec_config_from_dict({"filters": 2, "dimension": 8})  # as written before there were kinds
    assert codec_config_from_dict({"kind": "encodec", "filters": 2, "dimension": 8}) == encodec
    assert isinstance(make_codec(encodec), Encodec)


def test_a_model_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    lm = LanguageModelConfig(codebook_size=32, dimension=64, layers=1, heads=2, feed_forward=64, text_dimension=None)
    model = StageModel(StageConfig(codec=SMALL, lm=lm, text_encoder=None, window_seconds=2.0))
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = StageModel.from_pretrained(str(tmp_path), device="cpu")
    assert loaded.config == model.config
    audio = noise(8000)
    codes = loaded.codec.encode(audio)
    assert codes.equal(model.codec.eval().encode(audio))
    torch.testing.assert_close(loaded.codec.decode(codes), model.codec.decode(codes))


def test_a_codec_is_packed_louder(tmp_path: Path, tiny_model_dir: Path) -> None:
    lm = LanguageModelConfig(codebook_size=32, dimension=64, layers=1, heads=2, feed_forward=64, text_dimension=None)
    model = StageModel(StageConfig(codec=SMALL, lm=lm, text_encoder=None, window_seconds=2.0))
    randomise(model)
    model.save_pretrained(tmp_path / "model")
    plan = plan_directory(tmp_path / "model")
    for name, gain in (("as it is", 0.0), ("louder", 2.5)):
        pack_codec(tmp_path / name, plan.config, plan.sources, packing="float16", gain=gain)
    plain, louder = (load_codec(str(tmp_path / name)) for name in ("as it is", "louder"))
    codes = plain.encode(noise(8000))
    assert codes.equal(louder.encode(noise(8000)))
    expected = plain.decode(codes) * 10 ** (2.5 / 20)
    # The bias is stored as float16.
    torch.testing.assert_close(louder.decode(codes), expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))
    plan = plan_directory(tiny_model_dir)
    with pytest.raises(WeightsError, match="Only a spectral codec"):
        pack_codec(tmp_path / "other", plan.config, plan.sources, packing="float16", gain=1.0)


TONES = dataclasses.replace(SMALL, tones=40, lowest_tone=36, pitch_size=1024, tone_dimension=3)


def sounding(levels: torch.Tensor, first_frame: int = 0) -> torch.Tensor:
    return SpectralCodec(TONES).decoder._sounding(levels, first_frame)[0]


def silent(spectra: int) -> torch.Tensor:
    return torch.zeros(1, spectra, TONES.tones)


@pytest.mark.parametrize("note", [36, 45, 69, 75])
def test_a_level_that_stays_is_a_steady_tone(note: int) -> None:
    levels = silent(400)
    levels[:, :, note - TONES.lowest_tone] = 0.5**COMPRESSION
    audio = sounding(levels)
    assert audio.shape == (400 * TONES.spectrum_hop,)
    time = torch.arange(len(audio), dtype=torch.float64) / TONES.sample_rate
    angle = 2 * torch.pi * 440 * 2 ** ((note - 69) / 12) * time
    inner = slice(TONES.spectrum_hop, -TONES.spectrum_hop)  # half windows at the ends
    # Its phase is that of the first window's beginning, half a hop before the audio's.
    shift = angle.new_tensor(2 * torch.pi * 440 * 2 ** ((note - 69) / 12) * TONES.spectrum_hop / 2 / 8000)
    torch.testing.assert_close(audio.double()[inner], (0.5 * (angle + shift).cos())[inner], atol=1e-4, rtol=0)


def test_oscillators_run_on_over_pieces_and_over_minutes() -> None:
    levels = torch.rand(1, 4 * 4, TONES.tones, generator=torch.Generator().manual_seed(0))
    whole = sounding(torch.cat([silent(4 * 20_000), levels], dim=1))[-len(sounding(levels)) :]
    piece = sounding(levels, first_frame=20_000)
    inner = slice(TONES.spectrum_hop, -TONES.spectrum_hop)
    torch.testing.assert_close(piece[inner], whole[inner], atol=2e-5, rtol=0)


def test_what_is_silent_in_a_frame_stays_silent_in_its_course() -> None:
    codec = SpectralCodec(TONES).eval()
    randomise(codec)
    held = codec.decoder.tones
    with torch.no_grad():
        held.weight.zero_()
        held.bias.zero_()
        held.bias[7] = 0.3
        codec.decoder.output.weight[2 * TONES.bins + 7].zero_()
        codec.decoder.output.bias[2 * TONES.bins + 7] = 0.0
    levels = codec.decoder.parts(torch.randn(1, TONES.dimension, 5))[1]
    assert levels[..., 7].sub(0.3).abs().max() < 1e-6
    assert not levels[..., [tone for tone in range(TONES.tones) if tone != 7]].any()


def test_without_tones_the_weights_are_as_before() -> None:
    names = SpectralCodec(SMALL).state_dict().keys()
    more = SpectralCodec(TONES).state_dict().keys()
    assert names <= more
    assert {name.rsplit(".", 1)[0] for name in more - names} == {
        "encoder.tones_in",
        "encoder.tones_out",
        "decoder.tones",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tones": 120}, "tones = 120 · allowed: few enough to lie below 4000 Hz"),
        ({"tones": -1}, "tones = -1"),
        ({"tones": 10, "pitch_size": 1025}, "pitch_size = 1025"),
        ({"tones": 10, "pitch_size": 100}, "pitch_size = 100 · allowed: an even whole number from 320 on"),
        ({"tones": 10, "tone_codebooks": 4}, "tone_codebooks = 4 · allowed: less than codebooks = 4"),
        ({"tones": 10, "tone_dimension": 8}, "tone_dimension = 8 · allowed: less than dimension = 8"),
        ({"tones": 10, "tone_dimension": 0}, "tone_dimension = 0"),
        ({"lowest_tone": -3}, "lowest_tone = -3"),
    ],
)
def test_tones_that_cannot_be(values: dict[str, int], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        dataclasses.replace(SMALL, **values)


def test_codebooks_of_their_own_for_the_tones() -> None:
    """The last codebook alone tells the tones, in the last dimensions, and nothing else."""
    codec = SpectralCodec(TONES).eval()
    randomise(codec)
    codec.quantizer.codebooks[:3, :, 5:] = 0
    codec.quantizer.codebooks[3, :, :5] = 0
    latents = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0))
    other = latents.clone()
    other[:, 5:] += 1.0
    codes, others = codec.quantizer.encode(latents), codec.quantizer.encode(other)
    assert codes[:, :3].equal(others[:, :3])
    assert not codes[:, 3].equal(others[:, 3])
    other = latents.clone()
    other[:, :5] += 1.0
    assert codec.quantizer.encode(other)[:, 3].equal(codes[:, 3])
    nearest = torch.cdist(latents[:, 5:].transpose(1, 2), codec.quantizer.codebooks[3, :, 5:].expand(2, -1, -1)).argmin(
        -1
    )
    assert codes[:, 3].equal(nearest)
    torch.testing.assert_close(codec.quantizer(latents).quantized, codec.quantizer.decode(codes))


def test_training_keeps_the_sides_apart() -> None:
    codec = SpectralCodec(TONES).train()
    randomise(codec)
    codec.quantizer.start_training()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        codec(noise(6400, batch=4), generator=generator)
    assert codec.quantizer.codebooks[:3, :, 5:].abs().max() == 0
    assert codec.quantizer.codebooks[3, :, :5].abs().max() == 0
    assert codec.quantizer.codebooks[3].abs().sum() > 0


def test_tones_are_packed_as_loud_as_they_are(tmp_path: Path) -> None:
    lm = LanguageModelConfig(codebook_size=32, dimension=64, layers=1, heads=2, feed_forward=64, text_dimension=None)
    model = StageModel(StageConfig(codec=TONES, lm=lm, text_encoder=None, window_seconds=2.0))
    randomise(model)
    model.save_pretrained(tmp_path / "model")
    plan = plan_directory(tmp_path / "model")
    pack_codec(tmp_path / "louder", plan.config, plan.sources, packing="float16", gain=6.0)
    change = load_codec(str(tmp_path / "louder")).decoder.output.bias - model.codec.decoder.output.bias
    assert change.shape == (2 * TONES.bins + TONES.tones,)
    torch.testing.assert_close(change[: TONES.bins], torch.full((TONES.bins,), 0.6908), atol=2e-3, rtol=0)
    assert change[TONES.bins :].abs().max() < 2e-3
