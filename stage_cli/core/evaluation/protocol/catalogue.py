"""What every number means: titles, units, directions, and one sentence each."""

from __future__ import annotations

from collections.abc import Iterable

from stage_cli.core.evaluation.report.results import Metric

DIFFERENCE = "_over_shuffled"
"""Ends the names of differences: own − shuffled."""

_UNIT = (0.0, 1.0)

RHYTHM: tuple[str, ...] = (
    "beat_f1", "beat_cmlt", "beat_amlt", "onset_f", "onset_precision", "onset_recall", "tempo_error", "tempo_right",
)  # fmt: skip
HARMONY: tuple[str, ...] = ("chroma_similarity", "key_agreement")
COCOLA: tuple[str, ...] = ("cocola", "cocola_harmonic", "cocola_percussive")

FOLLOWING: tuple[str, ...] = (*RHYTHM, *HARMONY, *COCOLA, "clap_score")
"""What tells whether a stem follows its song: measured against another song, too."""

COMPARED: tuple[str, ...] = (
    "beat_f1", "beat_amlt", "onset_f", "tempo_right", *HARMONY, *COCOLA, "clap_score",
)  # fmt: skip
"""Those of which own − shuffled is given."""

COSTS: tuple[str, ...] = ("speed", "peak_memory_gb")
"""What has no anchor and needs none."""

ITEM_METRICS: dict[str, Metric] = {
    "beat_f1": Metric(
        "Beat F1", range=_UNIT, explanation="How many beats of stem and song are the same, within 70 ms."
    ),
    "beat_cmlt": Metric(
        "Beats in a row (CMLt)", range=_UNIT, explanation="Share of beats that are right at exactly the song's tempo."
    ),
    "beat_amlt": Metric(
        "Beats at any level (AMLt)",
        range=_UNIT,
        explanation="Share of beats that are right, half or double the tempo and off-beats allowed.",
    ),
    "onset_f": Metric(
        "Onset F",
        range=_UNIT,
        explanation="How well the stem's notes sit on the song's 8th notes, and cover its beats.",
    ),
    "onset_precision": Metric(
        "Onsets on the grid", range=_UNIT, explanation="Share of the stem's notes within 30 ms of the song's 8th notes."
    ),
    "onset_recall": Metric(
        "Beats with an onset", range=_UNIT, explanation="Share of the song's beats within 50 ms of which a note begins."
    ),
    "tempo_error": Metric(
        "Tempo error", better="lower", explanation="How far the tempo is off, half, double and triple tempo allowed."
    ),
    "tempo_right": Metric(
        "Tempo right", range=_UNIT, explanation="Share of clips whose tempo is within 4 %, octaves allowed."
    ),
    "chroma_similarity": Metric(
        "Chroma similarity",
        range=_UNIT,
        explanation="How much the stem's notes are those of the true stem at that time.",
    ),
    "key_agreement": Metric(
        "Key agreement", range=_UNIT, explanation="Whether the stem is in the song's key; near keys count in part."
    ),
    "cocola": Metric("COCOLA", explanation="How coherent stem and context sound to a network trained on true pairs."),
    "cocola_harmonic": Metric("COCOLA, harmonic", explanation="The same, of what has pitch."),
    "cocola_percussive": Metric("COCOLA, percussive", explanation="The same, of what is struck."),
    "clap_score": Metric(
        "CLAP text score", range=(-1.0, 1.0), explanation="How well the stem fits the song's description in words."
    ),
    "loudness": Metric("Loudness", "LUFS", "none", "Integrated loudness of the stem."),
    "loudness_difference": Metric(
        "Loudness difference", "dB", "lower", "How far the stem's loudness is from the true stem's."
    ),
    "silent": Metric("Silent", better="lower", range=_UNIT, explanation="Share of clips that nobody would hear."),
    "clipped": Metric("Clipped", better="lower", range=_UNIT, explanation="Share of samples at full scale."),
}
"""In the order of the tables, but for the metrics of sets."""

_SETS: dict[str, Metric] = {
    "fad": Metric("FAD", better="lower", scope="set", explanation="How unlike real stems the stems sound as a whole."),
    "fad_inf": Metric(
        "FAD∞", better="lower", scope="set", explanation="FAD, extrapolated to endlessly many clips."
    ),
    "kad": Metric(
        "KAD", better="lower", scope="set", explanation="As FAD, by a kernel: fair with few clips, no shape assumed."
    ),
    "apa": Metric(
        "APA", range=_UNIT, scope="set",
        explanation="Whether mixes with the stems are nearer to the true mixes (1) or to mixes with wrong stems (0).",
    ),
}  # fmt: skip

_COSTS: dict[str, Metric] = {
    "speed": Metric("Speed", "× real time", "higher", "Seconds of audio generated in a second.", "set"),
    "peak_memory_gb": Metric("Peak memory", "GB", "lower", "Most memory in use while generating.", "set"),
}


def set_metric(name: str, embedding: str) -> str:
    """Return the key of a metric of sets with an embedding: "fad_clap"."""
    return f"{name}_{embedding}"


def catalogue(embeddings: Iterable[str], used: set[str]) -> dict[str, Metric]:
    """Return what is known of the metrics that are used, in the order of the tables.

    Args:
        embeddings: names.
        used: keys of metrics.
    """
    known = dict(ITEM_METRICS)
    for name in COMPARED:
        metric = ITEM_METRICS[name]
        low, high = metric.range or (0.0, 0.0)
        known[f"{name}{DIFFERENCE}"] = Metric(
            f"{metric.title}: own − shuffled",
            metric.unit,
            metric.better,
            "How much better a stem fits its own song than another one: above 0 with all of its interval, it follows.",
            "set",
            None if metric.range is None else (low - high, high - low),
        )
    for embedding in embeddings:
        for name, metric in _SETS.items():
            known[set_metric(name, embedding)] = Metric(
                f"{metric.title} ({embedding})", metric.unit, metric.better, metric.explanation, "set", metric.range
            )
    known |= _COSTS
    return {name: metric for name, metric in _by_family(known).items() if name in used}


def _by_family(known: dict[str, Metric]) -> dict[str, Metric]:
    """Put each difference behind its metric."""
    ordered: dict[str, Metric] = {}
    for name, metric in known.items():
        if not name.endswith(DIFFERENCE):
            ordered[name] = metric
            if name + DIFFERENCE in known:
                ordered[name + DIFFERENCE] = known[name + DIFFERENCE]
    return ordered
