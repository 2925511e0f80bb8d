"""The players other than the drummer: which instrument, in which manner, and what they play in a section."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stage_cli.core.data.band.composition.bass_lines import play_bass
from stage_cli.core.data.band.composition.comping import play_arpeggio, play_chords, play_oom_pah, play_power_chords
from stage_cli.core.data.band.composition.form import plays
from stage_cli.core.data.band.composition.hand_percussion import play_percussion
from stage_cli.core.data.band.composition.melody import play_answers, play_melody, play_riff
from stage_cli.core.data.band.composition.passage import Passage
from stage_cli.core.data.band.composition.score import Event
from stage_cli.core.data.band.composition.styles import Role, Style
from stage_cli.core.data.band.instruments import INSTRUMENTS, Instrument
from stage_cli.core.data.band.randomness import chance, generator, pick

_DRIVEN = ("crunch guitar", "distorted guitar")
_CHORD_ROLES = ("rhythm guitar", "keys", "pad")
_TUNES = ("song", "tune", "line")
_CENTERS = {
    "guitar": 57,
    "piano": 60,
    "other_keys": 61,
    "bowed_strings": 64,
    "wind": 64,
    "vocals": 64,
    "other_plucked": 66,
}


@dataclass(frozen=True)
class Player:
    """One player of a song, or one take of a player who is recorded twice."""

    name: str
    role: str
    instrument: str
    manner: str
    late_entry: float
    level: float
    pan: float
    lag: float
    leads: bool = False

    @property
    def sounds(self) -> Instrument:
        """What is known of the instrument."""
        return INSTRUMENTS[self.instrument]


def hire_players(key: tuple[int | str, ...], style: Style) -> list[Player]:
    """Return a song's players, with who stands where and how loud. There is always someone who plays chords."""
    present = {role.name for role in style.roles if chance(generator(*key, "present", role.name), role.probability)}
    harmony = [role for role in style.roles if role.name in _CHORD_ROLES]
    if present.isdisjoint(role.name for role in harmony):
        present.add(max(harmony, key=lambda role: role.probability).name)
    leader = next((role.name for role in harmony if role.name in present), "")
    players = []
    for role in style.roles:
        if role.name not in present:
            continue
        rng = generator(*key, "player", role.name)
        instrument, manner = pick(rng, role.instruments), pick(rng, role.manners)
        level = float(np.clip(rng.normal(0, 2.0), -5, 4))
        lag = float(rng.normal(0, 0.003))
        leads = role.name == leader
        player = Player(role.name, role.name, instrument, manner, role.late_entry, level, _pan(rng, role), lag, leads)
        if instrument in _DRIVEN and role.name == "rhythm guitar" and chance(rng, 0.6):
            players.append(replace(player, level=level - 2, pan=-0.7))
            player = replace(player, name="rhythm guitar, second take", level=level - 2, pan=0.7, lag=-lag)
        players.append(player)
    return players


def play(player: Player, passage: Passage, song: tuple[int | str, ...], number: int) -> list[Event]:
    """Return what a player plays in the `number`-th section of the song that `song` is the key of.

    The pattern belongs to the kind of section and so comes back with it; small variations belong to the section.
    """
    kind = passage.section.kind
    like = "verse" if kind in ("intro", "outro", "pre-chorus", "break") else kind
    if not plays(
        generator(*song, "presence", player.role, kind), player.role, kind, player.late_entry, leads=player.leads
    ):
        return []
    # Players often keep their pattern in the chorus.
    keep = generator(*song, "keep", player.role)
    if chance(keep, 0.45) and player.role not in ("singer", "solo"):
        like = "verse"
    taste = generator(*song, "taste", player.role, like)
    rng = generator(*song, "section", player.name, number)
    return _play(player, passage, taste, rng)


def _play(player: Player, passage: Passage, taste: np.random.Generator, rng: np.random.Generator) -> list[Event]:
    sounds, manner = player.sounds, player.manner
    low, high = sounds.lowest, sounds.highest
    if sounds.stem == "bass":
        return play_bass(manner, passage, low, taste, rng)
    if player.instrument == "percussion":
        return play_percussion(manner, passage, taste, rng)
    if player.role == "singer":
        density = float(taste.uniform(0.4, 0.85))
        return play_melody(passage, low + 2, high - 3, density, taste, rng, pentatonic=0.7)
    if manner in _TUNES:
        density = {"tune": 0.85, "line": 0.3}.get(manner, float(taste.uniform(0.4, 0.75)))
        return play_melody(passage, low + 3, high - 4, density, taste, rng, pentatonic=0.3)
    if manner == "answers":
        return play_answers(passage, low + 3, high - 3, taste, rng)
    if manner == "riff":
        top = low + 19 if player.instrument in _DRIVEN else high - 6
        return play_riff(passage, max(low, top - 19), top, taste, rng)
    if player.instrument in _DRIVEN:
        return play_power_chords("chugs" if manner in ("strum", "arpeggio") else manner, passage, low, taste, rng)
    if manner in ("chugs", "boogie", "gallop"):
        return play_power_chords(manner, passage, max(low, 40), taste, rng)
    center = _CENTERS.get(sounds.stem, 62) + int(
        generator(player.name, player.instrument, passage.key.tonic).integers(-3, 6)
    )
    if manner == "oom-pah":
        return play_oom_pah(passage, center, rng)
    if manner in ("arpeggio", "broken", "rolls"):
        return play_arpeggio(manner, passage, center, taste, rng)
    strummed = sounds.stem in ("guitar", "other_plucked")
    spread = float(taste.uniform(0.008, 0.03)) if strummed else 0.0
    if manner == "sixteenths":
        spread *= 0.4
    events = play_chords(manner, passage, center, 4 if not strummed else 5, spread, taste, rng)
    if sounds.stem == "piano" and manner in ("blocks", "pulses", "held"):
        events += _left_hand(passage)
    return events


def _left_hand(passage: Passage) -> list[Event]:
    """Return a pianist's left hand: roots in octaves, as long as the chord."""
    events = []
    for span in passage.chords:
        root = 36 + span.chord.root
        events += [Event(span.beat, span.beats * 0.95, note, 0.55 * passage.loudness) for note in (root, root + 12)]
    return events


def _pan(rng: np.random.Generator, role: Role) -> float:
    if role.name in ("bass", "singer"):
        return float(rng.normal(0, 0.04))
    if role.name == "solo":
        return float(rng.normal(0, 0.2))
    return float(np.clip(rng.normal(0, 0.45), -0.85, 0.85))
