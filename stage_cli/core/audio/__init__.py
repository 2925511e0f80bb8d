"""Audio files in and out, block by block: memory does not grow with the length of the song.

Audio is float32, `[frames, channels]`, full scale ±1, unless a docstring says otherwise; mono is `[frames]`.
"""

from stage_cli.core.audio.naming import AUDIO_SUFFIXES, find_audio, output_path
from stage_cli.core.audio.reading import AudioInfo, MonoReader, MonoStats, probe, read_blocks, to_mono
from stage_cli.core.audio.resample import StreamResampler, expected_frames
from stage_cli.core.audio.writing import OUTPUT_FORMATS, AtomicAudioWriter

__all__ = [
    "AUDIO_SUFFIXES",
    "OUTPUT_FORMATS",
    "AtomicAudioWriter",
    "AudioInfo",
    "MonoReader",
    "MonoStats",
    "StreamResampler",
    "expected_frames",
    "find_audio",
    "output_path",
    "probe",
    "read_blocks",
    "to_mono",
]
