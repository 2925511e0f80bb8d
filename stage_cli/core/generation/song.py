"""Windows over a context longer than the model's: each continues the tokens written so far, and none is rewritten.

A window may hear further than it writes: what is played at its end then fits what comes next, too.

One window: prefill, then one step per frame. Owns the caches and the loop; the language model owns the weights.

Each sample has a conditional row (context and text) and, under guidance, an unconditional one (neither). The
unconditional row of a STAGE model starts at the separator, in a cache of its own: its context is neither computed nor
attended to. All variations of one context share its prefill.

A whole song: windows, one after the other, over a context of any length. Codes in, codes out.

Memory is that of one window: the caches are made anew for each, and what a song adds is its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import StaticSteps
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.generation.window import PlainSteps, Steps, UniformNumbers, prefill
from stage_cli.core.lm.transformer import LanguageModel


@dataclass(frozen=True)
class Window:
    """One stretch of a song, in frames.

    Attributes:
        start: first frame.
        length: frames of context in this window.
        kept: frames at its start whose tokens are already written.
        target: frames whose tokens are written after it, the kept ones included; the others of its context are only
            heard.
    """

    start: int
    length: int
    kept: int
    target: int

    @property
    def end(self) -> int:
        """The frame after the last that is heard."""
        return self.start + self.length

    @property
    def written(self) -> int:
        """The frame after the last that is written."""
        return self.start + self.target


def plan_windows(total: int, window: int, advance: int, done: int = 0, *, lookahead: int = 0) -> Iterator[Window]:
    """Cover frames [done, total) with windows.

    All windows but a short song's only one have the model's full length; the last ends exactly at the end of the song
    and is written to its end.

    Args:
        total: frames of the song.
        window: frames of the model's window.
        advance: frames by which windows move, 1 to `window − lookahead`.
        done: frames at the start that exist already (a continuation).
        lookahead: frames at a window's end that it hears and leaves to the next.

    Raises:
        ValueError: sizes that make no progress.
    """
    if lookahead < 0 or not 1 <= advance <= window - lookahead:
        beyond = f" and look ahead by {lookahead}" if lookahead else ""
        raise ValueError(f"a window of {window} frames cannot advance by {advance}{beyond}")
    while done < total:
        # Behind `done` lies as much of the past as a moved window keeps; at the song's end, more.
        start = max(0, min(done - (window - lookahead - advance), total - window))
        length = min(window, total - start)
        part = Window(start, length, done - start, length - (lookahead if start + length < total else 0))
        yield part
        done = part.written


@torch.inference_mode()
def decode_window(
    lm: LanguageModel,
    context: Tensor,
    known: Tensor,
    uniforms: Tensor,
    config: GenerationConfig,
    *,
    text: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Write the rest of one window's target at once; the arguments are those of `decode_pieces`.

    Returns:
        `[B · variations, K, Tt]`, the known frames first.
    """
    whole = uniforms.shape[2]
    pieces = decode_pieces(lm, context, known, uniforms, config, piece=whole, text=text, on_step=on_step)
    return torch.cat([known, *pieces], dim=2)


@torch.inference_mode()
def decode_pieces(
    lm: LanguageModel,
    context: Tensor,
    known: Tensor,
    uniforms: Tensor,
    config: GenerationConfig,
    *,
    piece: int,
    text: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Generator[Tensor]:
    """Write the rest of one window's target, and hand it out while it grows.

    Args:
        lm: the language model.
        context: `[B, K, Tc]` codes under the window; Tc = 0 for none.
        known: `[B · variations, K, Tk]` target codes that exist already; they are never changed.
        uniforms: `[B · variations, K, Tt]`, uniform numbers in [0, 1), one for each token of the target.
        config: guidance and sampling.
        piece: frames to hand out at once, as soon as they are whole: no later step changes them.
        text: `[B, L, D]` projected text, or None.
        on_step: called after each step with the number of whole frames; may raise to stop.

    Yields:
        The newest frames, `[B · variations, K, piece]`, the last time what is left; all of them follow the known ones.
    """
    kept, frames = known.shape[2], uniforms.shape[2]
    target = torch.cat([known, known.new_full((*known.shape[:2], frames - kept), lm.config.pad)], dim=2)
    groups = [prefill(lm, context, target, text)]
    # Without a separator the context is the past itself, and only the text tells the two rows apart.
    if config.guidance != 1 and (text is not None or (lm.config.separator and context.shape[2])):
        past = context[:, :, :0] if lm.config.separator else context
        groups.append(prefill(lm, past, target, None))
    numbers = UniformNumbers.of(uniforms, kept)
    steps: Steps | None = steps_for(lm)(lm, groups, numbers, kept, config)
    rows = len(groups) * uniforms.shape[0]
    del groups  # what the steps need of them they have taken over
    sent = kept
    with StepThreads(lm, rows) as threads:
        for step in range(kept, numbers.steps):
            steps.run(step)
            whole = max(kept, step + 2 - lm.config.codebooks)
            if on_step is not None:
                on_step(whole)
            if piece <= whole - sent and whole < frames:
                with threads.paused():
                    yield steps.frames(sent, whole)
                sent = whole
            threads.step_done()
    if sent < frames:
        last = steps.frames(sent, frames)
        steps = None  # its caches are needed no more, and whoever decodes the frames needs memory
        yield last


def steps_for(lm: LanguageModel) -> type[PlainSteps | StaticSteps]:
    """Return how a model's steps are taken on its device."""
    return StaticSteps if lm.embeddings.device.type == "cuda" else PlainSteps


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
