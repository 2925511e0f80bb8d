"""SoundFonts: SF2 files, and SF3 files, whose samples are Ogg Vorbis.

The reader takes what decides how an instrument sounds: which sample plays which key and velocity, its tuning, loop,
level, pan, how it dies away, a low pass that stands still, and what silences it. Modulators, LFOs and effects are left
out. No library that installs everywhere reads SoundFonts, and with samples of our own a SoundFont streams, starts on
time and repeats like every other instrument.

Source: SoundFont Technical Specification 2.04 (E-mu, 2006), chapters 5, 7 and 8.
"""

from __future__ import annotations

import difflib
import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from stage_cli.core.players.regions import Region, RegionSounds
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.samples import SampleStore, SampleTake
from stage_cli.errors import StageError, UsageError

_DRUM_BANK = 128
_COMPRESSED = 0x10  # of a sample's type: SF3
_ATTENUATION = 0.04  # dB of a centibel of attenuation, as E-mu's hardware and all players since have it
_RECORDS = {"phdr": 38, "pbag": 4, "pgen": 4, "inst": 22, "ibag": 4, "igen": 4, "shdr": 46}
_LARGEST = 4 << 30  # bytes of a RIFF file

# Generators, by number.
_START, _END, _LOOP_START, _LOOP_END, _START_COARSE = 0, 1, 2, 3, 4
_FILTER, _PAN, _END_COARSE = 8, 17, 12
_HOLD, _DECAY, _SUSTAIN, _RELEASE = 35, 36, 37, 38
_INSTRUMENT, _KEYS, _VELOCITIES, _LOOP_START_COARSE, _ATTENUATE = 41, 43, 44, 45, 48
_LOOP_END_COARSE, _COARSE, _FINE, _SAMPLE, _MODE, _SCALE, _CLASS, _ROOT = 50, 51, 52, 53, 54, 56, 57, 58
_USUAL = {_FILTER: 13_500, _HOLD: -12_000, _DECAY: -12_000, _RELEASE: -12_000, _SCALE: 100, _ROOT: -1}
_NOT_ADDED = {_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE, _MODE, _CLASS, _ROOT}  # a preset's value does not add to them


@dataclass(frozen=True)
class SoundfontPreset:
    """One program of a SoundFont.

    Attributes:
        name: as it is written there.
        bank: 128 for drums.
        program: 0 to 127.
    """

    name: str
    bank: int
    program: int


@dataclass(frozen=True)
class _SampleHeader:
    name: str
    start: int
    end: int
    loop_start: int
    loop_end: int
    rate: int
    pitch: int
    correction: int
    kind: int


