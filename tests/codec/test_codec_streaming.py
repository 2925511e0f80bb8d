"""Pieces against the whole: equal everywhere, ends included, however the audio is cut."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.encodec import Encodec
from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder, stream_decode, stream_latents

WHOLE = 1e9

CONFIGS = {
    "published ratios": CodecConfig(filters=2, dimension=8, codebook_size=64),
    "odd ratios, no lstm": CodecConfig(
        ratios=(3, 5), filters=4, dimension=6, residual_layers=3, conv_shortcut=True, lstm_layers=0, codebook_size=32
    ),
    "tiny hop": CodecConfig(ratios=(2,), filters=4, dimension=6, residual_layers=2, lstm_layers=1, codebook_size=32),
    "kernels of 1 and 2": CodecConfig(
        ratios=(2, 3),
        filters=4,
        dimension=6,
        kernel_size=2,
        last_kernel_size=1,
        residual_kernel_size=1,
        codebook_size=16,
    ),
}


def make_codec(config: CodecConfig) -> Encodec:
    torch.manual_seed(0)
    codec = Encodec(config).eval()
    for name, parameter in codec.named_parameters():
        if not name.endswith("bias"):
            parameter.data *= 1.5  # torch's initial values fade out before they reach the last layer
    latents = codec.latents(torch.randn(1, 1, 200 * config.hop_length))
    deviation, mean = torch.std_mean(latents, dim=(0, 2))
    codebooks = deviation * torch.randn_like(codec.quantizer.codebooks)
    codebooks *= 0.6 ** torch.arange(config.codebooks)[:, None, None]  # what is left over becomes smaller
    codebooks[0] += mean
    codec.quantizer.codebooks.copy_(codebooks)
    return codec


@pytest.fixture(scope="module", params=CONFIGS)
def codec(request) -> Encodec:
    return make_codec(CONFIGS[request.param])


def noise(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(samples))


def push_all(stream, x: torch.Tensor, size: int) -> torch.Tensor:
    pieces = [stream.push(piece) for piece in x.split(size, dim=-1)]
    return torch.cat([*pieces, stream.finish()], dim=-1)


def total_lengths(hop: int) -> list[int]:
    return [1, 2, 4, 9, hop - 1, hop, hop + 1, 6 * hop, 25 * hop + hop // 2]


def test_streamed_codes_are_those_of_the_whole(codec):
    hop = codec.config.hop_length
    for samples in total_lengths(hop):
        audio = noise(samples, batch=2)
        expected, whole = codec.encode(audio, whole_seconds=WHOLE), codec.latents(audio, whole_seconds=WHOLE)
        for piece_frames in (1, 3, 100) if samples < 9 * hop else (3,):
            latents = stream_latents(codec, audio, piece_frames=piece_frames)
            torch.testing.assert_close(latents, whole, rtol=0, atol=1e-5)
            codes = push_all(StreamingEncoder(codec, piece_frames=piece_frames), audio, max(1, samples // 9))
            assert torch.equal(codes, expected), (samples, piece_frames)


@pytest.mark.parametrize("piece_frames", [1, 3, 100])
def test_streamed_audio_is_that_of_the_whole(codec, piece_frames):
    for frames in (1, 2, 3, 7) if piece_frames == 1 else (2, 7, 40):
        codes = torch.randint(
            codec.config.codebook_size, (2, codec.config.codebooks, frames), generator=torch.Generator().manual_seed(5)
        )
        expected = codec.decode(codes, whole_seconds=WHOLE)
        for size in {1, 5, frames}:
            audio = push_all(StreamingDecoder(codec, piece_frames=piece_frames), codes, size)
            torch.testing.assert_close(audio, expected, rtol=0, atol=1e-5)


def test_in_double_precision_pieces_and_whole_agree_to_1e_12(codec):
    # What separates them is rounding, not a window: with more digits it shrinks by as many.
    hop = codec.config.hop_length
    codec = make_codec(codec.config).double()
    for samples in (1, hop + 1, 57 * hop + 3):
        audio = noise(samples).double()
        whole = codec.latents(audio, whole_seconds=WHOLE)
        torch.testing.assert_close(stream_latents(codec, audio, piece_frames=4), whole, rtol=0, atol=1e-12)
        codes = codec.encode(audio, whole_seconds=WHOLE)
        decoded = codec.decode(codes, whole_seconds=WHOLE)
        torch.testing.assert_close(stream_decode(codec, codes, piece_frames=4), decoded, rtol=0, atol=1e-12)


def test_the_result_does_not_depend_on_the_push_sizes_in_a_single_bit(codec):
    audio = noise(53 * codec.config.hop_length + 1)
    codes = codec.encode(audio)
    expected = push_all(StreamingDecoder(codec, piece_frames=6), codes, codes.shape[-1])
    for size in (1, 4, 50):
        assert torch.equal(push_all(StreamingDecoder(codec, piece_frames=6), codes, size), expected)


def test_long_audio_goes_through_in_pieces_by_itself(codec):
    audio = noise(250 * codec.config.hop_length)
    codes = codec.encode(audio, whole_seconds=0.001)
    assert torch.equal(codes, codec.encode(audio, whole_seconds=WHOLE))
    pieces, whole = codec.decode(codes, whole_seconds=0.001), codec.decode(codes, whole_seconds=WHOLE)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)


def test_output_comes_while_input_does():
    codec = make_codec(CONFIGS["published ratios"])
    stream = StreamingEncoder(codec, piece_frames=10)
    ready = [stream.push(noise(6400)).shape[-1] for _ in range(3)]
    assert ready[0] in range(4, 10), "a few frames of look-ahead are held back"
    assert ready[1:] == [10, 10]


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_memory_grows_with_the_piece_and_not_with_the_audio():
    codec = make_codec(CONFIGS["published ratios"])

    def largest(frames: int, piece_frames: int) -> int:
        encoder = StreamingEncoder(codec, piece_frames=piece_frames)
        decoder = StreamingDecoder(codec, piece_frames=piece_frames)
        pieces = noise(frames * 640).split(640 * piece_frames, dim=-1)
        with LargestTensor() as mode:
            for piece in pieces:
                decoder.push(encoder.push(piece))
            decoder.push(encoder.finish())
            decoder.finish()
        return mode.elements

    short, long = largest(20, 5), largest(200, 5)
    assert long == short
    # The widest layer has `filters` channels at the audio's rate, here of one piece and its look-ahead.
    assert long <= codec.config.filters * 640 * (2 * 5)
    assert largest(200, 20) > 3 * long


def test_nothing_and_ends(codec):
    encoder = StreamingEncoder(codec)
    with pytest.raises(ValueError, match="nothing was pushed"):
        encoder.finish()
    assert encoder.push(noise(0)).shape == (1, codec.config.codebooks, 0)
    assert encoder.finish().shape == (1, codec.config.codebooks, 0)
    with pytest.raises(ValueError, match="stream is finished"):
        encoder.push(noise(1))
    with pytest.raises(ValueError, match="stream is finished"):
        encoder.finish()
    decoder = StreamingDecoder(codec)
    assert decoder.push(torch.zeros(3, codec.config.codebooks, 0, dtype=torch.int64)).shape == (3, 1, 0)
    assert decoder.finish().shape == (3, 1, 0)
    with pytest.raises(ValueError, match="piece_frames must be at least 1"):
        StreamingDecoder(codec, piece_frames=0)
    with pytest.raises(ValueError, match="codes must be 0 to"):
        StreamingDecoder(codec).push(torch.full((1, codec.config.codebooks, 1), 2048))
