# ruff: noqa: E501 - the table in PROVENANCE
"""Make the kits and instruments of stage_cli/assets from a folder of CC0 one-shots.

    python docs/scripts/make_kits.py MATERIAL [--out stage_cli/assets] [--only acoustic]

MATERIAL holds `gogodze_phu_ii_CC0`, `sonic-pi_CC0`, `hydrogen_Audiophob_CC0`, `growlybass_ebass_CC0`,
`meatbass_doublebass_pizz_CC0` and `black_guitar_CC0`. What it writes is the same every time: each sound's takes,
trimmed to their attack, one after the other in one Vorbis file, and a `kit.toml` that says where they are and how loud.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from stage_cli.core.players.samples import fade_edges, read_sample, resample, stroke_level, trim

RATE = 44_100
_GAP = 0.02  # seconds of silence between takes: a Vorbis block does not smear one into the next


@dataclass
class Source:
    """Takes of one loudness, before they are trimmed.

    Attributes:
        velocity: that they stand for; 0 for "as loud as they were recorded".
        files: of the takes.
        semitones: by which they are tuned.
        under: a file whose sound is added to each of them, and how loud (dB below their peak).
    """

    files: list[str]
    velocity: float = 0.0
    semitones: float = 0.0
    under: tuple[str, float] = ("", 0.0)


@dataclass
class SoundPlan:
    """How a sound is made.

    Attributes:
        layers: from soft to loud.
        seconds: its longest length.
        fade: seconds of the fade at its end.
        low_cut: Hz below which it is silenced; 0 for none.
        noise: dB below its loudest moment at which the tail is faded into silence.
        crest: dB over its loudest 50 ms at which peaks are rounded off; a close stick's click is louder than in a mix.
        fields: of its entry in kit.toml.
    """

    layers: list[Source]
    seconds: float = 1.0
    fade: float = 0.1
    low_cut: float = 0.0
    noise: float = 50.0
    crest: float = 14.0
    fields: dict[str, Any] = field(default_factory=dict)


def gogodze(code: str, layers: int, takes: int, *, first: int = 1, semitones: float = 0.0) -> list[Source]:
    """Return the layers of a sound of Gogodze Phu II."""
    return [
        Source(
            [f"gogodze_phu_ii_CC0/{code}_vl{layer}_rr{take}.flac" for take in range(1, takes + 1)], semitones=semitones
        )
        for layer in range(first, layers + 1)
    ]


def sonic(*names: str, semitones: float = 0.0) -> list[Source]:
    """Return layers of Sonic Pi's samples, one take each, from soft to loud."""
    return [Source([f"sonic-pi_CC0/{name}.flac"], semitones=semitones) for name in names]


def synth(name: str, *velocities: int, takes: int = 2) -> list[Source]:
    """Return layers of a sound of the project's own synthesizer: "hand/54" is its tambourine."""
    return [Source([f"synth/{name}/{velocity}/{take}" for take in range(takes)], velocity) for velocity in velocities]


