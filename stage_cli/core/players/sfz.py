"""SFZ files and folders of samples: the drum kits that musicians already have.

Of SFZ the opcodes that free drum kits use; others are ignored, so a kit with filters or effects plays without them.
Source of the format: sfzformat.com.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stage_cli.core.players.kits import PLACES, DrumKit, DrumSound, VelocityLayer
from stage_cli.core.players.regions import Region, RegionSounds
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.samples import SampleStore, SampleTake, read_sample, stroke_level, trim
from stage_cli.errors import StageError

_MOST_REGIONS = 20_000
_MOST_CHARACTERS = 8 << 20
_DEEPEST_INCLUDE = 8
_MOST_FILES = 2000
_MOST_BYTES = 2 << 30  # of a folder's files
_ENDINGS = (".wav", ".flac", ".ogg", ".aif", ".aiff", ".mp3", ".opus")
_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_OPCODE = re.compile(r"([A-Za-z0-9_$]+)=(.*?)(?=\s+[A-Za-z0-9_$]+=|\s*<|\s*$)")

_FOLDER_ROOM = RoomConfig(0.35, 5.0, 5000.0, -4.0)


def read_sfz(path: Path, *, drums: bool) -> RegionSounds:
    """Read an SFZ file; its samples are decoded when they are first played.

    Args:
        path: of the file. All that it names lies in its folder or below.
        drums: whether its keys are General MIDI's drums.

    Raises:
        StageError: it cannot be read, names a file that is missing or outside its folder, has a wrong value, no
            region, or (for drums) no kick; the error names the line's opcode.
    """
    root = path.parent.resolve()
    text = _expand(path, root, 0, {})
    regions: list[Region] = []
    levels: dict[str, dict[str, str]] = {}
    known: dict[str, Path] = {}
    for header, opcodes in _headers(text):
        if header in ("control", "global", "master", "group"):
            order = ("control", "global", "master", "group")
            for lower in order[order.index(header) :]:
                levels.pop(lower, None)
            levels[header] = opcodes
        elif header == "region":
            merged: dict[str, str] = {}
            for name in ("global", "master", "group"):
                merged |= levels.get(name, {})
            merged |= opcodes
            region = _region(path, root, levels.get("control", {}), merged, known, drums=drums)
            if region is not None:
                regions.append(region)
            if len(regions) > _MOST_REGIONS:
                raise StageError(f"{path} has more than {_MOST_REGIONS} regions", why="no kit needs so many")
    return RegionSounds(path.name, tuple(regions), drums, bus=BusConfig(-16.0, 1.5) if drums else None)


def find_maps(folder: Path) -> list[Path]:
    """Return the SFZ files that lie in a folder itself, without those that another one includes."""
    maps = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() == ".sfz" and entry.is_file())
    included: set[str] = set()
    for path in maps if len(maps) > 1 else ():
        with contextlib.suppress(OSError):
            text = path.read_bytes()[:_MOST_CHARACTERS].decode("utf-8-sig", errors="replace")
            included |= {name.replace("\\", "/").lower() for name in re.findall(r'#include\s+"([^"]+)"', text)}
    return [path for path in maps if path.name.lower() not in included]


def _expand(path: Path, root: Path, depth: int, defines: dict[str, str]) -> str:
    """Return a file's text with its includes in it, its comments gone and its #defines put in."""
    if depth > _DEEPEST_INCLUDE:
        raise StageError(f"{path} is included {depth} deep", why="files include each other in a circle")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StageError(f"cannot read {path}", why=error.strerror or str(error)) from error
    if len(raw) > _MOST_CHARACTERS or b"\0" in raw[:4096]:
        raise StageError(f"{path} is no SFZ file", why="it is not text")
    text = raw.decode("utf-8-sig", errors="replace")
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    lines: list[str] = []
    for whole in text.splitlines():
        line = whole.split("//", 1)[0]
        for name, value in re.findall(r"#define\s+(\$\w+)\s+(\S+)", line):
            defines[name] = value
        line = re.sub(r"#define\s+\$\w+\s+\S+", " ", line)
        for name in sorted(defines, key=len, reverse=True):
            line = line.replace(name, defines[name])
        include = re.search(r'#include\s+"([^"]+)"', line)
        if include:
            line = _expand(_inside(path, root, include[1], "#include"), root, depth + 1, defines)
        lines.append(line)
    return "\n".join(lines)


