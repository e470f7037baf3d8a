"""hier: visual search that understands hierarchy.

Examples:
    >>> import hiercli as hier
    >>> encoder = hier.Encoder("birds.onnx")
    >>> with hier.Index("idx.faiss") as index:
    ...     done = index.update(["photos/"], encoder)
    ...     hits = index.search("photos/kind0/photo0.jpg", k=3)
    >>> hits[0].label
    'kind0'

Names are loaded when they are first used, so importing this package is cheap. Everything that
trains (`HierLoss`, `ToPoincare`, `train`, `export`) needs the extra: ``pip install
'hiercli[train]'``.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from hiercli.errors import (
    DataError,
    DownloadError,
    ExportError,
    FileFormatError,
    HierError,
    ImageError,
    InputError,
    MismatchError,
    MissingExtraError,
    ServerError,
    TrainingError,
)

if TYPE_CHECKING:
    from hiercli.adapting import adapt
    from hiercli.client import Answer, Client, RemoteFinding, RemoteHit, RemoteReview
    from hiercli.collection import Collection, concatenate
    from hiercli.data.catalogue import load as load_dataset
    from hiercli.encoder.encoder import Encoder
    from hiercli.encoder.pair import PairEncoder
    from hiercli.evaluation.evaluate import evaluate, evaluate_points
    from hiercli.geometry import lorentz, poincare
    from hiercli.hierarchy.tree import Tree
    from hiercli.hierarchy.verdict import Verdict
    from hiercli.index.index import Index
    from hiercli.index.searchable import Hit
    from hiercli.losses.hier import HierLoss
    from hiercli.nn.to_poincare import ToPoincare
    from hiercli.onnx_export import export
    from hiercli.review.review import Review
    from hiercli.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Client",
    "Collection",
    "DataError",
    "DownloadError",
    "Encoder",
    "ExportError",
    "FileFormatError",
    "HierError",
    "HierLoss",
    "Hit",
    "ImageError",
    "Index",
    "InputError",
    "MismatchError",
    "MissingExtraError",
    "PairEncoder",
    "RemoteFinding",
    "RemoteHit",
    "RemoteReview",
    "Review",
    "ServerError",
    "ToPoincare",
    "TrainingError",
    "Tree",
    "Verdict",
    "adapt",
    "concatenate",
    "evaluate",
    "evaluate_points",
    "export",
    "load_dataset",
    "lorentz",
    "poincare",
    "train",
]

# Nothing is sent home, and nothing is written for it into a home folder. These libraries look when
# they are loaded, so it is said before any of them is; who sets one of these decides.
for _switch, _off in (
    ("ORT_DISABLE_TELEMETRY", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
):
    os.environ.setdefault(_switch, _off)

_HOMES = {
    "Answer": "hiercli.client",
    "Client": "hiercli.client",
    "RemoteFinding": "hiercli.client",
    "RemoteHit": "hiercli.client",
    "RemoteReview": "hiercli.client",
    "Collection": "hiercli.collection",
    "Encoder": "hiercli.encoder.encoder",
    "HierLoss": "hiercli.losses.hier",
    "Hit": "hiercli.index.searchable",
    "Index": "hiercli.index.index",
    "PairEncoder": "hiercli.encoder.pair",
    "Review": "hiercli.review.review",
    "ToPoincare": "hiercli.nn.to_poincare",
    "Tree": "hiercli.hierarchy.tree",
    "Verdict": "hiercli.hierarchy.verdict",
    "adapt": "hiercli.adapting",
    "concatenate": "hiercli.collection",
    "evaluate": "hiercli.evaluation.evaluate",
    "evaluate_points": "hiercli.evaluation.evaluate",
    "export": "hiercli.onnx_export",
    "load_dataset": "hiercli.data.catalogue:load",
    "lorentz": "hiercli.geometry.lorentz:",
    "poincare": "hiercli.geometry.poincare:",
    "train": "hiercli.training.train",
}
"""Where each name is at home: a module, and after a colon its name there (none: the module)."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hiercli' has no attribute {name!r}")
    home, colon, own = _HOMES[name].partition(":")
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        from hiercli import extras

        raise extras.missing(error) or error from error
    found = module if colon and not own else getattr(module, own or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
