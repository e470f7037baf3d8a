"""The tree of an index for the page, laid out in a disk."""

import json
from pathlib import Path

from hiercli.review.review import Steps
from hiercli.serve.making import ids_of
from hiercli.serve.settings import Settings


def grown(index: Path, settings: Settings, steps: Steps) -> bytes:
    """The tree of the classes with its images as JSON, as `making.Background` does it.

    Raises:
        HierError: as of the index.
    """
    from hiercli.hierarchy.tree import Tree
    from hiercli.reports import disk

    with steps("growing the tree"):
        model = Path(settings.model) if settings.model else None
        tree = Tree.of_images(index, model, root=settings.root_folder)
    with steps("choosing images"), tree.pictures(settings.root_folder) as picture:
        found, _ = disk.facts(
            tree.root, tree.images_by_leaf(), picture=picture, ids=ids_of(index, settings)
        )
    return json.dumps(found, separators=(",", ":")).encode()