KITS: dict[str, dict[str, Any]] = {
    "acoustic": {
        "title": "a drum kit of wood and skin, with its room",
        "room": {"seconds": 0.4, "size": 5.0, "brightness": 5500.0},
        "bus": {"threshold": -18.0, "ratio": 2.0},
        "sounds": {
            "kick": SoundPlan(gogodze("ks", 6, 4), 0.6, crest=11),
            "snare": SoundPlan(gogodze("sc", 6, 4), 0.5, low_cut=60, crest=12),
            "rim_shot": SoundPlan(gogodze("se", 5, 3), 0.5, low_cut=60, fields={"voice": "snare", "keys": [40]}),
            "side_stick": SoundPlan(gogodze("ss", 4, 3), 0.3, low_cut=150),
            "closed_hat": SoundPlan(gogodze("hc", 4, 4), 0.4, 0.15, 350, crest=11, fields={"dynamics": 1.3}),
            "pedal_hat": SoundPlan(gogodze("hf", 3, 4), 0.25, 0.1, 350, crest=11),
            "open_hat": SoundPlan(gogodze("hh", 4, 3), 1.8, 0.6, 300, crest=12),
            "ride": SoundPlan(sonic("ride_tri"), 3.2, 1.6, 150, crest=12),
            "crash": SoundPlan(
                [
                    Source(["sonic-pi_CC0/drum_splash_soft.flac"], 50, -3.5, ("sonic-pi_CC0/drum_cymbal_soft.flac", 4)),
                    Source(
                        ["sonic-pi_CC0/drum_splash_hard.flac"], 112, -3.5, ("sonic-pi_CC0/drum_cymbal_hard.flac", 2)
                    ),
                ],
                2.9,
                1.6,
                150,
            ),
            "high_tom": SoundPlan(gogodze("th", 5, 3), 0.8, 0.4, 50, crest=13),
            "mid_tom": SoundPlan(gogodze("tm", 5, 3, semitones=-1), 0.9, 0.4, 50, crest=13),
            "percussion": SoundPlan(synth("hand/54", 50, 105), 0.4, fields={"keys": [54]}),
            "shaker": SoundPlan(synth("hand/82", 50, 105), 0.3, fields={"keys": [82, 69, 70]}),
            "cowbell": SoundPlan(sonic("drum_cowbell"), 0.35, fields={"keys": [56]}),
            "claves": SoundPlan(synth("hand/75", 100), 0.2, fields={"keys": [75]}),
            "wood_block": SoundPlan(synth("hand/76", 100), 0.2, fields={"keys": [76, 77]}),
            "conga": SoundPlan(synth("hand/63", 50, 105), 0.5, fields={"keys": [62, 63]}),
            "low_conga": SoundPlan(synth("hand/64", 50, 105), 0.6, fields={"keys": [64]}),
            "high_bongo": SoundPlan(synth("hand/60", 50, 105), 0.3, fields={"keys": [60]}),
            "low_bongo": SoundPlan(synth("hand/61", 50, 105), 0.4, fields={"keys": [61]}),
            "clap": SoundPlan(synth("hand/39", 100, takes=3), 0.4, fields={"voice": "side_stick", "keys": [39]}),
            "low_tom": SoundPlan(gogodze("tl", 5, 3, semitones=-5), 1.2, 0.5, 40, crest=13),
        },
    },
    "dry": {
        "title": "the acoustic kit, close microphones, no room",
        "include": ["acoustic"],
        "bus": {"threshold": -14.0, "ratio": 1.5},
        "sounds": {},
    },
    "studio": {
        "title": "a second acoustic kit, tight and bright",
        "include": ["acoustic"],
        "room": {"seconds": 0.3, "size": 4.0, "brightness": 7000.0},
        "bus": {"threshold": -18.0, "ratio": 2.5},
        "sounds": {
            "kick": SoundPlan(sonic("drum_bass_soft", "drum_bass_hard"), 0.5, crest=11),
            "snare": SoundPlan(sonic("drum_snare_soft", "drum_snare_hard"), 0.5, low_cut=60, crest=12),
            "rim_shot": SoundPlan(sonic("drum_snare_hard"), 0.5, low_cut=60, fields={"voice": "snare", "keys": [40]}),
            "closed_hat": SoundPlan(sonic("drum_cymbal_closed"), 0.2, low_cut=350, crest=11),
            "pedal_hat": SoundPlan(sonic("drum_cymbal_pedal"), 0.25, low_cut=350, crest=11),
            "open_hat": SoundPlan(sonic("drum_cymbal_open"), 1.7, 0.9, 300, crest=12),
            "ride": SoundPlan(sonic("ride_via"), 3.0, 1.6, 150, crest=12),
            "high_tom": SoundPlan(sonic("drum_tom_hi_soft", "drum_tom_hi_hard"), 0.7, 0.3, 50, crest=13),
            "mid_tom": SoundPlan(sonic("drum_tom_mid_soft", "drum_tom_mid_hard"), 0.7, 0.3, 50, crest=13),
            "low_tom": SoundPlan(sonic("drum_tom_lo_soft", "drum_tom_lo_hard", semitones=-3), 1.0, 0.4, 40, crest=13),
        },
    },
    "electronic": {
        "title": "a drum machine: a punchy kick, claps, short hats",
        "include": ["acoustic"],
        "room": {"seconds": 0.25, "size": 4.0, "brightness": 8000.0, "level": -4.0},
        "bus": {"threshold": -16.0, "ratio": 3.0},
        "places": {
            "kick": {"level": -10.5},
            "closed_hat": {"level": -17.0},
            "open_hat": {"level": -17.5},
            "ride": {"level": -17.5},
            "crash": {"level": -17.0},
        },
        "sounds": {
            "kick": SoundPlan(sonic("bd_haus"), 0.4, crest=11),
            "snare": SoundPlan(sonic("sn_dub"), 0.4, low_cut=60, crest=12),
            "side_stick": SoundPlan(synth("electronic/39", 100, takes=3), 0.4, low_cut=150),
            "clap": SoundPlan(synth("electronic/39", 100, takes=3), 0.4, fields={"voice": "side_stick", "keys": [39]}),
            "closed_hat": SoundPlan(sonic("hat_zap"), 0.12, 0.04, 400, crest=11),
            "pedal_hat": SoundPlan(sonic("hat_bdu"), 0.1, 0.04, 400, crest=11),
            "open_hat": SoundPlan(sonic("hat_gump"), 0.45, 0.15, 400, crest=12),
            "ride": SoundPlan(sonic("drum_cymbal_soft"), 0.9, 0.5, 400, crest=12),
            "crash": SoundPlan(sonic("drum_splash_hard"), 2.4, 1.4, 250),
            "high_tom": SoundPlan(synth("electronic/50", 60, 110, takes=1), 0.6, 0.3),
            "mid_tom": SoundPlan(synth("electronic/47", 60, 110, takes=1), 0.7, 0.3),
            "low_tom": SoundPlan(synth("electronic/43", 60, 110, takes=1), 0.8, 0.3),
        },
    },
    "808": {
        "title": "a drum machine of the eighties: a long low kick, ticking hats",
        "include": ["electronic"],
        "bus": {"threshold": -16.0, "ratio": 2.0},
        "places": {"kick": {"level": -9.0}, "closed_hat": {"level": -17.0}, "open_hat": {"level": -17.5}},
        "sounds": {
            "kick": SoundPlan(sonic("bd_808"), 0.6, 0.25, crest=11),
            "snare": SoundPlan(sonic("sn_generic"), 0.4, low_cut=60, crest=12),
            "closed_hat": SoundPlan(sonic("hat_star"), 0.1, 0.04, 400, crest=11),
            "pedal_hat": SoundPlan(sonic("hat_bdu"), 0.1, 0.04, 400, crest=11),
            "open_hat": SoundPlan(sonic("hat_cats"), 0.36, 0.15, 400, crest=12),
        },
    },
}


