"""AdapterDrop (arXiv 2010.11918): no bottlenecks in the lower layers, which saves their cost and the backward pass
through them."""

from lorta.bottleneck import Houlsby, Pfeiffer
from lorta.insert import Insert
from lorta.sublayers import SublayerEnd


class AdapterDrop(Pfeiffer):
    """The paper's specialised form: Pfeiffer's bottlenecks in all but the lower ``drop`` layers, in training too.

    Count (L - drop) (2 d m + m + d).
    """

    def _has(self, end: SublayerEnd) -> bool:
        return super()._has(end) and end.layer >= self.config.drop


def drop_lower(adapter: Insert, layers: int) -> None:
    """Let the bottlenecks of ``adapter``, of any method, rest in the lower ``layers`` layers from now on; 0 wakes all.

    With another number before every training step, drawn from 0 to L - 1, this is the paper's robust form, whose
    adapter serves any number at inference. Raises ``ValueError`` for an adapter without bottlenecks.
    """
    if not isinstance(adapter, Houlsby):
        raise ValueError(f"{adapter.config.method!r} has no bottlenecks to drop")
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
        raise ValueError(f"layers must be a whole number of at least 0, got {layers!r}")
    adapter.dropped = layers
