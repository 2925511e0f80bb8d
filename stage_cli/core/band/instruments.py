"""Every instrument of the band: its stem, its name in MoisesDB and General MIDI, and how loud it usually is."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 44_100
"""Hz; of everything that is rendered."""

KICK, SIDE_STICK, SNARE, CLAP = 36, 37, 38, 39
CLOSED_HAT, PEDAL_HAT, OPEN_HAT = 42, 44, 46
LOW_TOM, MIDDLE_TOM, HIGH_TOM = 43, 47, 50
CRASH, RIDE, CHINA, RIDE_BELL, SPLASH, SECOND_CRASH = 49, 51, 52, 53, 55, 57
TAMBOURINE, COWBELL, HIGH_BONGO, LOW_BONGO = 54, 56, 60, 61
MUTED_CONGA, OPEN_CONGA, LOW_CONGA = 62, 63, 64
HIGH_AGOGO, LOW_AGOGO, CABASA, CLAVES, WOODBLOCK, SHAKER = 67, 68, 69, 75, 76, 82
TRIANGLE = 81

DRUM_TRACKS: dict[str, tuple[int, ...]] = {
    "kick drum": (KICK,),
    "snare drum": (SNARE, SIDE_STICK, CLAP),
    "hi-hat": (CLOSED_HAT, PEDAL_HAT, OPEN_HAT),
    "toms": (LOW_TOM, MIDDLE_TOM, HIGH_TOM),
    "cymbals": (CRASH, RIDE, CHINA, RIDE_BELL, SPLASH, SECOND_CRASH),
}
"""The tracks of the drums stem, and the General MIDI keys that each records; "overheads" hears all of them."""

_BRASS = "brass (trumpet, trombone, french horn, brass etc)"
_REEDS = "reeds (saxophone, clarinets, oboe, english horn, bagpipe)"
_FLUTES = "flutes (piccolo, bamboo flute, panpipes, flutes etc)"
_ELECTRIC_PIANO = "electric piano (rhodes, wurlitzer, piano sound alike)"
_PLUCKED = "banjo, mandolin, ukulele, harp etc"
_MALLETS = "pitched percussion (mallets, glockenspiel, ...)"
_OTHER_KEYS = "other sounds (hapischord, melotron etc)"
_BASS_SYNTH = "bass synthesizer (moog etc)"
_HAND = "a-tonal percussion (claps, shakers, congas, cowbell etc)"


@dataclass(frozen=True)
class BandInstrument:
    """What there is to know about an instrument.

    Attributes:
        stem: one of the project's stem names.
        track_type: as MoisesDB spells it.
        programs: General MIDI programs (0 to 127) that sound like it.
        lowest: MIDI note.
        highest: MIDI note.
        level: dB RMS of a loud, sustained note before the song's overall gain.
    """

    stem: str
    track_type: str
    programs: tuple[int, ...]
    lowest: int
    highest: int
    level: float


INSTRUMENTS: dict[str, BandInstrument] = {
    "drums": BandInstrument("drums", "full acoustic drumkit", (), 0, 127, -11.5),
    "percussion": BandInstrument("percussion", _HAND, (), 0, 127, -13),
    "finger bass": BandInstrument("bass", "bass guitar", (33,), 28, 55, -20),
    "pick bass": BandInstrument("bass", "bass guitar", (34, 36, 37), 28, 55, -20),
    "fretless bass": BandInstrument("bass", "bass guitar", (35,), 28, 55, -20),
    "upright bass": BandInstrument("bass", "contrabass/double bass (bass of instrings)", (32,), 28, 55, -20),
    "synth bass": BandInstrument("bass", _BASS_SYNTH, (38, 39, 87), 28, 55, -20),
    "sub bass": BandInstrument("bass", _BASS_SYNTH, (39, 38), 26, 50, -18),
    "acoustic guitar": BandInstrument("guitar", "acoustic guitar", (24, 25), 40, 83, -26),
    "clean guitar": BandInstrument("guitar", "clean electric guitar", (26, 27), 40, 86, -26),
    "muted guitar": BandInstrument("guitar", "clean electric guitar", (28,), 40, 80, -26),
    "crunch guitar": BandInstrument("guitar", "distorted electric guitar", (29,), 40, 86, -25),
    "distorted guitar": BandInstrument("guitar", "distorted electric guitar", (30,), 38, 86, -25),
    "grand piano": BandInstrument("piano", "grand piano", (0, 1, 2), 28, 100, -26),
    "electric piano": BandInstrument("piano", _ELECTRIC_PIANO, (4, 5), 36, 90, -27),
    "organ": BandInstrument("other_keys", "organ, electric organ", (16, 17, 18), 36, 90, -30),
    "clavinet": BandInstrument("other_keys", _OTHER_KEYS, (7, 6), 36, 84, -27),
    "accordion": BandInstrument("other_keys", _OTHER_KEYS, (21, 23), 48, 84, -29),
    "pad": BandInstrument("other_keys", "synth pad", (88, 89, 90, 91, 94, 95), 40, 86, -32),
    "synth pluck": BandInstrument("other_keys", "synth lead", (81, 98, 84), 45, 90, -27),
    "synth stab": BandInstrument("other_keys", "synth lead", (62, 63, 81), 45, 86, -27),
    "synth lead": BandInstrument("other_keys", "synth lead", (80, 81, 82), 52, 92, -25),
    "strings": BandInstrument("bowed_strings", "string section", (48, 49, 50), 43, 91, -30),
    "violin": BandInstrument("bowed_strings", "violin (solo)", (40,), 55, 93, -26),
    "cello": BandInstrument("bowed_strings", "cello (solo)", (42,), 36, 69, -25),
    "saxophone": BandInstrument("wind", _REEDS, (65, 66, 64), 50, 80, -24),
    "clarinet": BandInstrument("wind", _REEDS, (71, 68), 52, 84, -25),
    "flute": BandInstrument("wind", _FLUTES, (73, 75), 60, 93, -26),
    "trumpet": BandInstrument("wind", _BRASS, (56, 59), 54, 82, -25),
    "brass section": BandInstrument("wind", _BRASS, (61,), 48, 80, -28),
    "harmonica": BandInstrument("wind", "other wind", (22,), 55, 84, -26),
    "banjo": BandInstrument("other_plucked", _PLUCKED, (105,), 50, 84, -27),
    "mandolin": BandInstrument("other_plucked", _PLUCKED, (25, 107), 55, 88, -27),
    "harp": BandInstrument("other_plucked", _PLUCKED, (46,), 36, 96, -27),
    "mallets": BandInstrument("percussion", _MALLETS, (11, 12, 13, 9), 48, 96, -28),
    "male voice": BandInstrument("vocals", "lead male singer", (53, 85, 52), 45, 69, -21),
    "female voice": BandInstrument("vocals", "lead female singer", (53, 85, 54), 55, 79, -21),
    "choir": BandInstrument("vocals", "background vocals", (52, 53), 48, 79, -29),
}