class _SoundfontFile:
    """The tables of a SoundFont, and where its samples lie."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables: dict[str, list[tuple]] = {}
        self.samples_at = 0
        self.samples_bytes = 0
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                head = file.read(12)
                if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"sfbk":
                    raise UsageError(
                        f"sounds: {path} is no SoundFont",
                        why="it does not begin as one (RIFF … sfbk)" if size else "the file is empty",
                        next_step="name an .sf2 or .sf3 file",
                    )
                self._read_chunks(file, 12, min(size, _LARGEST))
        except OSError as error:
            raise StageError(f"sounds: cannot read {path}", why=error.strerror or str(error)) from error
        missing = [name for name in _RECORDS if name not in self.tables]
        if missing or not self.samples_bytes:
            raise self.damaged(f"it lacks {', '.join(missing) or 'samples'}")
        self.headers = [self._header(record) for record in self.tables["shdr"][:-1]]

    def damaged(self, why: str) -> StageError:
        return StageError(
            f"sounds: the SoundFont {self.path} is damaged", why=why, next_step="download or export it again"
        )

    def presets(self) -> list[SoundfontPreset]:
        return [SoundfontPreset(_text(name), bank, program) for name, program, bank, *_ in self.tables["phdr"][:-1]]

    def zones(self, preset: SoundfontPreset) -> list[dict[int, int]]:
        """Return the generators of all of a preset's zones, its own added to its instruments'."""
        number = self.presets().index(preset)
        phdr, inst = self.tables["phdr"], self.tables["inst"]
        zones = []
        for upper in self._bags("pbag", "pgen", phdr[number][3], phdr[number + 1][3], _INSTRUMENT):
            which = upper[_INSTRUMENT]
            if not which < len(inst) - 1:
                raise self.damaged(f"its preset {preset.name} names instrument {which} of {len(inst) - 1}")
            for lower in self._bags("ibag", "igen", inst[which][1], inst[which + 1][1], _SAMPLE):
                zone = dict(lower)
                for generator, value in upper.items():
                    if generator in (_KEYS, _VELOCITIES):
                        zone[generator] = _overlap(zone.get(generator, 127 << 8), value)
                    elif generator not in _NOT_ADDED:
                        zone[generator] = zone.get(generator, _USUAL.get(generator, 0)) + value
                zones.append(zone)
        return zones

    def load(self, number: int) -> tuple[np.ndarray, int]:
        """Return a sample, `[frames]` float32, and its rate."""
        header = self.headers[number]
        compressed = bool(header.kind & _COMPRESSED)
        first, last = (header.start, header.end) if compressed else (2 * header.start, 2 * header.end)
        if not 0 <= first < last <= self.samples_bytes:
            raise self.damaged(f"its sample {header.name} lies outside the file")
        with self.path.open("rb") as file:
            file.seek(self.samples_at + first)
            raw = file.read(last - first)
        if not compressed:
            return np.frombuffer(raw, dtype="<i2").astype(np.float32) / 32_768, header.rate
        try:
            samples, rate = soundfile.read(io.BytesIO(raw), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self.damaged(f"its sample {header.name} is no Ogg Vorbis ({error.error_string})") from error
        return np.ascontiguousarray(samples[:, 0]), rate

    def _read_chunks(self, file: io.BufferedReader, start: int, end: int) -> None:
        place = start
        while place + 8 <= end:
            file.seek(place)
            name, size = struct.unpack("<4sI", file.read(8))
            body = place + 8
            if name == b"LIST":
                self._read_chunks(file, body + 4, min(end, body + size))
            elif name == b"smpl":
                self.samples_at, self.samples_bytes = body, min(size, end - body)
                if size > end - body:
                    raise self.damaged("it is cut off in its samples")
            elif (key := name.decode("latin-1")) in _RECORDS:
                length = _RECORDS[key]
                if size % length or size > end - body:
                    raise self.damaged(f"its table {key} has {size} bytes")
                self.tables[key] = list(struct.iter_unpack(_LAYOUTS[key], file.read(size)))
            place = body + size + size % 2

    def _header(self, record: tuple) -> _SampleHeader:
        name, start, end, loop_start, loop_end, rate, pitch, correction, _, kind = record
        return _SampleHeader(_text(name), start, end, loop_start, loop_end, rate, pitch, correction, kind)

    def _bags(self, bags: str, generators: str, first: int, last: int, final: int) -> list[dict[int, int]]:
        """Return the zones of a preset or instrument: those that end in `final`, a global one's values under each."""
        table, values = self.tables[bags], self.tables[generators]
        if not first <= last < len(table):
            raise self.damaged(f"its table {bags} ends too soon")
        shared: dict[int, int] = {}
        zones = []
        for number in range(first, last):
            begin, end = table[number][0], table[number + 1][0]
            if not begin <= end <= len(values):
                raise self.damaged(f"its table {generators} ends too soon")
            zone = dict(shared)
            for generator, value in values[begin:end]:
                # Ranges and numbers of tables are unsigned, all else is signed.
                signed = generator not in (_KEYS, _VELOCITIES, _INSTRUMENT, _SAMPLE)
                zone[generator] = value - 65_536 if signed and value >= 32_768 else value
            if final in zone:
                zones.append(zone)
            elif number == first:
                shared = zone
        return zones


_LAYOUTS = {
    "phdr": "<20sHHH12x",
    "pbag": "<HH",
    "pgen": "<HH",
    "inst": "<20sH",
    "ibag": "<HH",
    "igen": "<HH",
    "shdr": "<20sIIIIIBbHH",
}


def list_presets(path: Path) -> list[SoundfontPreset]:
    """List a SoundFont's presets by bank and program.

    Raises:
        UsageError: the file is no SoundFont.
        StageError: it is damaged, or cannot be read.
    """
    return sorted(_SoundfontFile(path).presets(), key=lambda preset: (preset.bank, preset.program))


def read_soundfont(path: Path, *, drums: bool, preset: str | None = None, program: int = 0) -> RegionSounds:
    """Read a preset of a SoundFont; its samples are decoded when they are first played.

    Args:
        path: of an SF2 or SF3 file.
        drums: whether a drum kit (bank 128) is meant, or an instrument.
        preset: number (0 to 127) or name of a preset; without it the first kit, or `program`.
        program: General MIDI's, from 0; where the file lacks it, its first instrument plays.

    Raises:
        UsageError: the file is no SoundFont, or has no such preset.
        StageError: it is damaged, or its kit has no kick.
    """
    file = _SoundfontFile(path)
    chosen = _choose(file, drums, preset, program)
    regions = []
    for zone in file.zones(chosen):
        region = _region(file, zone, drums=drums)
        if region is not None:
            regions.append(region)
    name = f"{path.name}: {chosen.name}"
    store = SampleStore(lambda number: file.load(int(number.name)))
    if drums:
        return RegionSounds(
            name, tuple(regions), True, store, -22.0, RoomConfig(0.3, 5.0, 5000.0), BusConfig(-16.0, 1.5)
        )
    return RegionSounds(name, tuple(regions), False, store, -18.0, RoomConfig(0.5, 6.0, 5000.0))


