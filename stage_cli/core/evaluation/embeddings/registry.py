"""Embeddings by name: `codec`, `clap`, `mert`, `vggish`, each also as `name=SOURCE`. The names need no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.evaluation.embeddings.embedding import Embedding
    from stage_cli.core.model import StageModel

EMBEDDINGS = ("codec", "clap", "mert", "vggish")
"""The names that `load_embedding` knows."""


def load_embedding(
    spec: str, *, model: StageModel | None = None, device: str = "cpu", offline: bool = False
) -> Embedding:
    """Load an embedding.

    Args:
        spec: its name; or `name=SOURCE`, a directory or Hub id (a file for `vggish`). Without one, `codec` is that of
            `model`, and `clap` and `mert` are the published ones.
        model: the model that is evaluated, for `codec`.
        device: where it runs.
        offline: use only what is on this machine.

    Raises:
        UsageError: an unknown name, or a source that is missing.
        HubError: it cannot be fetched.
        WeightsError: it cannot be used.
    """
    name, _, source = spec.partition("=")
    sources = (source,) if source else ()
    if name == "codec":
        from stage_cli.core.evaluation.embeddings.codec import CodecEmbedding
        from stage_cli.core.weights.codecs import load_codec

        if source:
            return CodecEmbedding(load_codec(source, device=device, offline=offline))
        if model is not None:
            return CodecEmbedding(model.codec)
        raise UsageError(
            "The embedding 'codec' needs a codec", next_step="give a model, or codec=facebook/encodec_32khz"
        )
    if name == "clap":
        from stage_cli.core.evaluation.embeddings.clap import ClapEmbedding

        return ClapEmbedding(*sources, device=device, offline=offline)
    if name == "mert":
        from stage_cli.core.evaluation.embeddings.mert import MertEmbedding

        return MertEmbedding(*sources, device=device, offline=offline)
    if name == "vggish":
        from stage_cli.core.evaluation.embeddings.vggish import VggishEmbedding

        if not source:
            raise UsageError("The embedding 'vggish' needs its weights", next_step="name the file: vggish=FILE")
        return VggishEmbedding(source, device=device)
    raise UsageError(f"There is no embedding '{name}'", why=f"known are: {', '.join(EMBEDDINGS)}")
