"""Drum grooves as drummers know them, with the freedom that each leaves to the player.

One character is one sixteenth: X always and accented, x likely (3 in 4), o sometimes (1 in 3), . rarely (1 in 10),
f always but feathered, - never. A bar of 4/4 has 16 of them, of 3/4 and 6/8 12.
"""

from __future__ import annotations

from dataclasses import dataclass

LIKELIHOOD = {"X": 1.0, "f": 1.0, "x": 0.75, "o": 0.35, ".": 0.1, "-": 0.0}

_BACKBEAT = "----X-------X---"
_GHOSTS = ".--o--.o-o-o--.o"
_FEW_GHOSTS = "-------.-o-----o"
_NONE = "----------------"


@dataclass(frozen=True)
class GroovePattern:
    """A family of grooves.

    Attributes:
        kicks: patterns to choose from.
        snares: likewise.
        ghosts: soft snare strokes.
        cymbals: manners of the leading hand to choose from, repeated ones are likelier (see `grooves.py`).
        snare_keys: what plays the snare's pattern: "snare", "rim", "clap", "snare+clap".
        toms: patterns of a low tom under it all; empty for none.
    """

    kicks: tuple[str, ...]
    snares: tuple[str, ...] = (_BACKBEAT,)
    ghosts: str = _NONE
    cymbals: tuple[str, ...] = ("eighths",)
    snare_keys: tuple[str, ...] = ("snare",)
    toms: tuple[str, ...] = ()