def _choose(file: _SoundfontFile, drums: bool, preset: str | None, program: int) -> SoundfontPreset:
    presets = sorted(file.presets(), key=lambda entry: (entry.bank, entry.program))
    # A file of a single kit rarely keeps it in bank 128.
    fitting = [entry for entry in presets if (entry.bank == _DRUM_BANK) == drums] or presets
    if not fitting:
        raise file.damaged("it has no presets")
    if preset is None:
        wanted = 0 if drums else program
        return next((entry for entry in fitting if entry.program == wanted), fitting[0])
    text = preset.strip().lower()
    for entry in (*fitting, *presets):
        if text in (str(entry.program), entry.name.lower()):
            return entry
    names = [entry.name for entry in fitting]
    near = difflib.get_close_matches(preset, names, n=2, cutoff=0.4)
    raise UsageError(
        f"instrument: {file.path.name} has no preset {preset!r}",
        why=f"did you mean {' or '.join(near)}?" if near else "",
        next_step=f"it has: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}",
    )


def _region(file: _SoundfontFile, zone: dict[int, int], *, drums: bool) -> Region | None:
    number = zone[_SAMPLE]
    if number >= len(file.headers):
        raise file.damaged(f"it names sample {number} of {len(file.headers)}")
    header = file.headers[number]
    if header.kind & 0x8000 or header.end <= header.start:
        return None  # in a ROM that only E-mu's cards had, or empty

    def value(generator: int) -> int:
        return zone.get(generator, _USUAL.get(generator, 0))

    def seconds(generator: int) -> float:
        return 2 ** (min(8000, max(-12_000, value(generator))) / 1200)

    if not 1000 <= header.rate <= 768_000:
        raise file.damaged(f"its sample {header.name} has a rate of {header.rate} Hz")
    compressed = bool(header.kind & _COMPRESSED)
    start = max(0, value(_START) + 32_768 * value(_START_COARSE))
    length = None if compressed else header.end - header.start + value(_END) + 32_768 * value(_END_COARSE)
    if length is not None and not start < length:
        return None
    loop = None
    if value(_MODE) & 1 and not drums:
        origin = 0 if compressed else header.start
        first = header.loop_start - origin + value(_LOOP_START) + 32_768 * value(_LOOP_START_COARSE) - start
        last = header.loop_end - origin + value(_LOOP_END) + 32_768 * value(_LOOP_END_COARSE) - start
        if 0 <= first < last - 8 and (length is None or last <= length - start):
            loop = (first, last)
    keys, velocities = zone.get(_KEYS, 127 << 8), zone.get(_VELOCITIES, 127 << 8)
    group = str(value(_CLASS)) if value(_CLASS) else ""
    root = value(_ROOT) if 0 <= value(_ROOT) <= 127 else header.pitch if header.pitch <= 127 else 60
    fades = value(_SUSTAIN) > 0 and value(_DECAY) > -12_000
    return Region(
        SampleTake(
            Path(str(number)),
            start,
            length,
            loop,
            seconds(_HOLD) if fades else 0.0,
            seconds(_DECAY) if fades else 0.0,
            min(100.0, value(_SUSTAIN) / 10),
            440 * 2 ** ((value(_FILTER) - 6900) / 1200) if value(_FILTER) < 13_000 else 0.0,
        ),
        keys & 0xFF,
        min(127, keys >> 8),
        max(1, velocities & 0xFF),
        min(127, velocities >> 8),
        root,
        value(_COARSE) + (value(_FINE) + header.correction) / 100,
        value(_SCALE) / 100,
        -_ATTENUATION * max(0, value(_ATTENUATE)),
        pan=min(1.0, max(-1.0, value(_PAN) / 500)),
        group=group,
        silenced_by=group,
        silence=0.02,
        release=min(5.0, max(0.02, 0.6 * seconds(_RELEASE))),
    )


def _overlap(one: int, other: int) -> int:
    """Return the overlap of two ranges, each low + 256 · high."""
    return max(one & 0xFF, other & 0xFF) | min(one >> 8, other >> 8) << 8


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("latin-1").strip()
