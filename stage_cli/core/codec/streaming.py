"""SEANet's layers with a memory: each takes its next inputs and returns the outputs that are ready.

A layer keeps the few samples (the LSTM its state) that its next outputs still need, and pads by reflection only
where the audio begins and ends; a piece's edge is never padded. The layers look ahead, so the output lags behind
the input by the right half of the receptive field. Source of the habit: the streaming modules of kyutai's moshi.

Long audio in pieces: codes and audio as of the whole, in memory that does not grow with its length.

Nothing is cross-faded: each codec's networks remember, or look back at, all that their outputs depend on, so pieces
differ from the whole by float rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from stage_cli.core.codec.seanet import (
    Conv,
    DecoderStage,
    EncoderStage,
    ResidualBlock,
    SeanetDecoder,
    SeanetEncoder,
    SkipLSTM,
    Upsample,
    elu,
)

if TYPE_CHECKING:
    from stage_cli.core.codec.codec import Codec


class StreamingLayer(Protocol):
    """A layer with a memory. Shapes: `[B, in, n]` → `[B, out, m]`, n and m ≥ 0."""

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Take the next inputs; return the outputs that are ready, all of them if these inputs are the last."""
        ...


class Chain:
    """Layers one after the other."""

    def __init__(self, layers: Iterable[StreamingLayer]) -> None:
        self._layers = list(layers)

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Run through all layers; see `Layer.step`."""
        for layer in self._layers:
            x = layer.step(x, last=last)
        return x


class Pointwise:
    """A function of each frame alone, which needs no memory."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002 - it never looks ahead
        """Apply the function."""
        return self._function(x)


