"""A player on the path of `core/accompany.py`: it hears, writes notes, and an instrument plays. Imports no torch.

    player = StagePlayer.from_pretrained("player-drums")
    stem = player.accompany("mix.wav", kit="electronic", seed=1)
    stem.save("drums.wav")
    stem.notes, stem.grid, stem.midi()

Notes are played while they are written: live and final blocks are the same samples.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from stage_cli.core.accompany import (
    AccompanySettings,
    AudioBlock,
    HeardBeats,
    Progress,
    Stem,
    accompany,
    generation_for,
)
from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.contexts import ContextLike, context_of
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import Note, pitch_of
from stage_cli.core.players.generate import Hearing, Player, given_grid
from stage_cli.core.players.instruments import StemInstrument, load_instrument
from stage_cli.core.weights.hub import is_player, resolve
from stage_cli.errors import UsageError, WeightsError

HEARING_RATE = 44_100
"""Hz of the mono context that a player hears: most songs have it, and need no other."""

BALANCE: dict[str, float] = {"drums": -2.2}
"""LU by which a stem is louder than the context that it is played to: the median of 24 composed songs
(tests/benchmarks/stem_balance.py says how they are made); half of them lie within 1.5 LU of it."""

ALONE = -18.0
"""LUFS of a stem for a metronome, or for silence."""

_SILENT = -60.0  # LUFS; a context below is no measure of loudness
_RATES = (32_000, 96_000)  # Hz, lowest and highest at which instruments play; others are resampled
_LOUDEST_GAIN = 40.0  # dB
_TWO_SPEAKERS = 10 * math.log10(2)  # LU by which mono is louder from two speakers than one channel is measured
_BLOCK_SECONDS = 0.3


@dataclass(frozen=True)
class HeardSong:
    """What a player keeps of a context.

    Attributes:
        hearing: of the ears.
        beats: that it plays to.
        loudness: LUFS from two speakers; −inf for silence, None for a metronome.
        trusted: the beats that it plays to: none where they may be anywhere, for its ears then do better alone.
    """

    hearing: Hearing
    beats: HeardBeats
    loudness: float | None
    trusted: BeatGrid


class StagePlayer:
    """A model that writes notes for a context and plays them; an `Accompanist`.

    >>> player = StagePlayer.from_pretrained("player-drums")
    >>> stem = player.accompany("mix.wav", seed=1)
    >>> stem.save("drums.wav")

    Attributes:
        player: writes the notes.
        instrument: plays them.
        gain: dB beside the usual level.

    Raises:
        UsageError: the gain is no number of dB within ±40.
    """

    def __init__(self, player: Player, instrument: StemInstrument, gain: float = 0.0) -> None:
        if not -_LOUDEST_GAIN <= gain <= _LOUDEST_GAIN:
            raise UsageError(
                f"`gain` cannot be {gain:g}", next_step=f"allowed: {-_LOUDEST_GAIN:g} to {_LOUDEST_GAIN:g} dB"
            )
        self.player, self.instrument, self.gain = player, instrument, float(gain)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        kit: str | None = None,
        sounds: Path | str | None = None,
        gain: float = 0.0,
        offline: bool = False,
    ) -> StagePlayer:
        """Load a player by name.

        Args:
            name: "player-drums", a directory such as a training run's, or `org/name[@revision]` on the Hub.
            kit: name of a drum kit; the usual one if left out.
            sounds: in place of a kit: a SoundFont, an SFZ file or a folder of samples.
            gain: dB beside the usual level.
            offline: use only files that are already on this machine.

        Raises:
            UsageError: an unknown name, or a model that is no player.
            HubError: it cannot be fetched.
            WeightsError: its files cannot be used.
            StageError: the sounds cannot be read.
        """
        directory = resolve(name, offline=offline)
        if not is_player(directory):
            raise UsageError(f"{name} is no player", next_step="load it with StageModel.from_pretrained")
        try:
            player = Player.from_pretrained(directory)
        except Exception as error:  # safetensors has an error of its own, which is none of Python's
            raise WeightsError(
                f"{name} cannot be used as a player",
                why=f"{type(error).__name__}: {error}",
                next_step="fetch or train it again",
            ) from error
        return cls(player, load_instrument(player.config.stem, kit=kit, sounds=sounds), gain)

    def with_sound(
        self, *, kit: str | None = None, sounds: Path | str | None = None, gain: float | None = None
    ) -> StagePlayer:
        """Return the same player with another instrument or level; what is left out stays. Raises as for a model."""
        instrument = self.instrument
        if kit is not None or sounds is not None:
            instrument = load_instrument(self.player.config.stem, kit=kit, sounds=sounds)
        return StagePlayer(self.player, instrument, self.gain if gain is None else gain)

    @overload
    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        grid: BeatGrid | None = None,
        seed: int | None = None,
        variations: None = None,
        temperature: float | None = None,
        kit: str | None = None,
        sounds: Path | str | None = None,
        gain: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Stem: ...

    @overload
    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        grid: BeatGrid | None = None,
        seed: int | None = None,
        variations: int,
        temperature: float | None = None,
        kit: str | None = None,
        sounds: Path | str | None = None,
        gain: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> list[Stem]: ...

    def accompany(
        self,
        context: ContextLike | None = None,
        *,
        sample_rate: int | None = None,
        bpm: float | None = None,
        beats_per_bar: int | None = None,
        offset: float | None = None,
        start: float = 0.0,
        duration: float | None = None,
        grid: BeatGrid | None = None,
        seed: int | None = None,
        variations: int | None = None,
        temperature: float | None = None,
        kit: str | None = None,
        sounds: Path | str | None = None,
        gain: float | None = None,
        on_audio: Callable[[np.ndarray], None] | None = None,
        on_progress: Progress | None = None,
    ) -> Stem | list[Stem]:
        """Write a stem that fits a context, in stereo, at the context's rate and exactly as long.

        The same seed and settings write the same stem as `stage generate`.

        Args:
            context: an audio file; or an array `[frames]` or `[channels, frames]` of floats, full scale ±1, with its
                `sample_rate`. Leave it out where `bpm` is given.
            sample_rate: Hz of an array.
            bpm: no context but a tempo, 20 to 400 beats a minute.
            beats_per_bar: with `bpm`; 4 if left out.
            offset: with `bpm`: seconds of the first downbeat; 0 if left out.
            start: seconds of the context to skip.
            duration: seconds to write; the whole context if left out, 30 s with `bpm`.
            grid: the context's beats and downbeats, in seconds from `start`; heard if left out.
            seed: 0 or more; fixes the stem. Random if left out: see `Stem.seed`.
            variations: write so many takes, with the seeds `seed`, `seed + 1`, …, and return a list of them.
            temperature: of loudness and timing; 0 takes the likeliest. The player's own if left out.
            kit: name of a drum kit, in place of the player's.
            sounds: in place of a kit: a SoundFont, an SFZ file or a folder of samples.
            gain: dB beside the usual level, in place of the player's.
            on_audio: called with the first take's audio while it is written: `[2, frames]` float32 at the context's
                rate, about 0.3 s each time. It may exceed full scale.
            on_progress: called with the phase ("read" or "generate"), seconds done and seconds in all. An exception
                that it raises ends the work.

        Returns:
            A stem, with its notes and beats; with `variations` a list of stems.

        Raises:
            UsageError: a value is not possible, or two do not go together; an array without its rate.
            AudioError: a file cannot be read.
            StageError: the sounds cannot be read.
        """
        player = self.with_sound(kit=kit, sounds=sounds, gain=gain)
        source = context_of(context, sample_rate, bpm, beats_per_bar, offset, start, duration)
        generation = generation_for(
            player,
            source,
            {} if temperature is None else {"temperature": temperature},
            seed=secrets.randbelow(2**31) if seed is None else seed,
            variations=1 if variations is None else variations,
        )
        settings = AccompanySettings(generation, grid=grid)
        stems = accompany(player, source, settings, on_progress or (lambda *_: None), on_audio=on_audio)
        return stems[0] if variations is None else stems

    # The player as an `Accompanist`: what `core/accompany.py` needs of it.

    @property
    def stem(self) -> str | None:
        """The stem that it plays."""
        return self.player.config.stem

    @property
    def channels(self) -> int:
        """Its takes are stereo."""
        return 2

    @property
    def context_rate(self) -> int:
        """Hz of the mono context that it hears."""
        return HEARING_RATE

    @property
    def levels_contexts(self) -> bool:
        """False: it hears levels relative to the context's own."""
        return False

    @property
    def remarks(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def sampling_names(self) -> tuple[str, ...]:
        """Only the temperature."""
        return ("temperature",)

    def sampling_for(self, *, metronome: bool) -> Mapping[str, float]:  # noqa: ARG002 - the same for all contexts
        """Its own temperature."""
        return {"temperature": self.player.settings.temperature}

    def take_rate(self, context_rate: int) -> int:
        """Hz at which it plays: the context's own, from 32 to 96 kHz."""
        lowest, highest = _RATES
        return context_rate if lowest <= context_rate <= highest else HEARING_RATE

    def describe(self, description: str | None) -> None:
        """Refuse a description.

        Raises:
            UsageError: there is one.
        """
        if description is not None:
            raise UsageError(
                "A player takes no `description`", next_step="leave it out, or use a model that takes text"
            )

    def read(self, blocks: Iterable[np.ndarray], *, grid: BeatGrid | None = None, metronome: bool = False) -> HeardSong:
        """Hear a context, `[frames]` blocks at `context_rate`, and find its beats."""
        meter = LoudnessMeter(HEARING_RATE, 1)

        def measured() -> Iterator[np.ndarray]:
            for block in blocks:
                meter.push(block)
                yield block

        hearing = self.player.listen(measured(), HEARING_RATE)
        found = self.player.grid_of(hearing) if grid is None else given_grid(grid)
        beats = HeardBeats(found.grid, found.bpm, found.beats_per_bar, found.confidence, given=grid is not None)
        loudness = None if metronome else meter.integrated + _TWO_SPEAKERS
        return HeardSong(hearing, beats, loudness, found.trusted)

    def beats_of(self, context: HeardSong) -> HeardBeats:
        """Return the beats that it plays to."""
        return context.beats

    def generate(
        self,
        context: HeardSong,
        config: GenerationConfig,
        *,
        given: None = None,  # noqa: ARG002 - it takes no description
        continuation: HeardSong | None = None,
        live_seconds: float | None = None,
        final: bool = True,
        on_seconds: Callable[[float], None] = lambda _: None,
        sample_rate: int | None = None,
    ) -> Generator[AudioBlock]:
        """Write the notes of each take, one take after the other, and play them as they come.

        Args:
            context: as `read` returned it.
            config: temperature, seed, takes.
            given: nothing.
            continuation: cannot be given.
            live_seconds: about how long live blocks are; None: there are none.
            final: whether there are blocks that are not live; without either nothing is played.
            on_seconds: called as notes are written, with the seconds of all takes so far; may raise to stop.
            sample_rate: Hz of the blocks; 44100 if left out.

        Yields:
            Blocks of a take, `[2, frames]`, and blocks of its notes, without frames.

        Raises:
            UsageError: there is a continuation.
        """
        if continuation is not None:
            raise UsageError(
                "A player takes no `continuation`", next_step="leave it out, or use a model that writes audio"
            )
        seconds, sample_rate = context.hearing.seconds, sample_rate or HEARING_RATE
        settings = replace(self.player.settings, temperature=config.temperature)
        plays = final or live_seconds is not None
        step = live_seconds or _BLOCK_SECONDS
        frames = math.ceil(seconds * sample_rate) + 1
        gain = np.float32(10 ** (self._level(context, sample_rate) / 20)) if plays else np.float32(1)
        silence = np.zeros((2, 0), dtype=np.float32)
        for take in range(config.variations):
            session = self.instrument.session(sample_rate, config.seed + take) if plays else None

            def played(samples: np.ndarray, take: int = take, gain: np.float32 = gain) -> Iterator[AudioBlock]:
                if len(samples):
                    audio = np.ascontiguousarray(samples.T) * gain
                    if live_seconds is not None:
                        yield AudioBlock(take, audio, live=True)
                    if final:
                        yield AudioBlock(take, audio)

            waiting: list[Note] = []
            due = step
            notes = self.player.notes(context.hearing, context.trusted, seed=config.seed + take, settings=settings)
            for note in notes:
                # All notes before this one are known now.
                if note.onset >= due:
                    if waiting:
                        yield AudioBlock(take, silence, notes=tuple(waiting))
                    if session is not None:
                        yield from played(session.push(waiting, math.floor(note.onset * sample_rate)))
                    waiting, due = [], note.onset + step
                    on_seconds((take * seconds + note.onset) / config.variations)
                waiting.append(note)
            if waiting:
                yield AudioBlock(take, silence, notes=tuple(waiting))
            if session is not None:
                # In pieces: what follows the last note may be long.
                yield from played(session.push(waiting, math.floor(waiting[-1].onset * sample_rate) if waiting else 0))
                for until in range(0, frames, sample_rate):
                    yield from played(session.push((), until))
                yield from played(session.finish(frames))
            on_seconds((take + 1) * seconds / config.variations)

    def _level(self, context: HeardSong, sample_rate: int) -> float:
        """Return the dB by which the instrument is turned up."""
        loudness = context.loudness
        level = ALONE if loudness is None or loudness < _SILENT else loudness + BALANCE.get(self.stem or "", 0.0)
        reference = usual_loudness(self.instrument, sample_rate)
        return (level - reference if math.isfinite(reference) else 0.0) + self.gain


def usual_loudness(instrument: StemInstrument, sample_rate: int) -> float:
    """Return the LUFS of an instrument that plays a plain groove, so that all kits are alike in a mix.

    A performance is not measured: one that is played softly is to be soft.
    """
    meter = LoudnessMeter(sample_rate, 2)
    meter.push(instrument.render(_GROOVE, round(_GROOVE_SECONDS * sample_rate), sample_rate, seed=0))
    return meter.integrated


_EIGHTH = 0.3  # seconds: 100 bpm
_GROOVE_SECONDS = 8 * _EIGHTH
_GROOVE: tuple[Note, ...] = tuple(
    Note(place * _EIGHTH, 0.1, pitch_of(voice), velocity)
    for place in range(8)
    for voice, velocity, places in (
        ("closed_hat", 75, range(8)),
        ("kick", 102, (0, 4, 5)),
        ("snare", 107, (2, 6)),
    )
    if place in places
)