@dataclass
class InstrumentPlan:
    """How a pitched instrument is made.

    Attributes:
        files: (name without ending, MIDI note, velocity), name by name.
        seconds: of each note.
        fields: of its instrument.toml.
        quality: of Vorbis, 0 the best to 1.
    """

    files: list[tuple[str, int, int]]
    seconds: float
    fields: dict[str, Any]
    quality: float = 0.3


_NAMES = ("c", "db", "d", "eb", "e", "f", "gb", "g", "ab", "a", "bb", "b")


def note_name(pitch: int, octave: int) -> str:
    """Return a file's name for a MIDI note; middle C is in the octave of that number."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 5 + octave}"


INSTRUMENTS: dict[str, InstrumentPlan] = {
    "electric-bass": InstrumentPlan(
        [
            (f"growlybass_ebass_CC0/{note_name(pitch, 5)}_{loud}_rr1", pitch, velocity)
            for pitch in (25, 28, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57)
            for loud, velocity in (("p", 40), ("f", 84), ("ff", 118))
        ],
        3.8,
        {
            "title": "an electric bass, fingers, with some growl",
            "lowest": 23,
            "highest": 64,
            "level": -12.0,
            "release": 0.07,
            "single": True,
            "dynamics": 1.3,
            "bus": {"threshold": -15.0, "ratio": 2.0, "release": 0.2, "makeup": 2.0},
        },
    ),
    "upright-bass": InstrumentPlan(
        [
            (f"meatbass_doublebass_pizz_CC0/{note_name(pitch, 4)}_vl{loud}_rr1", pitch, velocity)
            for pitch in (24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57)
            for loud, velocity in ((2, 56), (4, 112))
        ],
        2.9,
        {
            "title": "a double bass, plucked",
            "lowest": 23,
            "highest": 60,
            "level": -12.0,
            "release": 0.12,
            "single": True,
            "send": -18.0,
            "room": {"seconds": 0.35, "size": 4.0, "brightness": 4000.0},
        },
    ),
    "clean-guitar": InstrumentPlan(
        [
            (f"black_guitar_CC0/twang_{note_name(pitch, 5)}_{loud}_rr1", pitch, velocity)
            for pitch in range(40, 86, 3)
            for loud, velocity in (("mf", 64), ("f", 112))
        ],
        3.6,
        {
            "title": "a clean electric guitar",
            "lowest": 38,
            "highest": 88,
            "level": -20.0,
            "release": 0.1,
            "send": -14.0,
            "bus": {"threshold": -22.0, "ratio": 2.0},
            "room": {"seconds": 0.5, "size": 6.0, "brightness": 5000.0},
        },
    ),
}


PROVENANCE = """# Where these sounds come from

