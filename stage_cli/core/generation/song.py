"""A whole song: windows, one after the other, over a context of any length. Codes in, codes out.

Memory is that of one window: the caches are made anew for each, and what a song adds is its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.decode import decode_pieces
from stage_cli.core.generation.windows import plan_windows
from stage_cli.core.lm.transformer import LanguageModel


def uniform_numbers(seed: int, variations: int, codebooks: int, frames: int) -> Tensor:
    """Uniform numbers in [0, 1), `[variations, K, frames]`; variation i draws from seed + i alone.

    Each token of a song has a number of its own, so what is drawn does not depend on how the song is cut into windows
    or on how many variations are made together.
    """
    rows = []
    for variation in range(variations):
        generator = torch.Generator().manual_seed(seed + variation)
        # Frames outermost: a longer song starts with the numbers of a shorter one.
        rows.append(torch.rand(frames, codebooks, generator=generator).T)
    return torch.stack(rows)


def generate_song(
    lm: LanguageModel,
    context: Tensor,
    config: GenerationConfig,
    *,
    window: int,
    continuation: Tensor | None = None,
    piece: int | None = None,
    text: Tensor | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> Generator[Tensor]:
    """Write a stem over the whole context, window by window.

    Whoever stops before the end closes the iterator (`contextlib.closing`), which gives torch its threads back.

    Args:
        lm: the language model.
        context: `[1, K, T]` codes on the model's device.
        config: guidance, sampling, variations, advance, lookahead.
        window: frames of the model's window.
        continuation: `[1, K, Tk]` target codes with which every variation starts, or None.
        piece: most frames to yield at once, in the middle of a window, too; None yields whole windows. The codes are
            the same.
        text: `[1, L, D]` projected text, or None.
        on_frames: called after each step with the number of frames written so far; may raise to stop.

    Yields:
        The newest codes, `[variations, K, t]`; all of them in a row are the T frames of the stem.
    """
    K, total = context.shape[1:]
    written = context.new_empty(config.variations, K, total)
    done = 0
    if continuation is not None:
        done = min(continuation.shape[2], total)
        written[:, :, :done] = continuation[:, :, :done]
        yield written[:, :, :done]
    uniforms = uniform_numbers(config.seed, config.variations, K, total).to(context.device)
    advance = max(1, round(window * config.advance))
    lookahead = min(round(window * config.lookahead), window - advance)
    for part in plan_windows(total, window, advance, done, lookahead=lookahead):
        pieces = decode_pieces(
            lm,
            context[:, :, part.start : part.end],
            written[:, :, part.start : part.start + part.kept],
            uniforms[:, :, part.start : part.written],
            config,
            piece=window if piece is None else piece,
            text=text,
            on_step=None if on_frames is None else _offset(on_frames, part.start),
        )
        done = part.start + part.kept
        with closing(pieces):
            for codes in pieces:
                written[:, :, done : done + codes.shape[2]] = codes
                done += codes.shape[2]
                yield codes


def _offset(on_frames: Callable[[int], None], start: int) -> Callable[[int], None]:
    return lambda frames: on_frames(start + frames)
