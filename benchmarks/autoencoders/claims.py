"""The autoencoders: the zoo, published architectures, those that saw photographs, the quantised one and its prior.

python -m benchmarks check autoencoders    # recomputes what ships, reads what was measured
python -m benchmarks autoencoders          # every variant three times, then the quantiser beside a library's
"""

from benchmarks.autoencoders import distilled, photographs, vq, zoo
from benchmarks.measure import Comparison
from benchmarks.report import Row


def check() -> list[Row]:
    """Recompute the claims about autoencoders."""
    return [*zoo.check(), *distilled.check(), *photographs.check(), *vq.check()]


def comparisons() -> list[Comparison]:
    """Training with our quantiser beside a library's, from the record."""
    return vq.comparisons()


def run() -> None:
    """Measure anew, and write both records."""
    zoo.run()
    vq.run()