def _headers(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each header's name and opcodes."""
    parts = re.split(r"<(\w+)>", text)
    for header, body in zip(parts[1::2], parts[2::2], strict=True):
        opcodes: dict[str, str] = {}
        for line in body.splitlines():
            for name, value in _OPCODE.findall(line):
                opcodes[name.lower()] = value.strip()
        yield header.lower(), opcodes


def _inside(path: Path, root: Path, name: str, opcode: str) -> Path:
    """Return the file that an SFZ file names, whatever its case; it must lie in the SFZ file's folder."""
    clean = name.strip().replace("\\", "/")
    found = (root / clean).resolve()
    if Path(clean).is_absolute() or re.match(r"[A-Za-z]:", clean) or not found.is_relative_to(root):
        raise StageError(
            f"{path.name}: {opcode} names a file outside its folder",
            why=name,
            next_step=f"put the SFZ file where all its samples lie in its folder ({root}) or below",
        )
    if not found.is_file():
        # Kits are made on systems that do not tell upper from lower case.
        current = root
        for part in Path(clean).parts:
            if not (current / part).exists() and current.is_dir():
                alike = [entry for entry in current.iterdir() if entry.name.lower() == part.lower()]
                part = alike[0].name if alike else part
            current = current / part
        found = current.resolve()
    if not found.is_relative_to(root) or not found.is_file():
        raise StageError(
            f"{path.name}: {opcode} names a file that is missing",
            why=name,
            next_step="check that the kit was unpacked whole",
        )
    return found


def _region(
    path: Path, root: Path, control: dict[str, str], opcodes: dict[str, str], known: dict[str, Path], *, drums: bool
) -> Region | None:
    sample = opcodes.get("sample", "")
    if not sample or sample.startswith("*") or opcodes.get("trigger", "attack") not in ("attack", "first"):
        return None
    name = control.get("default_path", "") + sample
    if name not in known:
        known[name] = _inside(path, root, name, "sample")

    def number(opcode: str, usual: float, low: float, high: float) -> float:
        text = opcodes.get(opcode)
        if text is None:
            return usual
        try:
            value = float(text)
        except ValueError:
            value = _key(text) if opcode.endswith(("key", "keycenter")) else None  # type: ignore[assignment]
        if value is None or not low <= value <= high:
            raise StageError(
                f"{path.name}: {opcode}={text} is wrong", why=f"a number from {low:g} to {high:g} is meant"
            )
        return value

    shift = int(float(control.get("note_offset", "0"))) + 12 * int(float(control.get("octave_offset", "0")))
    key = number("key", -1, -1, 127)
    low = number("lokey", key if key >= 0 else 0, -1, 127) + shift
    high = number("hikey", key if key >= 0 else 127, -1, 127) + shift
    if high < 0 or high < low:
        return None  # played by a controller only
    center = opcodes.get("pitch_keycenter")
    root_key = key if key >= 0 else 60.0
    if center is not None and center != "sample":
        root_key = number("pitch_keycenter", root_key, -1, 127)
    loop = None
    if opcodes.get("loop_mode", opcodes.get("loopmode", "")) in ("loop_continuous", "loop_sustain"):
        first, last = int(number("loop_start", -1, -1, 2**31)), int(number("loop_end", -1, -1, 2**31))
        loop = (first, last + 1) if 0 <= first < last else None
    offset = int(number("offset", 0, 0, 2**31))
    end = int(number("end", -1, -1, 2**31))
    release = number("ampeg_release", 0.02 if drums else 0.05, 0, 100)
    group, off_by = opcodes.get("group", ""), opcodes.get("off_by", opcodes.get("offby", ""))
    fast = opcodes.get("off_mode", "fast") == "fast"
    turns = max(1, int(number("seq_length", 1, 1, 100)))
    track = number("amp_veltrack", 100, -100, 100) / 100
    return Region(
        SampleTake(known[name], offset, end + 1 if end > offset else None, loop),
        round(max(low, 0)),
        round(high),
        max(1, round(number("lovel", 1, 0, 127))),
        round(number("hivel", 127, 0, 127)),
        root_key + shift,
        number("tune", number("pitch", 0, -9600, 9600), -9600, 9600) / 100 + number("transpose", 0, -127, 127),
        number("pitch_keytrack", 100, -1200, 1200) / 100,
        number("volume", 0, -144, 60) + number("group_volume", 0, -144, 60) + number("master_volume", 0, -144, 60),
        2.0 * track,
        number("pan", 0, -100, 100) / 100,
        turns,
        (int(number("seq_position", 1, 1, 100)) - 1) % turns,
        number("lorand", 0, 0, 1),
        number("hirand", 1, 0, 1) if float(opcodes.get("hirand", "1")) < 1 else 2.0,
        group if group != "0" else "",
        off_by if off_by != "0" else "",
        0.012 if fast else max(0.012, min(release, 0.5)),
        drums or opcodes.get("loop_mode", opcodes.get("loopmode", "")) == "one_shot",
        max(0.01, min(release, 5.0)),
    )


def _key(text: str) -> float | None:
    """Return the MIDI note of a name as SFZ writes it: c4 is 60."""
    match = re.fullmatch(r"([a-gA-G])([#b]?)(-?\d+)", text.strip())
    if not match:
        return None
    return _NOTES[match[1].lower()] + {"#": 1, "b": -1, "": 0}[match[2]] + 12 * (int(match[3]) + 1)


# In the order in which they are tried: "open hat" before "hat", "side stick" before "stick".
_WORDS: tuple[tuple[str, str], ...] = (
    ("open_hat", r"open.*(hat|hh|hihat)|(hat|hh|hihat).*open|\bohh?\b|\bhho\b"),
    ("pedal_hat", r"(pedal|foot).*(hat|hh)|(hat|hh|hihat).*(pedal|foot)|\bphh\b|\bhhp\b"),
    ("closed_hat", r"clos.*(hat|hh)|(hat|hh|hihat).*clos|\bchh?\b|\bhhc\b|hi ?hat|\bhats?\b|\bhh\b"),
    ("side_stick", r"side ?stick|rim ?click|cross ?stick|\brim\b|\bxstick\b|clap"),
    ("kick", r"kick|bass ?drum|\bbd\b|\bkd(rum)?\b|\bkik\b"),
    ("snare", r"snare|\bsn?d?\b|\bsnr\b|rim ?shot"),
    ("ride", r"ride|\brd\b"),
    ("crash", r"crash|splash|china|cymbal|\bcy\b|\bcr\b"),
    ("high_tom", r"(hi|high|small|rack|1).*tom|tom.*(hi\b|high|small|rack|1)|\bht\b|\bt1\b"),
    ("low_tom", r"(lo|low|floor|large|3|4).*tom|tom.*(lo\b|low|floor|large|3|4)|\blt\b|\bft\b|\bt3\b"),
    ("mid_tom", r"tom|\bmt\b|\bt2\b"),
    ("percussion", r"perc|cowbell|shaker|tamb|conga|bongo|clave|wood ?block|triangle"),
)
_LOUDNESS: tuple[tuple[str, float], ...] = (
    (r"\bppp?\b|very ?soft|ghost", 24),
    (r"soft|quiet|\bp\b|light", 45),
    (r"\bm[pf]\b|medium|mid\b", 75),
    (r"\bfff?\b|hardest|loudest", 122),
    (r"hard|loud|\bf\b|accent", 110),
)


def voice_of_name(name: str) -> str | None:
    """Return the drum voice that a sample's name means: "Snare soft 2" → snare; None for a name that says none."""
    words = re.sub(r"[_\-.]+", " ", name)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).lower()
    apart = re.sub(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])", " ", words)
    return next((voice for voice, pattern in _WORDS if re.search(pattern, apart)), None)