class _ConvStream:
    """A convolution: waits for what lies right of each output, and keeps what the end's reflection will need."""

    def __init__(self, conv: Conv) -> None:
        self._conv = conv
        longest_padding = conv.right + conv.step - 1
        reflected = longest_padding + 1 if longest_padding else 0
        # An output is made once this many samples from its first one on are there: those it reads, and enough
        # to leave, after the step to the next output, all that the end would have to reflect.
        self._enough = max(conv.reach, conv.step + reflected)
        self._waiting: Tensor | None = None
        self._seen = 0
        self._started = False

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        conv = self._conv
        self._seen += x.shape[-1]
        x = x if self._waiting is None else join(self._waiting, x)
        if not self._started:
            if last:  # short audio, whose reflection has rules of its own
                return conv(x) if self._seen else _nothing(x, conv.out_channels)
            if self._seen <= conv.left or conv.left + self._seen < self._enough:
                self._waiting = x.clone()
                return _nothing(x, conv.out_channels)
            self._started = True
            x = F.pad(x, (conv.left, 0), mode="reflect") if conv.left else x
        if last:
            padding = conv.padding_right(self._seen)
            x = F.pad(x, (0, padding), mode="reflect") if padding else x
        needed = conv.reach if last else self._enough
        outputs = max(0, (x.shape[-1] - needed) // conv.step + 1)
        self._waiting = x[..., outputs * conv.step :].clone()
        if not outputs:
            return _nothing(x, conv.out_channels)
        read = x[..., : (outputs - 1) * conv.step + conv.reach]
        return F.conv1d(read, conv.weight, conv.bias, conv.stride, 0, conv.dilation)


class _UpsampleStream:
    """A transposed convolution: each output block reads one input frame and the frame before it."""

    def __init__(self, upsample: Upsample) -> None:
        self._upsample = upsample
        self._previous: Tensor | None = None

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        layer, previous = self._upsample, self._previous
        if not x.shape[-1] and (previous is None or not last):
            return _nothing(x, layer.out_channels)
        silence = x.new_zeros(*x.shape[:-1], 1)
        x = torch.cat([silence if previous is None else previous, x], dim=-1)
        self._previous = x[..., -1:].clone()
        if last:
            x = torch.cat([x, silence], dim=-1)
        # With this padding no block is returned that would read a frame before or after those in x.
        y = F.conv_transpose1d(x, layer.weight, layer.bias, layer.ratio, padding=layer.ratio)
        begin = layer.trim if previous is None else 0
        end = y.shape[-1] - (layer.ratio // 2 if last else 0)
        return y[..., begin:end]


class _ResidualStream:
    """A residual block: the skip path waits for the dilated convolution."""

    def __init__(self, block: ResidualBlock) -> None:
        self._block = block
        self._dilated = _ConvStream(block.dilated)
        self._skipped: Tensor | None = None

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        hidden = self._dilated.step(elu(x), last=last)
        x = x if self._skipped is None else join(self._skipped, x)
        ready = hidden.shape[-1]
        self._skipped = x[..., ready:].clone()
        if not ready:
            return _nothing(x, x.shape[1])
        skipped = x[..., :ready]
        if self._block.shortcut is not None:
            skipped = self._block.shortcut(skipped)
        return self._block.pointwise(elu(hidden)).add_(skipped)


class _LSTMStream:
    def __init__(self, lstm: SkipLSTM) -> None:
        self._lstm = lstm
        self._state: tuple[Tensor, Tensor] | None = None

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002 - it never looks ahead
        if x.shape[-1]:
            x, self._state = self._lstm.step(x, self._state)
        return x


def encoder_chain(encoder: SeanetEncoder) -> Chain:
    """Return the encoder with a memory: audio `[B, channels, n]` → latents `[B, D, t]`."""
    return Chain(_encoder_layers(encoder))


def decoder_chain(decoder: SeanetDecoder) -> Chain:
    """Return the decoder with a memory: latents `[B, D, t]` → audio `[B, channels, n]`."""
    return Chain(_decoder_layers(decoder))


def _encoder_layers(encoder: SeanetEncoder) -> Iterator[StreamingLayer]:
    yield _ConvStream(encoder.input)
    for stage in cast("Iterable[EncoderStage]", encoder.stages):
        yield from _residual_layers(stage)
        yield Pointwise(elu)
        yield _ConvStream(stage.downsample)
    if encoder.lstm is not None:
        yield _LSTMStream(encoder.lstm)
    yield Pointwise(elu)
    yield _ConvStream(encoder.output)


def _decoder_layers(decoder: SeanetDecoder) -> Iterator[StreamingLayer]:
    yield _ConvStream(decoder.input)
    if decoder.lstm is not None:
        yield _LSTMStream(decoder.lstm)
    for stage in cast("Iterable[DecoderStage]", decoder.stages):
        yield Pointwise(elu)
        yield _UpsampleStream(stage.upsample)
        yield from _residual_layers(stage)
    yield Pointwise(elu)
    yield _ConvStream(decoder.output)


def _residual_layers(stage: EncoderStage | DecoderStage) -> Iterator[StreamingLayer]:
    return (_ResidualStream(block) for block in cast("Iterable[ResidualBlock]", stage.residuals))


def join(before: Tensor, after: Tensor) -> Tensor:
    """Return `after` behind `before`, along time."""
    return torch.cat([before, after], dim=-1) if before.shape[-1] else after


def _nothing(x: Tensor, channels: int) -> Tensor:
    return x.new_zeros(x.shape[0], channels, 0)


# Frames that go through the network at once: 2 s at 50 Hz.
PIECE_FRAMES = 100


class StreamingEncoder:
    """Audio that arrives bit by bit to codes.

    The codes depend on the audio and on `piece_frames`, not on how the audio was cut for `push`.

    Args:
        codec: weights; not changed.
        piece_frames: T of the pieces that go through the network; memory is proportional to it.

    Raises:
        ValueError: `piece_frames` is under 1.
    """

    def __init__(self, codec: Codec, *, piece_frames: int = PIECE_FRAMES) -> None:
        self._codec = codec
        self._pieces = _encoder_pieces(codec, piece_frames)

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Take `[B, channels, n]`, n ≥ 0; return the codes that are ready, `[B, K, t]`, t ≥ 0.

        Raises:
            ValueError: the audio's shape or type is wrong, or the stream is finished.
        """
        self._codec.check_audio(audio)
        return self._codec.quantizer.encode(self._pieces.push(audio))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the audio; return the last codes, `[B, K, t]`.

        Raises:
            ValueError: nothing was ever pushed, or the stream is finished.
        """
        return self._codec.quantizer.encode(self._pieces.finish())


class StreamingDecoder:
    """Codes that arrive bit by bit to audio; the arguments are those of `StreamingEncoder`."""

    def __init__(self, codec: Codec, *, piece_frames: int = PIECE_FRAMES) -> None:
        self._codec = codec
        self._pieces = _decoder_pieces(codec, piece_frames)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Take `[B, K, t]`, t ≥ 0; return the audio that is ready, `[B, channels, n]`, n ≥ 0.

        Raises:
            ValueError: the codes' shape, type or range is wrong, or the stream is finished.
        """
        self._codec.check_codes(codes)
        return self._pieces.push(codes)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the codes; return the last audio, `[B, channels, n]`.

        Raises:
            ValueError: nothing was ever pushed, or the stream is finished.
        """
        return self._pieces.finish()


def stream_latents(codec: Codec, audio: Tensor, *, piece_frames: int = PIECE_FRAMES) -> Tensor:
    """Return the latents `[B, D, T]` of `audio [B, channels, samples]`, computed in pieces."""
    return _all(_encoder_pieces(codec, piece_frames), audio)


def stream_decode(codec: Codec, codes: Tensor, *, piece_frames: int = PIECE_FRAMES) -> Tensor:
    """Return the audio `[B, channels, T · hop]` of `codes [B, K, T]`, computed in pieces."""
    return _all(_decoder_pieces(codec, piece_frames), codes)


class _Pieces:
    """Cuts what arrives into pieces of one length, so that results do not depend on how it arrives."""

    def __init__(self, network: StreamingLayer, length: int, no_output: Tensor) -> None:
        if length < 1:
            raise ValueError("piece_frames must be at least 1")
        self._network = network
        self._length = length
        self._no_output = no_output
        self._waiting: Tensor | None = None
        self._finished = False

    def push(self, x: Tensor) -> Tensor:
        if self._finished:
            raise ValueError("the stream is finished: make a new one for the next audio")
        x = x if self._waiting is None else join(self._waiting, x)
        ready = x.shape[-1] // self._length * self._length
        self._waiting = x[..., ready:].clone()
        return self._concatenate(
            x, [self._network.step(piece, last=False) for piece in x[..., :ready].split(self._length, dim=-1)]
        )

    def finish(self) -> Tensor:
        if self._finished or self._waiting is None:
            raise ValueError("the stream is finished" if self._finished else "nothing was pushed to the stream")
        self._finished = True
        return self._concatenate(self._waiting, [self._network.step(self._waiting, last=True)])

    def _concatenate(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        outputs = [output for output in outputs if output.shape[-1]]
        if outputs:
            return torch.cat(outputs, dim=-1)
        return self._no_output.expand(x.shape[0], -1, -1)


def _encoder_pieces(codec: Codec, piece_frames: int) -> _Pieces:
    no_output = codec.quantizer.codebooks.new_zeros(1, codec.config.dimension, 0)
    return _Pieces(codec.encoder_stream(), piece_frames * codec.config.hop_length, no_output)


def _decoder_pieces(codec: Codec, piece_frames: int) -> _Pieces:
    no_output = codec.quantizer.codebooks.new_zeros(1, codec.config.channels, 0)
    return _Pieces(Chain([Pointwise(codec.quantizer.decode), codec.decoder_stream()]), piece_frames, no_output)


def _all(pieces: _Pieces, x: Tensor) -> Tensor:
    return torch.cat([pieces.push(x), pieces.finish()], dim=-1)
