"""The sampler: when a stroke sounds, what silences it, and that a stream is a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from stage_cli.core.music.notes import Note
from stage_cli.core.players.room import BLOCK, BusConfig, RoomConfig, impulse_response
from stage_cli.core.players.sampler import Cut, Sampler, Strike, pan_gains

RATE = 48_000


@dataclass
class FixedSounds:
    """Answers notes by pitch with given strikes."""

    by_pitch: dict[int, Strike]
    room: RoomConfig | None = None
    bus: BusConfig | None = None

    def perform(self, sample_rate: int, rng: np.random.Generator) -> FixedSounds:
        return self

    def strikes(self, note: Note) -> Sequence[Strike]:
        return (self.by_pitch[note.pitch],)


def tone(seconds: float, hertz: float = 300.0) -> np.ndarray:
    return np.cos(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def hit(onset: float, pitch: int = 36, duration: float = 0.1) -> Note:
    return Note(onset, duration, pitch, 100)


def largest_step(samples: np.ndarray) -> float:
    return float(np.abs(np.diff(samples, axis=0)).max())


def test_a_strike_begins_at_its_note() -> None:
    click = np.zeros(10, dtype=np.float32)
    click[0] = 1
    sampler = Sampler(FixedSounds({36: Strike(click, 1.0, 0.5)}))
    onsets = [0.0, 0.1, 0.33333, 1.0]
    out = sampler.render([hit(onset) for onset in onsets], 60_000, RATE, seed=0)
    assert np.flatnonzero(out[:, 0]).tolist() == [round(onset * RATE) for onset in onsets]
    assert np.array_equal(out[:, 1], out[:, 0] * 0.5)


@pytest.mark.parametrize("cuts", [(7,), (4096,), (1, 5000, 5001, 20_000), tuple(range(0, 60_000, 480))])
def test_a_stream_is_the_file(cuts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(30_000).astype(np.float32) * 0.4
    sounds = FixedSounds(
        {
            36: Strike(noise, 1.0, 0.7, 0.3, ("a",), (Cut("b", 0.02),)),
            38: Strike(np.stack([noise, noise[::-1]], 1), 0.5, 1.0, 0.5, ("b",), (Cut("a", 0.3),), hold=0.2),
        },
        RoomConfig(),
        BusConfig(),
    )
    sampler = Sampler(sounds)
    notes = [hit(onset, 36 if number % 3 else 38) for number, onset in enumerate(np.sort(rng.uniform(0, 1.3, 25)))]
    whole = sampler.render(notes, 61_234, RATE, seed=5)
    session = sampler.session(RATE, 5)
    parts = []
    begun = 0
    for until in cuts:
        arriving = [note for note in notes if begun <= round(note.onset * RATE) < until]
        parts.append(session.push(arriving, until))
        assert sum(map(len, parts)) == until // BLOCK * BLOCK
        begun = until
    parts.append(session.push([note for note in notes if round(note.onset * RATE) >= begun], 61_234))
    parts.append(session.finish(61_234))
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_choke_fades_and_does_not_click() -> None:
    ring = tone(2.0)
    silent = np.zeros(10, dtype=np.float32)
    sounds = FixedSounds(
        {46: Strike(ring, 1.0, 1.0, groups=("hat",)), 42: Strike(silent, 1.0, 1.0, cuts=(Cut("hat", 0.03),))}
    )
    out = Sampler(sounds).render([hit(0.0, 46), hit(0.5, 42)], RATE, RATE, seed=0)[:, 0]
    cut = round(0.5 * RATE)
    assert np.array_equal(out[:cut], ring[:cut])
    assert np.abs(out[cut : cut + 200]).max() > 0.8
    assert not out[cut + round(0.03 * RATE) :].any()
    assert largest_step(out) <= largest_step(ring) * 1.05


def test_a_choke_in_a_release_goes_on_from_where_it_is() -> None:
    ring = np.ones(2 * RATE, dtype=np.float32)
    sounds = FixedSounds(
        {
            60: Strike(ring, 1.0, 1.0, groups=("a",), hold=0.1, release=0.5),
            61: Strike(np.zeros(4, dtype=np.float32), 1.0, 1.0, cuts=(Cut("a", 0.05),)),
        }
    )
    out = Sampler(sounds).render([hit(0.0, 60), hit(0.3, 61)], RATE, RATE, seed=0)[:, 0]
    assert largest_step(out) < 0.002
    assert out[round(0.29 * RATE)] > 0.5
    assert not out[round(0.351 * RATE) :].any()


def test_a_held_note_is_let_go() -> None:
    sounds = FixedSounds({60: Strike(np.ones(RATE, dtype=np.float32), 1.0, 1.0, hold=0.25, release=0.1)})
    out = Sampler(sounds).render([hit(0.0, 60)], RATE, RATE, seed=0)[:, 0]
    assert (out[: round(0.25 * RATE)] == 1).all()
    assert not out[round(0.35 * RATE) :].any()


def test_notes_come_in_order() -> None:
    sampler = Sampler(FixedSounds({36: Strike(tone(0.1), 1.0, 1.0)}))
    session = sampler.session(RATE, 0)
    session.push([hit(0.5)], 30_000)
    with pytest.raises(ValueError, match="in order"):
        session.push([hit(0.4)], 40_000)
    session.finish(50_000)
    with pytest.raises(ValueError, match="after finish"):
        session.push([], 60_000)


def test_finish_takes_nothing_back() -> None:
    session = Sampler(FixedSounds({})).session(RATE, 0)
    session.push([], 3 * BLOCK)
    with pytest.raises(ValueError, match="returned already"):
        session.finish(BLOCK)


@pytest.mark.parametrize("pan", [-1, -0.5, 0, 0.3, 1])
def test_pan_keeps_the_power(pan: float) -> None:
    left, right = pan_gains(pan)
    assert left**2 + right**2 == pytest.approx(1)
    assert (right > left) == (pan > 0) or pan == 0


def test_the_room_answers_as_a_convolution_does() -> None:
    room = RoomConfig(seconds=0.3)
    response = impulse_response(room, RATE)
    assert np.array_equal(response, impulse_response(room, RATE))
    assert float((response.astype(float) ** 2).sum()) / 2 == pytest.approx(1, rel=0.01)
    sound = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    sounds = FixedSounds({36: Strike(sound, 0.0, 0.0, 1.0)}, room)
    out = Sampler(sounds).render([hit(0.01)], RATE, RATE, seed=0)
    expected = np.zeros((RATE, 2))
    for channel in (0, 1):
        full = np.convolve(sound.astype(float), response[:, channel].astype(float))
        expected[480 : 480 + len(full), channel] = full
    assert np.abs(out - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_bus_leaves_the_quiet_alone_and_holds_the_loud() -> None:
    def level(gain: float) -> float:
        sounds = FixedSounds({36: Strike(tone(1.0) * np.float32(gain), 1.0, 1.0)}, bus=BusConfig(-20.0, 2.0))
        out = Sampler(sounds).render([hit(0)], RATE, RATE, seed=0)
        assert np.abs(out).max() < 1
        return float(20 * np.log10(np.sqrt((out[RATE // 2 :] ** 2).mean()) / gain * np.sqrt(2)))

    assert level(0.001) == pytest.approx(0, abs=0.05)
    assert -12 < level(1.0) < -6
    loud = Sampler(FixedSounds({36: Strike(tone(1.0), 3.0, 3.0)}, bus=BusConfig(0.0, 1.0)))
    assert np.abs(loud.render([hit(0)], RATE, RATE, seed=0)).max() < 1


def test_many_voices_stay_few() -> None:
    sampler = Sampler(FixedSounds({36: Strike(np.full(RATE * 5, 0.01, dtype=np.float32), 1.0, 1.0)}))
    session = sampler.session(RATE, 0)
    for second in range(4):
        session.push([hit(second + number / 1000) for number in range(900)], (second + 1) * RATE)
    assert len(session._voices) < 300


def test_silence_is_silence() -> None:
    out = Sampler(FixedSounds({}, RoomConfig(), BusConfig())).render([], 10_000, RATE, seed=0)
    assert out.shape == (10_000, 2)
    assert out.dtype == np.float32
    assert not out.any()


def test_nothing_subnormal_is_left_of_a_sound() -> None:
    sounds = FixedSounds({36: Strike(tone(0.05), 1.0, 0.3, 0.5)}, RoomConfig(), BusConfig())
    out = Sampler(sounds).render([hit(0)], 4 * RATE, RATE, seed=0)
    size = np.abs(out[out != 0])
    assert size.min() > np.finfo(np.float32).tiny
    assert not out[2 * RATE :].any()
