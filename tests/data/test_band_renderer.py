"""What the renderers sound like: measured by other libraries against the score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
from scipy.signal import butter, sosfilt

from stage_cli.core.audio.loudness import k_weighting
from stage_cli.core.band import effects, soundfont
from stage_cli.core.band.composer import compose
from stage_cli.core.band.demo_data import compose_and_render
from stage_cli.core.band.instruments import DRUM_TRACKS, INSTRUMENTS, KICK, SAMPLE_RATE
from stage_cli.core.band.mixing import RenderedPart, place_notes, place_strokes, render
from stage_cli.core.band.randomness import generator
from stage_cli.core.band.score import Score, ScoreNote
from stage_cli.core.band.sounds import SynthBank
from stage_cli.core.band.synth_drums import build_hand_percussion, build_kit
from stage_cli.core.band.theory import PITCH_CLASSES
from stage_cli.core.band.timbres import build_voice

SEED = 0
KITS = ("rock", "studio", "dry", "garage", "jazz", "electronic", "eighties")
PITCHED = [name for name in INSTRUMENTS if name not in ("drums", "percussion")]

Song = tuple[Score, list[RenderedPart]]


def make(index: int, seconds: float) -> Song:
    score = compose(SEED, index, seconds)
    return score, render(score, SynthBank(), (SEED, index))


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    return [make(index, 24.0) for index in range(10)]


def mixed(tracks: list[RenderedPart]) -> np.ndarray:
    return np.sum([track.audio for track in tracks], axis=0)


def energy_onsets(mono: np.ndarray) -> np.ndarray:
    """Seconds at which the energy of 2 ms jumps by 10 dB over the loudest of the 20 ms before."""
    hop = SAMPLE_RATE // 500
    energy = 10 * np.log10(np.square(mono[: len(mono) // hop * hop]).reshape(-1, hop).mean(axis=1) + 1e-9)
    before = np.array([energy[max(0, i - 10) : i].max(initial=-90.0) for i in range(len(energy))])
    jumps = np.flatnonzero((energy > before + 10) & (energy > energy.max() - 30))
    first = [jump for number, jump in enumerate(jumps) if number == 0 or jump - jumps[number - 1] > 15]
    return np.array(first) * hop / SAMPLE_RATE


def test_kicks_sound_where_the_score_has_them(songs: list[Song]) -> None:
    found = total = 0
    for score, tracks in songs:
        kicks = [track for track in tracks if track.track_type == "kick drum"]
        if not kicks:
            continue
        written = np.array([note.onset for part in score.parts for note in part.notes if note.pitch == KICK])
        heard = energy_onsets(kicks[0].audio.mean(axis=0))
        assert len(heard) > 3
        distance = np.abs(heard[:, None] - written[None]).min(axis=1)
        found, total = found + int((distance < 0.008).sum()), total + len(distance)
    assert found / total > 0.98


def test_drums_lie_on_the_annotated_grid(songs: list[Song]) -> None:
    """Onsets of the kick are within 30 ms of a sixteenth (of a swung one, or a triplet) of the annotated beats."""
    near = total = 0
    on_beat: list[np.ndarray] = []
    for score, tracks in songs:
        kicks = [track for track in tracks if track.track_type == "kick drum"]
        if not kicks:
            continue
        beats = np.arange(len(score.beat_times))
        parts = np.unique([*np.arange(0, 1, 1 / score.meter.steps_per_beat), 1 / 3, 2 / 3, score.swing])
        grid = np.interp((beats[:, None] + parts[None]).ravel(), beats, score.beat_times)
        heard = energy_onsets(kicks[0].audio.mean(axis=0))
        on_beat += [np.abs(heard[:, None] - np.array(score.beat_times)[None]).min(axis=1) < 0.03]
        distance = np.abs(heard[:, None] - grid[None]).min(axis=1)
        near, total = near + int((distance < 0.03).sum()), total + len(heard)
    assert near / total > 0.97
    assert np.concatenate(on_beat).mean() > 0.45


def test_essentia_hears_the_annotated_beats_and_keys(
    songs: list[Song], record_property: Callable[[str, object], None]
) -> None:
    essentia = pytest.importorskip("essentia.standard")
    mir_eval = pytest.importorskip("mir_eval")
    enharmonic = {"Db": "C#", "D#": "Eb", "Gb": "F#", "G#": "Ab", "A#": "Bb"}
    scores, tempos, keys = [], 0, 0
    for song, tracks in songs:
        mono = mixed(tracks).mean(axis=0).astype(np.float32)
        bpm, beats, *_ = essentia.RhythmExtractor2013(method="multifeature")(mono)
        truth = np.array(song.beat_times)
        trim = mir_eval.beat.trim_beats
        scores.append(mir_eval.beat.f_measure(trim(truth), trim(beats)))
        tempos += abs(bpm / np.median(60 / np.diff(truth)) - 1) < 0.02
        tonic, scale, _ = essentia.KeyExtractor(profileType="edma")(mono)
        keys += (enharmonic.get(tonic, tonic), scale) == (PITCH_CLASSES[song.key.tonic], song.key.scale)
    record_property("beat F", [round(score, 2) for score in scores])
    assert sum(score >= 0.9 for score in scores) >= 8, scores
    assert tempos >= 8
    assert keys >= 8


def test_mixes_do_not_clip_and_have_a_usual_loudness(songs: list[Song]) -> None:
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    loudness = []
    for _, tracks in songs:
        mix = mixed(tracks)
        assert np.isfinite(mix).all()
        assert np.abs(mix).max() <= 1.0
        loudness.append(meter.integrated_loudness(mix.T.astype(np.float64)))
    assert min(loudness) > -22
    assert max(loudness) < -13
    assert -19 < np.mean(loudness) < -14


def test_no_stem_is_silent_and_none_drowns_the_others(songs: list[Song]) -> None:
    sections = k_weighting(SAMPLE_RATE)
    for score, tracks in songs:
        played = {part.stem for part in score.parts if part.notes}
        stems: dict[str, np.ndarray] = {}
        for track in tracks:
            stems[track.stem] = stems.get(track.stem, 0) + track.audio
        assert set(stems) == played
        power = {name: np.square(sosfilt(sections, audio, axis=1)).mean() for name, audio in stems.items()}
        whole = np.square(sosfilt(sections, mixed(tracks), axis=1)).mean()
        for name, audio in stems.items():
            assert np.abs(audio).max() > 0.005, (score.style, name)
        assert -12 < 10 * np.log10(power["drums"] / whole) < 2
        if "bass" in power and len([n for p in score.parts if p.stem == "bass" for n in p.notes]) > 10:
            assert -22 < 10 * np.log10(power["bass"] / whole) < 1


def test_drums_are_several_tracks(songs: list[Song]) -> None:
    for _, tracks in songs:
        types = [track.track_type for track in tracks if track.stem == "drums"]
        assert len(types) == len(set(types))
        assert set(types) <= {*DRUM_TRACKS, "overheads"}
        assert len(types) >= 3


def test_the_same_song_twice_is_the_same_to_the_last_bit() -> None:
    one, other = compose_and_render(SEED, 4, 6.0), compose_and_render(SEED, 4, 6.0)
    assert one.keys() == other.keys()
    for name, stem in one.items():
        assert stem.shape == (6 * SAMPLE_RATE, 2)
        assert stem.dtype == np.float32
        np.testing.assert_array_equal(stem, other[name])


def test_a_shorter_song_sounds_the_same_but_for_one_gain() -> None:
    for index in (1, 3):
        long, short = compose_and_render(SEED, index, 20.0), compose_and_render(SEED, index, 9.0)
        frames = 9 * SAMPLE_RATE
        before = np.concatenate([long[name][:frames].ravel() for name in short])
        after = np.concatenate([short[name].ravel() for name in short])
        gain = float(before @ after / (before @ before))
        assert np.abs(gain * before - after).max() < 2e-5
        for name in long.keys() - short.keys():  # enters later
            assert not np.any(long[name][:frames])


@pytest.mark.parametrize("instrument", PITCHED)
def test_notes_are_in_tune_and_end_without_a_click(instrument: str) -> None:
    known = INSTRUMENTS[instrument]
    pitch = min(max(57, known.lowest + 5), known.highest - 3)
    voice = build_voice(instrument, generator(3, instrument))
    note = ScoreNote(0.1, 1.0, pitch, 0.8, 0.0)
    sound = place_notes([note], voice, instrument, 3 * SAMPLE_RATE, (3,))
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() > 0.1
    assert not sound[: round(0.1 * SAMPLE_RATE)].any()
    assert not sound[round(2.4 * SAMPLE_RATE) :].any()  # even the longest release is over
    last = np.flatnonzero(sound)[-1]
    assert np.abs(sound[last - 30 : last + 1]).max() < 0.01 * np.abs(sound).max()
    # No step: high frequencies at the end are no louder than in the note itself.
    high = sosfilt(butter(4, 10_000, "highpass", fs=SAMPLE_RATE, output="sos"), sound)
    end = round(1.1 * SAMPLE_RATE)
    assert np.abs(high[end - 500 :]).max() <= np.abs(high[:end]).max() * 1.01 + 1e-5
    # The strongest of the first partials is a harmonic of the note.
    part = sound[round(0.25 * SAMPLE_RATE) : round(1.05 * SAMPLE_RATE)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 18))
    hertz = np.fft.rfftfreq(1 << 18, 1 / SAMPLE_RATE)
    found = hertz[np.argmax(np.where((hertz > 30) & (hertz < 4000), spectrum, 0))]
    ratio = found / (440 * 2 ** ((pitch - 69) / 12))
    nearest = max(0.5, round(2 * ratio) / 2)  # organs have a drawbar below, basses an octave below
    assert abs(1200 * np.log2(ratio / nearest)) < 60


@pytest.mark.parametrize("kit", KITS)
def test_every_stroke_of_a_kit_is_short_and_clean(kit: str) -> None:
    strokes = {**build_hand_percussion(generator(1, kit)), **build_kit(kit, generator(2, kit))}
    for key in strokes:
        notes = [ScoreNote(0.05, 0.3, key, velocity, number / 4) for number, velocity in enumerate((0.2, 0.95))]
        quiet = place_strokes(notes[:1], strokes, 3 * SAMPLE_RATE, (5,))[key]
        loud = place_strokes(notes[1:], strokes, 3 * SAMPLE_RATE, (5,))[key]
        assert np.isfinite(loud).all()
        assert 0.02 < np.abs(loud).max() < 12
        assert np.abs(quiet).max() < 0.5 * np.abs(loud).max()
        assert np.abs(loud[-10:]).max() < 1e-3
        peak = np.argmax(np.abs(loud)) / SAMPLE_RATE
        assert peak < 0.05 + 0.06  # it begins where it is struck


def test_timbres_differ_between_songs() -> None:
    note = [ScoreNote(0.0, 0.5, 57, 0.8, 0.0)]
    for instrument in ("finger bass", "grand piano", "pad", "clean guitar", "male voice"):
        sounds = [
            place_notes(note, build_voice(instrument, generator(seed)), instrument, SAMPLE_RATE, (0,))
            for seed in range(2)
        ]
        spectra = [np.abs(np.fft.rfft(sound))[:4000] for sound in sounds]
        cosine = spectra[0] @ spectra[1] / np.linalg.norm(spectra[0]) / np.linalg.norm(spectra[1])
        assert cosine < 0.995


def test_convolution_is_the_convolution() -> None:
    rng = np.random.default_rng(0)
    sound, response = rng.normal(size=90_000).astype(np.float32), rng.normal(size=(2, 3000)).astype(np.float32)
    sound[20_000:60_000] = 0
    expected = np.array([np.convolve(sound[60_000:64_000], row)[:4000] for row in response])
    result = effects.convolve(sound, response)
    assert result.shape == (2, 90_000)
    np.testing.assert_allclose(result[:, 63_000:64_000], expected[:, 3000:], atol=2e-2)


def test_equalizer_has_its_curve() -> None:
    response = effects.equalizer([(50, 0), (1000, 0), (2000, -12), (20_000, -12)])
    gain = 20 * np.log10(np.abs(np.fft.rfft(response, 8192)))
    hertz = np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)
    assert abs(np.interp(500, hertz, gain)) < 1
    assert abs(np.interp(8000, hertz, gain) + 12) < 1


def test_ducking_never_jumps() -> None:
    gain = effects.ducking(SAMPLE_RATE, [0.0, 0.3, 0.35], 0.7, 0.2)
    assert gain.min() == pytest.approx(0.3, abs=0.01)
    assert np.abs(np.diff(gain[1:])).max() < 0.01


@pytest.fixture(scope="module")
def general_midi() -> Path:
    path = soundfont.find_default()
    if path is None or not soundfont.is_available():
        pytest.skip("FluidR3 and FluidSynth are not installed")
    return path


@pytest.mark.slow
def test_soundfont_notes_do_not_depend_on_what_was_played_before(general_midi: Path) -> None:
    def notes(bank: soundfont.SoundfontBank, order: list[int]) -> dict[int, np.ndarray]:
        voice = bank.voice("grand piano", generator(1))
        kit = bank.kit("rock", generator(1))
        sounds = {pitch: voice(pitch, 0.8, 0.77, generator(0)) for pitch in order}
        return sounds | {100: kit[KICK](1.0, generator(0))}

    first = notes(soundfont.SoundfontBank(general_midi), [60, 64, 67])
    other = notes(soundfont.SoundfontBank(general_midi), [67, 61, 64, 60])
    for pitch, sound in first.items():
        assert np.abs(sound).max() > 0.005
        np.testing.assert_array_equal(sound, other[pitch])


@pytest.mark.slow
@pytest.mark.parametrize("sounds", ["soundfont", "mixed"])
def test_songs_with_a_soundfont(general_midi: Path, sounds: str) -> None:
    stems = compose_and_render(SEED, 2, 10.0, sounds=sounds, soundfont=general_midi)
    mix = np.sum(list(stems.values()), axis=0)
    assert np.abs(mix).max() <= 1
    assert pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(mix.astype(np.float64)) > -24
    plain = compose_and_render(SEED, 2, 10.0)
    assert stems.keys() == plain.keys()
    assert any(not np.array_equal(stems[name], plain[name]) for name in stems)