`docs/scripts/make_kits.py` makes every file here. All recordings are in the public domain (Creative Commons CC0 1.0):
whoever releases a song with them owes nothing to anybody.

| sounds | source | licence |
|---|---|---|
| kits `acoustic` and `dry`: kick, snare, rim shot, side stick, hi-hats, toms | Karoryfer, Gogodze Phu vol. II | CC0 1.0 |
| cymbals and cowbell of all kits; kit `studio`; kicks, snares and hi-hats of `electronic` and `808` | Sonic Pi's samples, from freesound.org; Sonic Pi's `etc/samples/README.md` names each author | CC0 1.0 |
| hand percussion and claps of all kits; toms of `electronic` and `808` | the synthesizer of stage itself | as the package |
| instrument `electric-bass` | Karoryfer, Growlybass | CC0 1.0 |
| instrument `upright-bass` | Karoryfer, Meatbass | CC0 1.0 |
| instrument `clean-guitar` | Karoryfer, black guitar | CC0 1.0 |

The grand piano and the electric piano are computed (`core/players/modal.py`), not recorded.

Every take is mixed to mono, cut to its attack and where it has died away, and brought to a common level; noise of the
room is taken out of the Gogodze Phu recordings; some toms and cymbals are tuned down.
"""


def main() -> None:
    """Write the kits that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("material", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "stage_cli" / "assets")
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    for name, plan in KITS.items():
        if not arguments.only or name in arguments.only:
            make_kit(arguments.material, arguments.out / "kits" / name, plan)
    for name, plan in INSTRUMENTS.items():
        if not arguments.only or name in arguments.only:
            make_instrument(arguments.material, arguments.out / "instruments" / name, plan)
    for folder in ("kits", "instruments"):
        (arguments.out / folder / "PROVENANCE.md").write_text(PROVENANCE, encoding="utf-8")


def make_kit(material: Path, folder: Path, plan: dict[str, Any]) -> None:
    """Write one kit's folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = [f'title = "{plan["title"]}"']
    lines += [f"{key} = {toml(plan[key])}" for key in ("gain", "include") if key in plan]
    for key in ("room", "bus"):
        if key in plan:
            lines += ["", f"[{key}]", *(f"{name} = {toml(value)}" for name, value in plan[key].items())]
    for name, sound in plan["sounds"].items():
        lines += ["", *make_sound(material, folder, name, sound)]
    for name, place in plan.get("places", {}).items():
        lines += ["", f"[places.{name}]", *(f"{key} = {toml(value)}" for key, value in place.items())]
    (folder / "kit.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder.name}: {size / 1e6:.2f} MB")


def make_sound(material: Path, folder: Path, name: str, plan: SoundPlan) -> list[str]:
    """Write a sound's file; return its lines of kit.toml."""
    layers = [[prepare(material, file, plan, layer) for file in layer.files] for layer in plan.layers]
    levels = [mean_level(layer) for layer in layers]
    layers = [even_out(layer, level) for layer, level in zip(layers, levels, strict=True)]
    order = np.argsort(levels)
    velocities = spread_velocities([levels[n] for n in order], [plan.layers[n].velocity for n in order])
    # Every layer uses the file's range: its level says how loud it is there, and its velocity how loud it was.
    parts: list[np.ndarray] = []
    rows: list[str] = []
    place = 0
    for velocity, number in zip(velocities, order, strict=True):
        layer = layers[number]
        gain = 0.8 / max(float(np.abs(take).max()) for take in layer)
        spans = []
        for take in layer:
            spans.append([place, place + len(take)])
            gap = np.zeros(round(_GAP * RATE), dtype=np.float32)
            parts += [take * gain, gap]
            place += len(take) + len(gap)
        level = mean_level([take * gain for take in layer])
        rows.append(f"  {{ velocity = {velocity}, level = {level:.2f}, takes = {spans} }},")
    file = folder / f"{name}.ogg"
    write_vorbis(file, parts, 0.2)
    return [
        f"[sounds.{name}]",
        f'file = "{file.name}"',
        *(f"{key} = {toml(value)}" for key, value in plan.fields.items()),
        "layers = [",
        *rows,
        "]",
    ]


