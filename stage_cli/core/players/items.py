"""Training items of a player: a stretch of a stored song, made hard to hear, and the notes that go with it.

All is done in the log-mel domain. What an item is depends on the generator alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal

from stage_cli.core.music.beats import BeatGrid, metronome
from stage_cli.core.music.notes import DRUM_VOICES, voice_of
from stage_cli.core.players.config import (
    DENSITY_EDGES,
    LOUDNESS_EDGES,
    LOUDNESSES,
    PLACES,
    STEP_RATE,
    STYLE_FAMILIES,
    SWING_EDGES,
    TAGS,
    FeatureSettings,
    ItemSettings,
    PlayerConfig,
)
from stage_cli.core.players.drummers import FAMILIES, FITTING, NotatedPerformance, swing_of
from stage_cli.core.players.features import FLOOR_DB, add_powers
from stage_cli.core.players.grid_channels import grid_channels, pulses
from stage_cli.core.players.levels import mean_power, normalized
from stage_cli.core.players.store import DRUMS, StoredSong, whole_log_mel

Array = np.ndarray
_CLICK_RATE = 22_050
_CLICK_FRAMES = 9
_CLICK_OFFSETS = 8


def draw_item(
    song: StoredSong,
    performances: Sequence[NotatedPerformance],
    settings: ItemSettings,
    config: PlayerConfig,
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Draw an item of a song.

    Args:
        song: of the store.
        performances: of drummers; may be empty.
        settings: what is drawn how often.
        config: of the player.
        rng: decides all.

    Returns: the fields of `PlayerInputs`, for one item.
    """
    steps, rate = config.window, config.features.frame_rate
    frames = 2 * steps
    seconds = steps / STEP_RATE
    speed = float(np.exp(rng.uniform(-settings.speed, settings.speed)))
    performance = None
    if performances and not song.drummer and (rng.random() < settings.drummer or not song.has_notes):
        performance, speed = _find_performance(song, performances, settings, speed, rng)
    room = max(0.0, song.duration - seconds * speed)
    start = float(rng.uniform(0, room)) if rng.random() > 0.15 else -float(rng.uniform(0, 1.5))
    beats = (_continued(song.beats, -16, 64) - start) / speed
    downbeats = (_continued(song.downbeats, -2, 12) - start) / speed
    strokes = _strokes(song, performance, start, speed, beats, downbeats, rng)
    tokens = encode(strokes, steps + 1, offset=1)
    target, past = tokens[1:], tokens[:-1]
    heard = _hear(song, start, speed, frames, beats, downbeats, settings, config, rng)

    shown = rng.random() < settings.grid
    shown_bars = shown and rng.random() < settings.downbeats
    jittered = beats + rng.uniform(-0.008, 0.008, len(beats)) * (rng.random() < 0.5)
    bars = np.interp(downbeats, beats, jittered)
    if shown and rng.random() < settings.other_level:
        shown_bars = False
        jittered = jittered[int(rng.integers(2)) :: 2] if rng.random() < 0.5 else _doubled(jittered)
    grid = grid_channels(jittered if shown else None, bars if shown_bars else None, frames, rate)

    is_known = np.zeros(steps, bool)
    weight = np.full(steps, song.has_notes or performance is not None, np.float32)
    if rng.random() < settings.known:
        length = int(rng.integers(2 * STEP_RATE, 6 * STEP_RATE))
        first = int(rng.integers(-length // 2, steps - length // 2))
        is_known[:] = True
        is_known[max(0, first) : first + length] = False
        weight[is_known] = 0
    hidden = np.zeros(steps, bool)
    if rng.random() < settings.hidden:
        length = int(rng.integers(STEP_RATE, 6 * STEP_RATE))
        first = int(rng.integers(-length // 2, steps - length // 2))
        hidden[max(0, first) : first + length] = True

    heard_beats = np.stack([pulses(beats, frames, rate, width=1.5), pulses(downbeats, frames, rate, width=1.5)], axis=1)
    loss_of_beats = np.array([not shown, not shown_bars] * 2, np.float32)
    if not np.isfinite(heard).all():
        raise ValueError(f"{song.name} has levels that are not finite")
    return {
        "heard": heard,
        "grid": grid,
        "known": (target * is_known[:, None]).astype(np.int16),
        "is_known": is_known,
        "past": past,
        "hidden": hidden,
        "tags": _tags(strokes, beats, song, performance, settings, steps, rng),
        "target": target,
        "weight": weight,
        "beats": heard_beats.reshape(steps, 4),
        "beat_weight": loss_of_beats,
    }


def encode(strokes: Array, steps: int, *, offset: int = 0) -> Array:
    """Return strokes as tokens `[steps, voices]` int16.

    Args:
        strokes: `[strokes, 3]`: seconds, voice, velocity.
        steps: how many.
        offset: steps that lie before second 0.
    """
    tokens = np.zeros((steps, len(DRUM_VOICES)), dtype=np.int16)
    places = np.floor(strokes[:, 0] * STEP_RATE * PLACES + 0.5).astype(np.int64) + offset * PLACES
    step, place = places // PLACES, places % PLACES
    loudness = np.clip(strokes[:, 2].astype(np.int64) * LOUDNESSES // 128, 0, LOUDNESSES - 1)
    for at in np.argsort(loudness, kind="stable"):
        if 0 <= step[at] < steps:
            tokens[step[at], int(strokes[at, 1])] = 1 + loudness[at] * PLACES + place[at]
    return tokens


def _strokes(
    song: StoredSong,
    performance: NotatedPerformance | None,
    start: float,
    speed: float,
    beats: Array,
    downbeats: Array,
    rng: np.random.Generator,
) -> Array:
    """Return the target's strokes `[strokes, 3]` (seconds in the item, voice, velocity)."""
    if performance is None:
        rows = [part.notes for part in song.parts if part.stem == DRUMS]
        notes = np.concatenate(rows) if rows else np.zeros((0, 4), np.float32)
        times, keys, velocities = (notes[:, 0] - start) / speed, notes[:, 2], notes[:, 3]
        keep = times < song.duration / speed
    else:
        # Whole bars of the performance on the song's, from a bar that the drummer began anywhere.
        bars = performance.beats // 4
        span = int(np.searchsorted(downbeats, 12)) + 2
        first_bar = int(rng.integers(max(1, bars - span)))
        first_beat = int(np.abs(beats - downbeats[0]).argmin())
        place = performance.strokes[:, 0] - 4 * first_bar
        place = np.concatenate([place, place + performance.beats])  # and from its beginning again
        keys, velocities = np.tile(performance.strokes[:, 1], 2), np.tile(performance.strokes[:, 2], 2)
        times = np.interp(place + first_beat, np.arange(len(beats)), beats, left=-99, right=-99)
        keep = times > -1
    voices = np.array([_VOICE[int(key)] for key in keys], dtype=np.int64)
    keep &= (voices >= 0) & (times > -1) & (times < 40)
    return np.stack([times, voices, velocities], axis=1)[keep]


_VOICE = [DRUM_VOICES.index(voice) if (voice := voice_of(key)) is not None else -1 for key in range(128)]


def _find_performance(
    song: StoredSong,
    performances: Sequence[NotatedPerformance],
    settings: ItemSettings,
    speed: float,
    rng: np.random.Generator,
) -> tuple[NotatedPerformance | None, float]:
    """Choose a performance that fits the song's metre, swing and style, and the speed that brings it to its tempo."""
    if song.beats_per_bar != 4 or len(song.beats) < 8:
        return None, speed
    family = FAMILIES.get(song.style, "rock")
    swings = song.swing > 0.58 and family in ("jazz", "blues")
    bpm = 60 / float(np.median(np.diff(song.beats)))
    for _ in range(12):
        candidate = performances[int(rng.integers(len(performances)))]
        change = candidate.bpm / bpm * float(np.exp(rng.uniform(-0.1, 0.1)))
        if (
            candidate.family in FITTING[family]
            and candidate.swings == swings
            and abs(np.log(change)) <= settings.speed + 0.1
        ):
            return candidate, float(change)
    return None, speed


def _hear(
    song: StoredSong,
    start: float,
    speed: float,
    frames: int,
    beats: Array,
    downbeats: Array,
    settings: ItemSettings,
    config: PlayerConfig,
    rng: np.random.Generator,
) -> Array:
    """Return what the ears hear, `[frames, bands]`, tens of dB."""
    features = config.features
    kind = rng.random()
    if kind < settings.metronome:
        level = _metronome(beats, downbeats, frames, features, rng)
    elif kind < settings.metronome + settings.no_context:
        level = np.full((frames, features.bands), FLOOR_DB, np.float32)
    else:
        level = _mix(song, start, speed, frames, settings, features, rng)
    return disturbed(level, rng)


def _mix(
    song: StoredSong,
    start: float,
    speed: float,
    frames: int,
    settings: ItemSettings,
    features: FeatureSettings,
    rng: np.random.Generator,
) -> Array:
    others = [part for part in song.parts if part.stem != DRUMS]
    silence = np.full((frames, features.bands), FLOOR_DB, np.float32)
    if not others:
        return silence
    rate = features.frame_rate
    places = (start + np.arange(frames) / rate * speed) * rate
    first = max(0, int(np.floor(places[0])))
    last = min(len(others[0].level), int(np.ceil(places[-1])) + 2)
    sounding = [part for part in others if float(part.level[first:last].max(initial=FLOOR_DB)) > -60] or others
    if rng.random() < settings.one_part:
        chosen = [sounding[int(rng.integers(len(sounding)))]]
    else:
        chosen = [part for part in sounding if rng.random() < 0.75] or [sounding[int(rng.integers(len(sounding)))]]
    if rng.random() < settings.with_drums:
        chosen += [part for part in song.parts if part.stem == DRUMS]
    gains = rng.uniform(-settings.gain, settings.gain, len(chosen))
    mixed = add_powers(np.stack([part.level[first:last] for part in chosen]), gains)
    at = places - first
    low = np.clip(np.floor(at).astype(np.int64), 0, len(mixed) - 1)
    high = np.minimum(low + 1, len(mixed) - 1)
    share = np.clip(at - low, 0, 1).astype(np.float32)[:, None]
    level = mixed[low] * (1 - share) + mixed[high] * share
    outside = (places < 0) | (places > len(others[0].level) - 1)
    return np.where(outside[:, None], silence, level)


def disturbed(level: Array, rng: np.random.Generator) -> Array:
    """Return a mix as it might reach us: another colour, a room, a limiter, noise; in the ears' units.

    Args:
        level: `[frames, bands]`, dB.
        rng: decides all.
    """
    bands = np.arange(level.shape[1])
    if rng.random() < 0.5:  # pitch
        shift = float(rng.uniform(-2, 2))
        low = int(np.floor(shift))
        share = np.float32(shift - low)
        level = (
            level[:, np.clip(bands - low, 0, bands[-1])] * (1 - share)
            + level[:, np.clip(bands - low - 1, 0, bands[-1])] * share
        )
    if rng.random() < 0.35:  # a room, or a long release
        fading = float(np.exp(-1 / rng.uniform(2, 14)))
        share = float(rng.uniform(0.2, 0.95))
        power = np.exp(level * np.float32(np.log(10) / 10))
        tail = signal.lfilter([1 - fading], [1, -fading], power, axis=0)
        level = (10 * np.log10((1 - share) * power + share * tail + 1e-10)).astype(np.float32)
    if rng.random() < 0.6:  # an equalizer
        knots = int(rng.integers(5, 7))
        curve = np.interp(bands, np.linspace(0, bands[-1], knots), rng.normal(0, 6, knots))
        if rng.random() < 0.25:  # no lows, or no highs
            edge = float(rng.uniform(2, 30))
            curve -= np.clip(edge - bands, 0, None) * rng.uniform(2, 8)
        if rng.random() < 0.25:
            edge = float(rng.uniform(30, 70))
            curve -= np.clip(bands - edge, 0, None) * rng.uniform(2, 8)
        level = level + curve.astype(np.float32)
    reference = mean_power(level)
    if reference > FLOOR_DB + 25:
        if rng.random() < 0.45:  # a compressor, or its opposite
            exponent = np.float32(rng.uniform(0.55, 1.15))
            level = np.float32(reference) + (level - np.float32(reference)) * exponent
        if rng.random() < 0.5:  # noise
            tilt = rng.uniform(-0.4, 0.4) * (bands - 36) + rng.normal(0, 2, len(bands))
            noise = reference + rng.uniform(-55, -15) - 18 + tilt + rng.normal(0, 2.5, level.shape)
            level = add_powers(np.stack([level, noise.astype(np.float32)]))
        reference = mean_power(level)
    elif rng.random() < 0.5:  # silence, or nothing but noise
        level = rng.normal(-40, 3, level.shape).astype(np.float32)
        reference = mean_power(level)
    return normalized(level, reference + float(rng.uniform(-6, 6)))


def _metronome(
    beats: Array, downbeats: Array, frames: int, features: FeatureSettings, rng: np.random.Generator
) -> Array:
    clicks = _clicks(features)
    power = np.zeros((frames + 2 * _CLICK_FRAMES, features.bands), np.float32)
    accent = float(rng.choice([0.0, 6.0])) if rng.random() < 0.8 else float(rng.uniform(0, 12))
    for times, gain in ((beats, 0.0), (downbeats, accent)):
        for time in times:
            at = time * features.frame_rate
            near = int(np.floor(at))
            first = near - 2 + _CLICK_FRAMES
            if 0 <= first < frames + _CLICK_FRAMES:
                click = clicks[int((at - near) * _CLICK_OFFSETS)]
                part = power[first : first + _CLICK_FRAMES]
                np.maximum(part, click * 10 ** (gain / 10), out=part)
    return (10 * np.log10(power[_CLICK_FRAMES : _CLICK_FRAMES + frames] + 1e-10)).astype(np.float32)


@lru_cache(maxsize=2)
def _clicks(features: FeatureSettings) -> Array:
    """Return a click's power at each offset in a frame, `[offsets, frames, bands]`; it begins in the third frame."""
    clicks = []
    for offset in range(_CLICK_OFFSETS):
        time = (2 + (offset + 0.5) / _CLICK_OFFSETS) / features.frame_rate
        sound = metronome(BeatGrid((time,), ()), _CLICK_FRAMES / features.frame_rate, _CLICK_RATE)
        clicks.append(np.exp(whole_log_mel(sound, _CLICK_RATE, features)[:_CLICK_FRAMES] * (np.log(10) / 10)))
    return np.stack(clicks).astype(np.float32)


def _tags(
    strokes: Array,
    beats: Array,
    song: StoredSong,
    performance: NotatedPerformance | None,
    settings: ItemSettings,
    steps: int,
    rng: np.random.Generator,
) -> Array:
    """Return what is told of the notes, `[steps, tags]` int64."""
    tags = np.zeros((steps, len(TAGS)), np.int64)
    told = {name: rng.random() < settings.tag for name in TAGS}
    inside = strokes[(strokes[:, 0] >= 0) & (strokes[:, 0] < steps / STEP_RATE)]
    beat = float(np.median(np.diff(beats)))
    for column, name in enumerate(TAGS):
        if not told[name]:
            continue
        if name == "density":
            tags[:, column] = density_levels(inside[:, 0], beat, steps)
        elif name == "loudness" and len(inside):
            tags[:, column] = 1 + np.searchsorted(LOUDNESS_EDGES, inside[:, 2].mean())
        elif name == "swing":
            swing = song.swing if performance is None else swing_of(performance.strokes[:, 0])
            tags[:, column] = 1 + np.searchsorted(SWING_EDGES, swing)
        elif name == "fill":
            tags[:, column] = 1 + fills(inside, beat, steps)
        elif name == "style":
            family = FAMILIES.get(song.style, "rock") if performance is None else performance.family
            tags[:, column] = 1 + STYLE_FAMILIES.index(family)
    return tags


def density_levels(onsets: Array, beat: float, steps: int) -> Array:
    """Return the density tag of each step: strokes a beat of the 5 s around it, `[steps]`.

    Args:
        onsets: seconds.
        beat: seconds of a beat.
        steps: how many.
    """
    counts = np.zeros(steps)
    np.add.at(counts, np.clip((onsets * STEP_RATE).astype(np.int64), 0, steps - 1), 1)
    around = np.concatenate([[0], counts.cumsum()])
    low = np.maximum(np.arange(steps) - 62, 0)
    high = np.minimum(np.arange(steps) + 63, steps)
    return 1 + np.searchsorted(DENSITY_EDGES, (around[high] - around[low]) / (high - low) * STEP_RATE * beat)


def fills(strokes: Array, beat: float, steps: int) -> Array:
    """Return whether each step belongs to a fill: four strokes of toms and loud snares within a beat, `[steps]`."""
    first_tom = DRUM_VOICES.index("high_tom")
    snare = DRUM_VOICES.index("snare")
    toms = (strokes[:, 1] >= first_tom) & (strokes[:, 1] < first_tom + 3)
    loud = (strokes[:, 1] == snare) & (strokes[:, 2] >= 60)
    counts = np.zeros(steps)
    np.add.at(counts, np.clip((strokes[toms | loud, 0] * STEP_RATE).astype(np.int64), 0, steps - 1), 1)
    width = max(1, round(beat * STEP_RATE))
    around = np.convolve(counts, np.ones(width), mode="same") >= 3.5
    return np.convolve(around.astype(float), np.ones(width), mode="same") > 0


def _continued(marks: Array, before: int, after: int) -> Array:
    """Return marks and some that go on at the first and last tempo before and after them."""
    if len(marks) < 2:
        return np.asarray(marks, dtype=np.float64)
    opening, closing = marks[1] - marks[0], marks[-1] - marks[-2]
    return np.concatenate(
        [marks[0] + opening * np.arange(before, 0), marks, marks[-1] + closing * np.arange(1, after + 1)]
    )


def _doubled(marks: Array) -> Array:
    return np.interp(np.arange(2 * len(marks) - 1) / 2, np.arange(len(marks)), marks)


def load_performances(folder: Path | None) -> list[NotatedPerformance]:
    """Return the performances of a folder; none without one."""
    from stage_cli.core.players.drummers import read_drummers

    return [] if folder is None else read_drummers(folder)


def stack(items: Sequence[dict[str, Array]]) -> dict[str, Any]:
    """Stack the fields of items, `[B, …]`."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}