def read_sample_folder(folder: Path) -> DrumKit:
    """Make a kit of a folder of one-shots named by voice, in it or one folder below: kick.wav, "Snare soft 2.wav".

    Takes of one voice whose names say how hard they are struck (soft, hard, p, f, v1, v2 …) become layers, the others
    by how loud they are, where they differ by 4 dB or more; the rest are takes that take turns. Levels and pans are
    those of the package's kits.

    Raises:
        StageError: there is nothing to hear, a file cannot be read, or there is no kick.
    """
    files = sorted(
        path
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise StageError(
            f"sounds: {folder} holds no samples",
            why=f"none of its files ends in {', '.join(_ENDINGS)}",
            next_step="put one-shots there, named by voice: kick.wav, snare_1.wav, hihat closed.wav",
        )
    total = sum(path.stat().st_size for path in files)
    if len(files) > _MOST_FILES or total > _MOST_BYTES:
        raise StageError(
            f"sounds: {folder} is too large for a kit",
            why=f"{len(files)} files, {total / 1e9:.1f} GB; at most {_MOST_FILES} files and {_MOST_BYTES >> 30} GB",
            next_step="name the folder of one kit",
        )
    voices: dict[str, list[Path]] = {}
    for path in files:
        named = path.stem if path.parent == folder else f"{path.parent.name} {path.stem}"
        voice = voice_of_name(path.stem) or voice_of_name(named)
        if voice is not None:
            voices.setdefault(voice, []).append(path)
    if not voices:
        raise StageError(
            f"sounds: no sample of {folder} is named by a voice",
            why=f"for example {files[0].name}",
            next_step=f"rename them: {', '.join(PLACES)}",
        )
    prepared: dict[Path, tuple] = {}

    def load(path: Path) -> tuple:
        if path not in prepared:
            samples, rate = read_sample(path)
            prepared[path] = trim(samples, rate), rate
        return prepared[path]

    sounds = {voice: _folder_sound(voice, paths, load) for voice, paths in voices.items()}
    return DrumKit(
        folder.name,
        f"samples of {folder.name}",
        sounds,
        {},
        room=_FOLDER_ROOM,
        bus=BusConfig(),
        store=SampleStore(load),
    )


def _folder_sound(voice: str, paths: list[Path], load) -> DrumSound:
    takes = []
    for path in paths:
        samples, rate = load(path)
        level = stroke_level(samples, rate)
        if level <= -100:
            raise StageError(f"sounds: {path} is silent", next_step="take it out of the folder")
        takes.append((_loudness_of_name(path.stem), level, SampleTake(path)))
    groups: list[list[tuple[float, float, SampleTake]]] = []
    named = {loudness for loudness, _, _ in takes if loudness}
    if len(named) > 1:
        for loudness in sorted(named):
            groups.append([take for take in takes if (take[0] or max(named)) == loudness])
    else:
        for take in sorted(takes, key=lambda take: take[1]):
            if groups and take[1] - groups[-1][0][1] < 4:
                groups[-1].append(take)
            else:
                groups.append([take])
    layers = []
    for number, group in enumerate(groups):
        velocity = group[0][0] if len(named) > 1 else 118 - 90 * (1 - (number + 1) / len(groups))
        level = sum(take[1] for take in group) / len(group)
        layers.append(VelocityLayer(velocity, level, tuple(take[2] for take in group)))
    return DrumSound(voice, replace(PLACES[voice]), tuple(layers))


def _loudness_of_name(name: str) -> float:
    """Return the velocity that a name tells; 0 if it tells none."""
    words = re.sub(r"[_\-.]+", " ", name).lower()
    layer = re.search(r"\b(?:vl?|vel|layer) ?(\d{1,3})\b", words)
    if layer:
        number = int(layer[1])
        # Numbers of layers stay in order: v1 the softest; above 12 they are MIDI velocities.
        return float(number if number > 12 else 15 + 10 * number) if number else 0.0
    return next((velocity for pattern, velocity in _LOUDNESS if re.search(pattern, words)), 0.0)