def make_instrument(material: Path, folder: Path, plan: InstrumentPlan) -> None:
    """Write one pitched instrument's folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts: list[np.ndarray] = []
    rows = []
    place = 0
    for name, pitch, velocity in plan.files:
        mono = trim(load_mono(material / f"{name}.flac", 0.0), RATE)[: round(plan.seconds * RATE)]
        mono = fade_edges(mono, RATE, min(0.8, len(mono) / RATE / 3))
        mono *= 0.8 / float(np.abs(mono).max())
        level = stroke_level(mono, RATE)
        heard = measure_pitch(mono, pitch)
        span = f"[{place}, {place + len(mono)}]"
        rows.append(f"  {{ pitch = {heard:.2f}, velocity = {velocity}, level = {level:.2f}, take = {span} }},")
        parts += [mono, np.zeros(round(_GAP * RATE), dtype=np.float32)]
        place += len(mono) + len(parts[-1])
    write_vorbis(folder / "notes.ogg", parts, plan.quality)
    lines = [f"{key} = {toml(value)}" for key, value in plan.fields.items() if not isinstance(value, dict)]
    lines += ['file = "notes.ogg"', "notes = [", *rows, "]"]
    for key, value in plan.fields.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(f"{name} = {toml(item)}" for name, item in value.items())]
    (folder / "instrument.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder.name}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.2f} MB")


def write_vorbis(path: Path, parts: list[np.ndarray], quality: float) -> None:
    """Write takes one after the other; quality 0 is the best, 1 the smallest."""
    with soundfile.SoundFile(path, "w", RATE, 1, format="OGG", subtype="VORBIS", compression_level=quality) as file:
        # In small blocks: libsndfile's encoder keeps a block on the stack.
        samples = np.concatenate(parts)
        for start in range(0, len(samples), 4096):
            file.write(samples[start : start + 4096])


def measure_pitch(mono: np.ndarray, near: int) -> float:
    """Return a note's pitch as a MIDI note number, by autocorrelation within half a semitone of what its name says."""
    part = mono[round(0.3 * RATE) : round(0.3 * RATE) + 32_768]
    part = part * np.hanning(len(part))
    size = 1 << 17
    similar = np.fft.irfft(np.abs(np.fft.rfft(part, size)) ** 2)
    # Over 16 periods the peak is 16 times as sharp.
    period = RATE / (440 * 2 ** ((near - 69) / 12))
    count = max(1, min(16, int(6000 / period)))
    lags = np.arange(int(count * period / 2 ** (0.5 / 12)), int(count * period * 2 ** (0.5 / 12)) + 2)
    best = int(lags[np.argmax(similar[lags])])
    before, here, after = similar[best - 1 : best + 2]
    shift = (after - before) / (2 * (2 * here - before - after) + 1e-12)
    if best in (lags[0], lags[-1]):
        return float(near)
    return near + 12 * float(np.log2(count * period / (best + shift)))


def prepare(material: Path, name: str, plan: SoundPlan, source: Source) -> np.ndarray:
    """Return a take as it is shipped: mono, trimmed to its attack, its noise taken out, `[frames]` float32."""
    mono = trim(load_mono(material / name, source.semitones), RATE)
    if name.startswith("gogodze"):
        mono = take_out_noise(mono)
    if source.under[0]:
        other = trim(load_mono(material / source.under[0], source.semitones), RATE)
        other *= 10 ** (-source.under[1] / 20) * np.abs(mono).max() / np.abs(other).max()
        longer = np.zeros(max(len(mono), len(other)), dtype=np.float32)
        longer[: len(mono)] = mono
        longer[: len(other)] += other
        mono = longer
    if plan.low_cut:
        hertz = np.fft.rfftfreq(2 * len(mono), 1 / RATE)
        gain = hertz**4 / (hertz**4 + plan.low_cut**4)
        mono = np.fft.irfft(np.fft.rfft(mono, 2 * len(mono)) * gain)[: len(mono)].astype(np.float32)
    mono = mono[: round(plan.seconds * RATE)]
    mono = fade_noise(mono, plan.noise)
    most = 10 ** ((stroke_level(mono, RATE) + plan.crest) / 20)
    mono = most * np.tanh(mono / most)
    return fade_edges(mono, RATE, min(plan.fade, len(mono) / RATE / 2))


