"""`Tree`: loaded from an encoder, an index, embeddings or a file, and written in any form."""

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hiercli.collection import Collection
from hiercli.encoder import onnx_file
from hiercli.encoder.general import default_model
from hiercli.errors import InputError, MismatchError
from hiercli.files import open_regular, require_apart
from hiercli.hierarchy import build, formats, newick
from hiercli.hierarchy import node as nodes
from hiercli.hierarchy.node import Node
from hiercli.hierarchy.proxies import proxies_of_images
from hiercli.images import Picture
from hiercli.wording import counted

NEWICK = (".nwk", ".newick", ".tree", ".tre")
POINTS = (".npy", ".npz", ".parquet")
_LARGEST_TEXT = 2**28


@dataclass(frozen=True)
class Tree:
    """A tree of hierarchical proxies over classes, or over groups of images.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> places = np.repeat(np.array([[0.5, 0.0], [0.5, 0.2], [-0.5, 0.0]]), 4, axis=0)
        >>> birds = Collection(
        ...     points=(places + rng.normal(0, 0.01, places.shape)).astype(np.float32),
        ...     labels=["robin"] * 4 + ["wren"] * 4 + ["owl"] * 4,
        ...     proxies=np.array([[0.4, 0.1], [0.0, 0.05]], np.float32), c=1.0,
        ... )
        >>> tree = Tree.of_collection(birds)
        >>> sorted(leaf.name for leaf in tree.root.leaves)
        ['owl', 'robin', 'wren']
        >>> len(tree.root.children)
        2

    Attributes:
        root: the node that holds all others.
        collection: the images that it stands on; ``None`` where it stands on training classes.
        whole: the root before a part of the tree was taken; ``None`` where that is ``root``.
        by_proxy: whether its leaves are the images nearest to each proxy, whatever their labels.
        files: what it was read from.
        notes: what people should know of how it was grown, each a sentence.
        index: that its images come from, which may keep small pictures of them.
    """

    root: Node
    collection: Collection | None = None
    whole: Node | None = None
    by_proxy: bool = False
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    index: Path | None = None

    @classmethod
    def load(
        cls, source: Path | str | None = None, *, by_proxy: bool = False, model: Path | None = None
    ) -> "Tree":
        """The tree of anything that has one.

        Args:
            source: a checkpoint (``.pt``), an exported encoder (``.onnx``), an index
                (``.faiss``), embeddings (``.npy``, ``.npz``, Parquet), or a tree as JSON or
                Newick; ``None`` for the general encoder.
            by_proxy: over images: leaves are the images nearest to each proxy.
            model: the encoder of the images, where its proxies are not at hand.

        Raises:
            InputError: it is missing, of another kind, or has no proxies to grow a tree of.
            FileFormatError: it is damaged.
        """
        if source is None:
            return cls.of_encoder(None)
        path = Path(source)
        if not path.exists():
            raise InputError(f"expected a tree, an encoder or an index, but {path} is missing")
        kind = path.suffix.lower()
        if kind == ".json" or kind in NEWICK:
            with open_regular(path) as file:
                text = file.read(_LARGEST_TEXT).decode("utf-8-sig", "surrogateescape")
            parse = formats.from_json if kind == ".json" else newick.read
            return cls(parse(text, str(path)), files=(path,))
        if kind in (".onnx", ".pt", ".pth"):
            return cls.of_encoder(path)
        if kind == ".faiss" or kind in POINTS or path.is_dir():
            return cls.of_images(path, model, by_proxy=by_proxy)
        raise InputError(
            f"expected a tree (.json, {', '.join(NEWICK)}), an encoder (.pt, .onnx), an index "
            f"(.faiss) or embeddings ({', '.join(POINTS)}), got {path}"
        )

    @classmethod
    def of_images(
        cls,
        source: Path,
        model: Path | None = None,
        *,
        by_proxy: bool = False,
        root: Path | None = None,
    ) -> Self:
        """The tree of the images of an index or of a file of embeddings, see `images_of`."""
        collection, files = images_of(source, model, root)
        tree = cls.of_collection(collection, by_proxy=by_proxy, files=files)
        return dataclasses.replace(tree, index=source) if is_index(source) else tree

    def pictures(self, root: Path | None = None) -> AbstractContextManager[Picture]:
        """Pictures of its images, from their files or small ones that its index keeps.

        Args:
            root: see `images_of`.
        """
        from hiercli.index.pictures import pictures_of

        return pictures_of(self.index, root)

    @classmethod
    def of_collection(
        cls, collection: Collection, *, by_proxy: bool = False, files: tuple[Path, ...] = ()
    ) -> Self:
        """Grow the tree over the classes of images, or over the images nearest to each proxy.

        Args:
            collection: with proxies and c; where it has fewer than two labels, images are grouped
                by proxy.
            by_proxy: group them so anyway.
            files: that the collection comes from.

        Raises:
            InputError: there are no proxies, or no curvature.
            DataError: there are fewer than two classes or groups.
        """
        if collection.proxies is None or collection.c is None:
            raise InputError(
                "expected embeddings with the proxies of their encoder. Name the encoder with "
                "--model (in Python: model=...)"
            )
        notes: tuple[str, ...] = ()
        if not by_proxy and len(collection.classes) < 2:
            by_proxy = True
            notes = ("the images have no labels, so the leaves are groups of images by proxy",)
        elif not by_proxy and (without := len(collection) - len(collection.labelled)):
            notes = (f"{counted(without, 'image')} without a label left out of the tree",)
        root = build.from_images(collection, by_proxy=by_proxy)
        return cls(root, collection, root, by_proxy, files, notes)

    @classmethod
    def of_encoder(cls, source: Path | None) -> "Tree":
        """The tree of a checkpoint or an exported encoder over the classes that it learned.

        Raises:
            InputError: it does not say where its classes lie.
        """
        notes: tuple[str, ...] = ()
        if source is not None and source.suffix.lower() != ".onnx":
            from hiercli.training import checkpoint

            held = checkpoint.read(source)
            c, names = held.recipe.model.c, held.class_names
            points, proxies = held.class_points.numpy(), held.proxies.numpy()
        else:
            if source is None:
                source = default_model()
                notes = (f"the tree of {source}",)
            metadata = onnx_file.read(source).metadata
            names, points, proxies = metadata.class_names, metadata.class_points, metadata.proxies
            c = metadata.c
        if len(points) < len(names):
            raise InputError(
                f"{source} has no class points. They are computed at the end of a run and stored "
                "in best.pt. Use best.pt, or finish the run with `hier train ... --resume`"
            )
        root = build.from_classes(points, names, proxies, c)
        return cls(root, files=(source,), notes=notes)

    def find(self, wanted: str) -> "Tree":
        """The part of the tree below a node, by its id or name.

        Raises:
            InputError: there is no such node, or there are several.
        """
        return dataclasses.replace(self, root=nodes.find(self.root, wanted))

    def trim(self, depth: int | None = None, min_size: int = 1) -> "Tree":
        """The tree without what lies more than ``depth`` levels down or holds too few images."""
        return dataclasses.replace(self, root=nodes.trim(self.root, depth, min_size))

    def to_text(self) -> str:
        """Lines for people, drawn with branches."""
        return formats.to_text(self.root)

    def to_json(self) -> str:
        """Nested objects with the fields of `Node`."""
        return formats.to_json(self.root)

    def to_newick(self) -> str:
        """Newick, as phylogeny programs read it."""
        return formats.to_newick(self.root)

    def to_csv(self) -> str:
        """A line a node, with the id of its parent."""
        return formats.to_csv(self.root)

    def to_graphml(self) -> str:
        """GraphML, as graph programs read it."""
        return formats.to_graphml(self.root)

    def to_html(
        self,
        target: Path | str,
        *,
        title: str = "hierarchy",
        pictures: int = 1500,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """Write one page that needs no network: a disk to walk in, with the images at its leaves.

        Args:
            target: the file.
            title: of the page.
            pictures: images shown as pictures; others are dots.
            progress: called with (done, total) images.

        Returns:
            why some images are not shown.
        """
        from hiercli.reports import disk

        path = Path(target)
        self.require_apart(path)
        has_files = self.collection is not None and self.collection.paths is not None
        with self.pictures() as picture:
            return disk.write(
                path, self.root, self.images_by_leaf(), title,
                pictures=pictures if has_files else 0, picture=picture, progress=progress,
            )  # fmt: skip

    def images_by_leaf(self) -> dict[str, list[str]]:
        """Image files at each leaf, by its id, the most typical first; empty without images."""
        if self.collection is None:
            return {}
        placed = build.leaf_images(
            self.whole or self.root, self.root, self.collection, by_proxy=self.by_proxy
        )
        names = names_of(self.collection)
        return {leaf: [names[place] for place in own.tolist()] for leaf, own in placed.items()}

    def require_apart(self, target: Path | None) -> None:
        """Check that a file to be written is none of the images, nor what the tree comes from.

        Raises:
            InputError: it is one of them.
        """
        require_apart(target, self.files)
        if target is not None and target.exists() and self.collection is not None:
            require_apart(target, self.collection.paths or ())


def names_of(collection: Collection) -> list[str]:
    """The path of each image, or ``image 1`` and so on where none is known."""
    return list(collection.paths or (f"image {place + 1}" for place in range(len(collection))))


def is_index(source: Path) -> bool:
    """Whether images come from an index, and not from a file or a folder of embeddings."""
    return source.suffix.lower() not in POINTS and not source.is_dir()


def images_of(
    source: Path, model: Path | None = None, root: Path | None = None
) -> tuple[Collection, tuple[Path, ...]]:
    """The images of an index or of a file of embeddings, with the proxies of their encoder.

    Args:
        source: an index (``.faiss``), or what `Collection.read` reads.
        model: the encoder; needed where the proxies are not at hand.
        root: what relative paths of an index are relative to, instead of what it says.

    Returns:
        (the images, files that they come from).

    Raises:
        InputError: a file is missing, or there are no images.
        MismatchError: the encoder did not embed them.
        FileFormatError: a file is damaged.
    """
    metadata = None if model is None else onnx_file.read(model).metadata
    if str(source).startswith("milvus:"):
        raise InputError(
            f"expected an index file or a file of points, got the Milvus index {source}. Write its "
            "points with `hier embed FOLDER --index milvus:... -o points.parquet`"
        )
    if not is_index(source):
        collection = Collection.read(source)
        inside = list(source.iterdir()) if source.is_dir() else []
        beside = [source.with_name(f"{source.stem}{end}") for end in (".paths.txt", ".hier.json")]
        files = [source, *beside, *inside]
    else:
        from hiercli.index.catalogue import Catalogue
        from hiercli.index.conditions import meeting

        with closing(Catalogue(source, root)) as catalogue:
            if metadata is not None and model is not None:
                catalogue.check(metadata, model)
            rows = catalogue.rows(meeting(catalogue, []).tolist())
            if not rows:
                raise InputError(
                    f"expected images in {source}, but it is empty. Add images with `hier embed`"
                )
            collection = catalogue.collection(rows)
            if collection.proxies is None and catalogue.facts.get("pair"):
                own = proxies_of_images(collection.points, collection.labels, catalogue.c)
                collection = dataclasses.replace(collection, proxies=own)
        files = [*files_of(source), *([catalogue.model] if catalogue.model.name else [])]
    if metadata is not None and model is not None:
        files.append(model)
        if collection.fingerprint not in (None, "", metadata.fingerprint):
            raise MismatchError(
                f"{source} was embedded by encoder {collection.fingerprint}, but {model} is "
                f"{metadata.fingerprint}. Name the encoder that embedded it"
            )
        if collection.points.shape[1] != metadata.embedding_dim:
            raise MismatchError(
                f"{source} contains points of {collection.points.shape[1]} dimensions, but "
                f"{model} outputs {metadata.embedding_dim}. Name the encoder that embedded them"
            )
        proxies = metadata.proxies if len(metadata.proxies) else None
        collection = dataclasses.replace(collection, proxies=proxies, c=metadata.c)
    return collection, tuple(files)


def files_of(*given: Path | None) -> list[Path]:
    """All files that belong to those that were named; the catalogue of an index is one."""
    from hiercli.index import locations

    named = [path for path in given if path is not None]
    return [
        file
        for path in dict.fromkeys([*named, *(Path(os.path.realpath(path)) for path in named)])
        for file in (path, *locations.files(path))
    ]
