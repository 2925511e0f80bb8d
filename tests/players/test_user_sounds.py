"""A user's own sounds: SoundFonts, SFZ files, folders of samples; and what is wrong with some of them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of
from stage_cli.core.players.instruments import describe_sounds, import_sounds, list_sounds, load_instrument
from stage_cli.core.players.sfz import voice_of_name
from stage_cli.errors import StageError, UsageError

RATE = 44_100


def write_hit(path: Path, hertz: float = 200.0, level: float = 0.5, silence: float = 0.0, seconds: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    sound = level * np.cos(2 * np.pi * hertz * time) * np.exp(-time * 15)
    soundfile.write(path, np.concatenate([np.zeros(round(silence * RATE)), sound]), RATE)


def peak_hertz(sound: np.ndarray) -> float:
    mono = sound.sum(axis=1)
    return float(np.argmax(np.abs(np.fft.rfft(mono, RATE))))


def first_sound(sound: np.ndarray) -> float:
    size = np.abs(sound).max(axis=1)
    return int(np.argmax(size > 0.1 * size.max())) / RATE


def play(instrument, *notes: Note, seconds: float = 1.0) -> np.ndarray:
    return instrument.render(notes, round(seconds * RATE), RATE, seed=0)


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("kick", "kick"),
        ("BD_01", "kick"),
        ("Bass Drum soft", "kick"),
        ("Snare soft 2", "snare"),
        ("SD-hard", "snare"),
        ("hihat closed", "closed_hat"),
        ("HH_Open_3", "open_hat"),
        ("hihat pedal", "pedal_hat"),
        ("HiHatFoot", "pedal_hat"),
        ("CrashLeft", "crash"),
        ("Ride bell", "ride"),
        ("side_stick", "side_stick"),
        ("floor tom", "low_tom"),
        ("Tom1", "high_tom"),
        ("tom_mid", "mid_tom"),
        ("cowbell", "percussion"),
        ("readme", None),
    ],
)
def test_a_name_says_the_voice(name: str, voice: str | None) -> None:
    assert voice_of_name(name) == voice


def test_a_folder_is_a_kit(tmp_path: Path) -> None:
    write_hit(tmp_path / "kick.wav", 60, silence=0.2)
    write_hit(tmp_path / "Snare soft.wav", 210, 0.05)
    write_hit(tmp_path / "Snare hard 1.wav", 230, 0.5)
    write_hit(tmp_path / "hats" / "closed.flac", 8000, 0.3)
    kit = load_instrument("drums", sounds=tmp_path)
    assert first_sound(play(kit, Note(0.3, 0.1, 36, 100))) == pytest.approx(0.3, abs=0.001)
    assert peak_hertz(play(kit, Note(0.1, 0.1, 36, 100))) == pytest.approx(60, abs=5)
    assert peak_hertz(play(kit, Note(0.1, 0.1, 38, 30))) == pytest.approx(210, abs=5)
    assert peak_hertz(play(kit, Note(0.1, 0.1, 38, 120))) == pytest.approx(230, abs=5)
    for voice in DRUM_VOICES:  # what is missing has a stand-in
        assert np.abs(play(kit, Note(0.1, 0.1, pitch_of(voice), 100))).max() > 1e-3


def test_folders_that_are_no_kit(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="holds no samples"):
        load_instrument("drums", sounds=tmp_path)
    write_hit(tmp_path / "snare.wav")
    with pytest.raises(StageError, match="no kick"):
        load_instrument("drums", sounds=tmp_path)
    (tmp_path / "kick.wav").write_bytes(b"RIFF nothing that is sound")
    with pytest.raises(StageError, match=r"kick\.wav"):
        load_instrument("drums", sounds=tmp_path)
    soundfile.write(tmp_path / "kick.wav", np.zeros(1000), RATE)
    with pytest.raises(StageError, match="silent"):
        load_instrument("drums", sounds=tmp_path)
    soundfile.write(tmp_path / "kick.wav", np.full(RATE * 31, 0.1), RATE)
    with pytest.raises(StageError, match="too long"):
        load_instrument("drums", sounds=tmp_path)
    soundfile.write(tmp_path / "kick.wav", np.array([0.1, np.nan, 0.3]), RATE, subtype="FLOAT")
    with pytest.raises(StageError, match="no numbers"):
        load_instrument("drums", sounds=tmp_path)
    with pytest.raises(UsageError, match="plays drums only"):
        load_instrument("bass", sounds=tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        load_instrument("drums", sounds=tmp_path / "missing.sfz")
    (tmp_path / "notes.txt").write_text("kick")
    with pytest.raises(UsageError, match="neither a SoundFont"):
        load_instrument("drums", sounds=tmp_path / "notes.txt")


SFZ = """
// a kit as they come
<control> default_path=samples\\
#define $KICK 36
<global> ampeg_release=0.3
<group> key=$KICK lovel=1 hivel=63
<region> sample=Kick soft.wav
<group> key=36 lovel=64
<region> sample=kick_1.wav seq_length=2 seq_position=1
<region> sample=kick_2.wav seq_length=2 seq_position=2 /* the other */
<group>
<region> key=46 sample=open.wav group=1 off_by=1 off_mode=fast
<region> key=c#2 sample=kick_1.wav pan=100 volume=-6 tune=1200
#include "more.sfz"
<region> sample=*sine key=80
"""


@pytest.fixture
def sfz(tmp_path: Path) -> Path:
    folder = tmp_path / "kit"
    write_hit(folder / "samples" / "kick soft.wav", 100)
    write_hit(folder / "samples" / "kick_1.wav", 120, silence=0.05)
    write_hit(folder / "samples" / "kick_2.wav", 150)
    write_hit(folder / "samples" / "open.wav", 5000, seconds=2)
    (folder / "more.sfz").write_text("<region> key=42 sample=kick_2.wav pitch_keytrack=0 group=1 off_by=1\n")
    (folder / "kit.sfz").write_text(SFZ)
    return folder / "kit.sfz"


def test_sfz(sfz: Path) -> None:
    kit = load_instrument("drums", sounds=sfz)
    assert peak_hertz(play(kit, Note(0, 0.1, 36, 40))) == pytest.approx(100, abs=5)
    strokes = play(kit, Note(0.0, 0.1, 36, 100), Note(1.0, 0.1, 36, 100), Note(2.0, 0.1, 36, 100), seconds=3)
    heard = [peak_hertz(strokes[second * RATE : (second + 1) * RATE]) for second in range(3)]
    assert heard == pytest.approx([120, 150, 120], abs=5)
    assert first_sound(play(kit, Note(0.5, 0.1, 36, 100))) == pytest.approx(0.5, abs=0.001)
    right = play(kit, Note(0, 0.1, 37, 100))  # c#2 is MIDI note 37
    assert np.abs(right[:, 0]).max() < 1e-3 * np.abs(right[:, 1]).max()
    assert peak_hertz(right) == pytest.approx(240, abs=8)
    free = play(kit, Note(0.0, 0.1, 46, 100))
    choked = play(kit, Note(0.0, 0.1, 46, 100), Note(0.1, 0.1, 42, 1))
    later = slice(round(0.15 * RATE), round(0.3 * RATE))
    assert np.abs(choked[later]).max() < 0.2 * np.abs(free[later]).max()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("<region> key=36 sample=../outside.wav", "outside its folder"),
        ("<region> key=36 sample=/etc/passwd", "outside its folder"),
        ("<region> key=36 sample=C:\\\\kick.wav", "outside its folder"),
        ('#include "../other.sfz"', "outside its folder"),
        ("<region> key=36 sample=nothing.wav", "missing"),
        ("<region> key=36 sample=kick.wav lovel=loud", "lovel=loud"),
        ("<region> key=300 sample=kick.wav", "key=300"),
        ("<region> key=38 sample=kick.wav", "no kick"),
        ("<group> key=36", "no sounds"),
        ("", "no sounds"),
        ('#include "bad.sfz"', "circle"),
    ],
)
def test_bad_sfz(tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "kit"
    write_hit(folder / "kick.wav")
    write_hit(tmp_path / "outside.wav")
    (tmp_path / "other.sfz").write_text("<region> key=36 sample=kick.wav")
    (folder / "bad.sfz").write_text(line + "\n")
    with pytest.raises(StageError, match=message):
        load_instrument("drums", sounds=folder / "bad.sfz")


def test_sfz_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "kit.sfz").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(StageError, match="not text"):
        load_instrument("drums", sounds=tmp_path / "kit.sfz")


def soundfont(*, bank: int = 0, compressed: bool = False, root: int = 69, loop: bool = True) -> bytes:
    """Return a SoundFont with one preset: a second of 440 Hz, looped."""
    wave = 0.5 * np.cos(2 * np.pi * 440 * np.arange(RATE) / RATE)
    if compressed:
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS")
        raw, kind, end = buffer.getvalue(), 0x11, len(buffer.getvalue())
    else:
        raw, kind, end = (wave * 32767).astype("<i2").tobytes() + bytes(92), 1, RATE

    def chunk(name: bytes, body: bytes) -> bytes:
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def gen(*pairs: tuple[int, int]) -> bytes:
        return b"".join(struct.pack("<HH", number, value & 0xFFFF) for number, value in pairs)

    name = b"tone".ljust(20, b"\0")
    zone = gen((43, 127 << 8), (54, int(loop)), (38, -2400), (53, 0))
    tables = (
        chunk(b"phdr", struct.pack("<20sHHH12x", name, 0, bank, 0) + struct.pack("<20sHHH12x", b"EOP", 0, 0, 1))
        + chunk(b"pbag", struct.pack("<HHHH", 0, 0, 1, 0))
        + chunk(b"pmod", bytes(10))
        + chunk(b"pgen", gen((41, 0), (0, 0)))
        + chunk(b"inst", struct.pack("<20sH", name, 0) + struct.pack("<20sH", b"EOI", 1))
        + chunk(b"ibag", struct.pack("<HHHH", 0, 0, 4, 0))
        + chunk(b"imod", bytes(10))
        + chunk(b"igen", zone + gen((0, 0)))
        + chunk(
            b"shdr",
            struct.pack("<20sIIIIIBbHH", name, 0, end, 4410, 44_000, RATE, root, 0, 0, kind)
            + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0),
        )
    )
    body = b"sfbk" + chunk(b"LIST", b"sdta" + chunk(b"smpl", raw)) + chunk(b"LIST", b"pdta" + tables)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("compressed", [False, True])
def test_soundfont(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "tone.sf2"
    path.write_bytes(soundfont(compressed=compressed))
    instrument = load_instrument("piano", sounds=path)
    assert peak_hertz(play(instrument, Note(0, 0.9, 69, 100))) == pytest.approx(440, abs=2)
    assert peak_hertz(play(instrument, Note(0, 0.9, 57, 100))) == pytest.approx(220, abs=2)
    # Two seconds and a half of a sample of one second: its loop goes on, and ends with the note.
    out = play(instrument, Note(0.25, 2.5, 69, 100), seconds=4)
    level = np.abs(out[: 4 * RATE]).reshape(40, -1).max(axis=1)
    assert (level[4:26] > 0.5 * level[4]).all()
    assert (level[34:] < 1e-2 * level[4]).all()
    assert first_sound(out) == pytest.approx(0.25, abs=0.001)
    with pytest.raises(UsageError, match="no preset"):
        load_instrument("piano", sounds=path, instrument="organ")


def test_soundfont_of_drums(tmp_path: Path) -> None:
    path = tmp_path / "kit.sf3"
    path.write_bytes(soundfont(bank=128, compressed=True))
    assert np.abs(play(load_instrument("drums", sounds=path), Note(0.1, 0.1, 36, 100))).max() > 0.01


def test_bad_soundfonts(tmp_path: Path) -> None:
    path = tmp_path / "bad.sf2"
    good = soundfont()
    for raw, message in (
        (b"", "no SoundFont"),
        (b"RIFF\0\0\0\0WAVE", "no SoundFont"),
        (good[:20_000], "damaged"),
        (good[: len(good) - 60], "damaged"),
        (good.replace(b"shdr", b"shdx"), "damaged"),
    ):
        path.write_bytes(raw)
        with pytest.raises(StageError, match=message):
            load_instrument("piano", sounds=path)
    place = good.rindex(b"shdr") + 8 + 20
    path.write_bytes(good[:place] + struct.pack("<II", 5, 2**31) + good[place + 8 :])
    instrument = load_instrument("piano", sounds=path)
    with pytest.raises(StageError, match="outside the file"):
        play(instrument, Note(0, 1, 60, 100))


def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sfz: Path) -> None:
    monkeypatch.setenv("STAGE_SOUNDS", str(tmp_path / "own"))
    (tmp_path / "tone.sf2").write_bytes(soundfont(bank=128))
    imported = import_sounds(tmp_path / "tone.sf2", "bell")
    assert (imported.name, imported.kind) == ("bell", "SF2")
    import_sounds(sfz)
    assert {"acoustic", "bell", "kit", "grand-piano"} <= {info.name for info in list_sounds()}
    assert np.abs(play(load_instrument("drums", sounds="kit"), Note(0.1, 0.1, 36, 100))).max() > 0.01
    assert describe_sounds("kit").rows
    for name, message in (("bell", "already"), ("../x", "no name"), (".x", "no name"), ("acoustic", "already")):
        with pytest.raises(UsageError, match=message):
            import_sounds(tmp_path / "tone.sf2", name)
    assert not [path for path in (tmp_path / "own").iterdir() if path.name.startswith(".")]


def test_wrong_names() -> None:
    with pytest.raises(UsageError, match="kit: there is no 'acustic'") as caught:
        load_instrument("drums", kit="acustic")
    assert "acoustic" in caught.value.why
    with pytest.raises(UsageError, match="instrument: there is no"):
        load_instrument("bass", instrument="tuba")
    with pytest.raises(UsageError, match="no drum stem"):
        load_instrument("bass", kit="acoustic")
    with pytest.raises(UsageError, match="has kits"):
        load_instrument("drums", instrument="grand-piano")
    with pytest.raises(UsageError, match="no instrument plays vocals"):
        load_instrument("vocals")
    with pytest.raises(UsageError, match="sounds: there is no"):
        describe_sounds("nothing")


@pytest.mark.parametrize(
    ("stem", "instrument", "pitch"),
    [
        ("bass", "electric-bass", 31),
        ("bass", "upright-bass", 38),
        ("guitar", "clean-guitar", 59),
        ("piano", "grand-piano", 60),
        ("other_keys", "electric-piano", 65),
    ],
)
def test_pitched_instruments(stem: str, instrument: str, pitch: int) -> None:
    """In tune, on time, gone after the note, louder where it is struck harder; and a stream is the file."""
    sound = load_instrument(stem, instrument=instrument)
    out = play(sound, Note(0.25, 1.5, pitch, 100), seconds=3)
    assert np.isfinite(out).all()
    assert first_sound(out) == pytest.approx(0.25, abs=0.001)
    held = out[round(0.3 * RATE) : round(1.7 * RATE)].sum(axis=1)
    size = 1 << 19
    power = np.abs(np.fft.rfft(held * np.hanning(len(held)), size)) ** 2
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    # The fundamental or, of a low string, its octave: within 12 cents.
    places = [np.arange(int(h * 0.97 * size / RATE), int(h * 1.03 * size / RATE)) for h in (hertz, 2 * hertz)]
    best = max(places, key=lambda place: power[place].max())
    found = best[np.argmax(power[best])] * RATE / size
    cents = 1200 * np.log2(found / hertz)
    assert min(abs(cents), abs(cents - 1200)) < 12
    assert np.abs(out[round(2.8 * RATE) :]).max() < 0.01 * np.abs(out).max()
    soft, loud = (np.square(play(sound, Note(0, 1, pitch, velocity))).sum() for velocity in (40, 120))
    assert loud > 3 * soft

    rng = np.random.default_rng(1)
    onsets, lengths, steps = np.sort(rng.uniform(0, 2, 14)), rng.uniform(0.05, 1, 14), rng.integers(-3, 9, 14)
    notes = [
        Note(float(onset), float(length), pitch + int(step), 90)
        for onset, length, step in zip(onsets, lengths, steps, strict=True)
    ]
    whole = sound.render(notes, 3 * RATE, RATE, seed=2)
    session = load_instrument(stem, instrument=instrument).session(RATE, 2)
    parts = [session.push([note for note in notes if note.onset < 1.0], RATE)]
    parts += [session.push([note for note in notes if note.onset >= 1.0], 3 * RATE), session.finish(3 * RATE)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.abs(whole).max() < 1.0