GROOVES: dict[str, GroovePattern] = {
    "rock": GroovePattern(
        (
            "X---.-o-X-x---o-",
            "X-o-----X-X---.o",
            "X-----x-x-X---o-",
            "X--o--x---X--o--",
            "X-X---o-o-X-x-.-",
            "X------oX-X----o",
        ),
        (_BACKBEAT, _BACKBEAT, _BACKBEAT, "----X-------X-.o"),
        _FEW_GHOSTS,
        ("eighths", "eighths", "loose eighths", "quarters", "ride eighths"),
    ),
    "pop": GroovePattern(
        (
            "X-----o-X-o---o-",
            "X-----x---X---.-",
            "X---X---X---X---",
            "X--x--o-o-X--o--",
            "X--X---oX--o---.",
            "X-----X-o---X-o-",
        ),
        (_BACKBEAT,),
        _FEW_GHOSTS,
        ("eighths", "eighths", "sixteenths", "offbeats", "ride eighths", "pushed sixteenths"),
        ("snare", "snare", "clap", "snare+clap"),
    ),
    "funk": GroovePattern(
        ("X-o---o--ox--o--", "X-X---o---X--x-.", "X--x--X--o-o--o-", "X------x-xX---o-", "X-o--x----X-o--o"),
        (_BACKBEAT, "----X--o-o--X---", "----X-----o-x--o", "----X--X-o--X--o"),
        _GHOSTS,
        ("sixteenths", "pushed sixteenths", "eighths", "loose eighths"),
    ),
    "house": GroovePattern(
        ("X---X---X---X---", "X---X---X---X--o", "X---X---X--oX---"),
        (_BACKBEAT, _BACKBEAT, _NONE, "----X--.----X--o"),
        _NONE,
        ("offbeats", "offbeats", "offbeats with sixteenths", "pushed sixteenths", "sixteenths"),
        ("clap", "clap", "snare+clap", "snare"),
    ),
    "disco": GroovePattern(
        ("X---X---X---X---", "X---X---X---X-o-", "X---X--oX---X--."),
        (_BACKBEAT,),
        "-------.-------o",
        ("offbeats with sixteenths", "offbeats", "sixteenths", "barking eighths"),
        ("snare", "snare+clap"),
    ),
    "hip-hop": GroovePattern(
        (
            "X--o--.o--X--o--",
            "X-.o---x--X-.---",
            "X------X-oX----o",
            "X--X---o-ox---.-",
            "X-o----o--Xx----",
            "Xo-----x-Xo---o-",
        ),
        (_BACKBEAT, "----X-------X--o", "----X--.-o--X---"),
        _FEW_GHOSTS,
        ("eighths", "sixteenths", "pushed sixteenths", "loose eighths", "sparse"),
        ("snare", "clap", "snare", "rim"),
    ),
    "trap": GroovePattern(
        ("X-----o---Xo--o-", "X--o--X----o-o--", "X------o--X--x--", "X--X--o--o----X-"),
        ("--------X-------", "--------X------o", "--------X--.---o"),
        _NONE,
        ("rolling", "rolling", "eighths", "sixteenths"),
        ("clap", "snare+clap", "snare"),
    ),
    "half-time": GroovePattern(
        ("X--o--o---x---o-", "X-----X----o--o-", "X-o----oo-x----o", "X--X-----o----x-"),
        ("--------X-------",),
        "---.--o---o--.-o",
        ("eighths", "quarters", "sixteenths", "ride eighths", "loose eighths"),
    ),
    "ballad": GroovePattern(
        ("X-------o-x-----", "X-----o-X-------", "X------oX-----o-", "X---------X---.-"),
        (_BACKBEAT, _BACKBEAT, "--------X-------"),
        "---------.-----o",
        ("eighths", "eighths", "sixteenths", "ride eighths", "quarters"),
        ("rim", "snare", "snare"),
    ),
    "one drop": GroovePattern(
        ("--------X-------", "--------X------o", "----X-------X---"),
        ("--------X-------", "--------X--o--o-", "--o-----X-----o-"),
        "---.--o----o--.o",
        ("eighths", "loose eighths", "offbeats", "sixteenths"),
        ("rim", "rim", "snare"),
    ),
    "steppers": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X---X---X---X-o-"),
        ("--------X-------", "--------X-----o-", "----X-------X--."),
        "------o----o---.",
        ("eighths", "offbeats", "loose eighths"),
        ("rim", "snare"),
    ),
    "shuffle": GroovePattern(
        ("X-----o-X-----o-", "X---o---X---o---", "X-o---x-X-o---o-", "X-----X---X---o-"),
        (_BACKBEAT,),
        "--o---o---o---o-",
        ("eighths", "eighths", "ride eighths", "loose eighths", "spang-a-lang"),
    ),
    "bossa": GroovePattern(
        ("X-----x-X-----x-", "X-----x-X-----x-", "X-----o-X-----o-", "X-------X-----x-"),
        ("X--X--X---X--X--", "X-----X---X--X--", "X---X-----X-X---", "X--X---X--X---X-"),
        _NONE,
        ("eighths", "ride eighths", "sixteenths"),
        ("rim",),
    ),
    "metal": GroovePattern(
        (
            "XxXxXxXxXxXxXxXx",
            "X-xxX-xxX-xxX-xx",
            "X-XX--o-X-XX--o-",
            "X--X--X-X--X--X-",
            "X-o---X-X-X---oo",
            "XXX-X-o-XXX-X-o-",
        ),
        (_BACKBEAT, _BACKBEAT, _BACKBEAT, "--------X-------", "--------X-------", "--X---X---X---X-"),
        _NONE,
        ("quarters", "loose eighths", "ride quarters", "china quarters", "crashes", "eighths"),
    ),
    "punk": GroovePattern(
        ("X-----X-X-----X-", "X---X---X---X---", "X-----x-X-X---x-"),
        ("----X-------X---", "--X---X---X---X-"),
        _NONE,
        ("eighths", "loose eighths", "ride eighths", "crashes"),
    ),
    "motown": GroovePattern(
        ("X-----X-X-----X-", "X-----x-o-x---o-", "X---X---X---X---"),
        ("X---X---X---X---", "----X---X---X---", _BACKBEAT),
        _FEW_GHOSTS,
        ("eighths", "quarters", "sixteenths"),
        ("snare", "snare+clap"),
    ),
    "train": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X-----o-X-----o-"),
        (_BACKBEAT, "----X-----x-X---"),
        "xxx-xxxxxxx-xxxx",
        ("pedal", "offbeats", "sparse"),
        ("snare", "snare", "rim"),
    ),
    "tribal": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X--X----X--X----"),
        (_NONE, "----X-------X---", "------------X---"),
        _NONE,
        ("sparse", "quarters", "pedal"),
        ("snare",),
        ("X--X--X-X--X--X-", "--X--X--X-X---XX", "X-xxX-x-X-xxX-xX", "X--x--X--x--X-x-"),
    ),
    "dembow": GroovePattern(
        ("X---X---X---X---", "X-------X-------", "X---X---X---X--o"),
        ("---X--X----X--X-", "---X--X----X--X.", "---X--o----X--X-"),
        _NONE,
        ("eighths", "offbeats", "sparse", "sixteenths"),
        ("snare", "rim", "clap", "snare+clap"),
    ),
    "drum'n'bass": GroovePattern(
        ("X---------X-----", "X--o------X--o--", "X-x-------X---o-", "X---------X--x.-"),
        (_BACKBEAT, "----X--o-o--X---", "----X-------X--o"),
        ".--.-o-o-o-.-o.o",
        ("eighths", "sixteenths", "ride eighths", "pushed sixteenths", "loose eighths"),
    ),
    "breakbeat": GroovePattern(
        ("X-X-------Xx----", "X-X---o---X--x--", "X--o--X---Xo--o-", "X-----x--XX---o-"),
        ("----X--o-o--X--o", "----X--X-X--X---", "----X--.-o----X-", "----X-------X-o-"),
        ".--o---o-o-o---o",
        ("eighths", "loose eighths", "ride eighths", "sixteenths"),
    ),
    "swing": GroovePattern(
        ("f---f---f---f---", "f-----.-o-----o-", _NONE, "X-----.-----o---"),
        ("------.---o---o-", "--o-----------x-", "---------------o", "----o-----.---x-"),
        "--.---o---.---o-",
        ("spang-a-lang", "spang-a-lang", "spang-a-lang", "quarters"),
    ),
    "waltz": GroovePattern(
        ("X-----------", "X-----o-----", "X-------o-o-", "X---------x-"),
        ("----X---X---", "----x---X---", "--------X---", "----X-------"),
        "------.---.o",
        ("quarters", "eighths", "ride quarters", "ride eighths", "sparse"),
        ("snare", "rim", "snare"),
    ),
    "rock waltz": GroovePattern(
        ("X-----o---x-", "X---o-x-----", "X-o---X-----", "X-----X---o-"),
        ("----X---X---", "--------X---", "----X-----o-", "----X---x--o"),
        "--.--o-.--.o",
        ("eighths", "loose eighths", "ride eighths", "quarters"),
    ),
    "six-eight": GroovePattern(
        ("X-------o-x-", "X---o-------", "X---x-----o-", "X-----.-x---", "X-o-----o-o-"),
        ("------X-----", "------X-----", "------X---o-"),
        "--.-.---.-o-",
        ("eighths", "eighths", "ride eighths", "loose eighths", "sixteenths"),
        ("snare", "snare", "rim"),
    ),
    "jig": GroovePattern(
        ("X-----X-----", "X---x-X---o-", "X-----X---x-"),
        ("------x-----", "----X-----X-", "------X---x-"),
        "--o-.---o-.-",
        ("eighths", "beats", "ride eighths", "sixteenths"),
        ("rim", "snare"),
    ),
}