def load_mono(path: Path, semitones: float) -> np.ndarray:
    """Return a file's sound (or the synthesizer's), mono, `[frames]` float32, tuned by so many semitones."""
    if "synth" in path.parts:
        return play_synth(*path.parts[path.parts.index("synth") + 1 :])
    samples, rate = read_sample(path)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return resample(mono.astype(np.float32), rate * 2 ** (semitones / 12), RATE)


def play_synth(kit: str, key: str, velocity: str, take: str) -> np.ndarray:
    """Return a stroke of the project's own synthesizer, `[frames]` float32 at `RATE`."""
    from stage_cli.core.band.synth_drums import build_hand_percussion, build_kit

    song = np.random.default_rng(12)
    strokes = build_hand_percussion(song) if kit == "hand" else build_kit(kit, song)
    own = np.random.default_rng([int(key), int(velocity), int(take)])
    return 0.3 * np.asarray(strokes[int(key)](int(velocity) / 127, own), dtype=np.float32)


def take_out_noise(samples: np.ndarray) -> np.ndarray:
    """Take the room's noise out of a recording: what each frequency has in its last tenth (spectral subtraction)."""
    size, hop = 1024, 256
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))
    padded = np.pad(samples, (size, 2 * size))
    count = (len(padded) - size) // hop + 1
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:count] * window
    spectra = np.fft.rfft(frames, axis=1)
    power = np.abs(spectra) ** 2
    real = range(size // hop, size // hop + len(samples) // hop - size // hop)
    last = power[real.stop - max(4, len(real) // 10) : real.stop]
    noise = np.convolve(np.pad(last.mean(axis=0), 4, mode="edge"), np.ones(9) / 9, mode="valid")
    smooth = np.apply_along_axis(lambda row: np.convolve(row, np.ones(5) / 5, mode="same"), 1, power)
    smooth = np.maximum(smooth, np.roll(smooth, 1, axis=0))  # a tail is let go a little later than it ends
    gain = np.clip(1.15 - 3.0 * noise / np.maximum(smooth, 1e-20), 0, 1)
    out = np.zeros(len(padded))
    for number, frame in enumerate(np.fft.irfft(spectra * gain, axis=1) * window):
        out[number * hop : number * hop + size] += frame
    return (out[size : size + len(samples)] * 2 * hop / size).astype(np.float32)


def fade_noise(samples: np.ndarray, below: float) -> np.ndarray:
    """Fade a tail into silence from where it has fallen by `below` dB: what follows is the room's noise."""
    hop = round(0.005 * RATE)
    count = len(samples) // hop
    levels = np.sqrt(np.square(samples[: count * hop]).reshape(count, hop).mean(axis=1) + 1e-12)
    smooth = np.convolve(levels, np.ones(5) / 5, mode="same")
    above = np.flatnonzero(smooth > smooth.max() * 10 ** (-below / 20))
    last = min(len(samples), (int(above[-1]) + 2) * hop) if len(above) else len(samples)
    tail = min(len(samples) - last, round(0.06 * RATE))
    out = samples[: last + tail].copy()
    out[last:] *= np.linspace(1, 0, tail, dtype=np.float32) ** 2
    return out


def mean_level(takes: list[np.ndarray]) -> float:
    """Return the mean level of a layer's takes, in dB (of their powers)."""
    return float(10 * np.log10(np.mean([10 ** (stroke_level(take, RATE) / 10) for take in takes])))


def even_out(takes: list[np.ndarray], level: float) -> list[np.ndarray]:
    """Bring a layer's takes closer to its level: 0.4 of their differences stay, 1 dB at most."""
    out = []
    for take in takes:
        apart = stroke_level(take, RATE) - level
        out.append(take * np.float32(10 ** ((float(np.clip(0.4 * apart, -1, 1)) - apart) / 20)))
    return out


def spread_velocities(levels: list[float], wanted: list[float]) -> list[int]:
    """Return the velocity that each layer stands for: its own wish, else as its level lies between the others'.

    Layers were recorded closer together than velocities spread, so they are stretched over 25 to 118.
    """
    low, high = min(levels), max(levels)
    count = len(levels)
    out = []
    for number, (level, wish) in enumerate(zip(levels, wanted, strict=True)):
        even = number / max(count - 1, 1)
        heard = (level - low) / max(high - low, 1e-9) if high > low else even
        out.append(round(wish or (118 if count == 1 else 25 + 93 * (0.5 * heard + 0.5 * even))))
    return out


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value)


if __name__ == "__main__":
    main()
