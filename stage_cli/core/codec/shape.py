"""What the rest of the program asks of a codec's config, of whatever kind it is. Knows nothing of torch."""

from __future__ import annotations

from typing import Any, Protocol


class CodecShape(Protocol):
    """Sizes that every codec has."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def channels(self) -> int:
        """Audio channels."""
        ...

    @property
    def hop_length(self) -> int:
        """Audio samples in a frame."""
        ...

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        ...

    @property
    def dimension(self) -> int:
        """D, width of the latents."""
        ...

    @property
    def codebooks(self) -> int:
        """K."""
        ...

    @property
    def codebook_size(self) -> int:
        """Entries in each codebook."""
        ...

    def frames(self, samples: int) -> int:
        """T, the frames that `samples` audio samples encode to."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        ...
