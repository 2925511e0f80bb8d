"""The stems of a song: MoisesDB's names, and what musicians call them.

Source of the names: the stem level of MoisesDB's taxonomy (Pereira et al., ISMIR 2023, table 1).
"""

from __future__ import annotations

import difflib
import re

from stage_cli.errors import UsageError

STEMS: tuple[str, ...] = (
    "vocals",
    "bass",
    "drums",
    "guitar",
    "piano",
    "other_keys",
    "other_plucked",
    "percussion",
    "bowed_strings",
    "wind",
    "other",
)
"""Every stem name of the project, in MoisesDB's spelling."""

# What stands in front of a colon is a stem; behind it, names that musicians write for it.
_ALIASES_OF: dict[str, tuple[str, ...]] = {
    "vocals": ("vocal", "voice", "voices", "vox", "singer", "singing", "choir", "lead_vocals", "backing_vocals"),
    "bass": ("bass_guitar", "electric_bass", "bassline", "bass_line", "double_bass", "upright_bass", "synth_bass"),
    "drums": ("drum", "kit", "drum_kit", "drumkit", "drum_set", "drum_machine", "beat"),
    "guitar": ("guitars", "electric_guitar", "acoustic_guitar", "lead_guitar", "rhythm_guitar"),
    "piano": ("pianos", "grand_piano", "acoustic_piano"),
    "other_keys": ("keys", "keyboard", "keyboards", "synth", "synths", "synthesizer", "organ", "electric_piano"),
    "other_plucked": ("plucked", "plucked_strings", "banjo", "mandolin", "ukulele", "harp"),
    "percussion": ("perc", "percussions", "congas", "bongos", "shaker", "tambourine"),
    "bowed_strings": ("strings", "string_section", "bowed", "violin", "viola", "cello", "fiddle"),
    "wind": ("winds", "woodwind", "woodwinds", "brass", "horns", "flute", "saxophone", "sax", "trumpet"),
    "other": ("others", "misc", "fx", "effects"),
}

_STEM_OF: dict[str, str] = {alias: stem for stem, aliases in _ALIASES_OF.items() for alias in aliases} | {
    stem: stem for stem in STEMS
}


def parse_stem(text: str) -> str:
    """Return the stem that a user means by `text`.

    Upper and lower case are the same, and so are spaces, hyphens and underscores: "Bass Guitar" is `bass`.

    Returns: one of `STEMS`.

    Raises:
        UsageError: no stem goes by that name; the error suggests the nearest ones and lists them all.
    """
    name = re.sub(r"[\s_-]+", "_", text.strip().lower()).strip("_")
    if name in _STEM_OF:
        return _STEM_OF[name]
    near = dict.fromkeys(_STEM_OF[match] for match in difflib.get_close_matches(name, _STEM_OF, n=3, cutoff=0.6))
    raise UsageError(
        f"unknown stem {text!r}",
        why=f"did you mean {' or '.join(near)}?" if near else "",
        next_step=f"the stems are: {', '.join(STEMS)}",
    )
