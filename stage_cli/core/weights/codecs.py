"""Load a codec alone, wherever it lies: in a directory of its own, or in a model's."""

from __future__ import annotations

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.kinds import make_codec
from stage_cli.core.weights.checkpoint import codec_of_directory
from stage_cli.core.weights.hub import resolve
from stage_cli.errors import WeightsError


def load_codec(name: str, *, device: str = "cpu", offline: bool = False) -> Codec:
    """Load the codec of a directory or Hub repository: a model of ours, a MusicGen, or an EnCodec on its own.

    Raises:
        UsageError: no such name.
        HubError: it cannot be fetched.
        WeightsError: it holds no codec, or a broken one.
    """
    directory = resolve(name, offline=offline)
    part = codec_of_directory(directory, offline=offline)
    if part is None:
        raise WeightsError(f"{directory} holds no codec", next_step="name a model, or facebook/encodec_32khz")
    codec = make_codec(part.config)
    expected = codec.state_dict()
    part.source.check({f"codec.{name}": tuple(tensor.shape) for name, tensor in expected.items()})
    codec.load_state_dict(
        {name.removeprefix("codec."): tensor.float().clone() for name, tensor in part.source.tensors()}
    )
    return codec.to(device).eval()
