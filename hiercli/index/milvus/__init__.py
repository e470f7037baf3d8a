"""Images in Milvus, a vector database that grows past one machine, or in a file of milvus-lite.

Milvus knows no hyperbolic distance. It holds ball coordinates and finds candidates by Euclidean
distance; they are put in order by float64 hyperbolic distance, and more are fetched until none that
was left out can belong among the nearest, see `reader`.

Each image is a row of its own, known by the hash of its path. Milvus has no transactions: rows
come and go one by one, each old or new, so a killed update leaves what it has done, and the next
one goes on from there. A new index is filled in ``NAME_hier_new`` and renamed when it is whole.
Points that no row has yet, and files that could not be read, lie in ``NAME_hier``.
"""

from hiercli.index.milvus.reader import MilvusReader
from hiercli.index.milvus.store import MilvusStore

__all__ = ["MilvusReader", "MilvusStore"]
