"""What a review finds: one thing each for a person to decide."""

from dataclasses import dataclass

KINDS = {
    "relabel": "the label looks wrong",
    "split": "a class looks like two",
    "merge": "two classes look like one",
    "duplicate": "a copy of another image",
    "leak": "a copy of an image in another split",
    "outlier": "like no other image",
    "unreadable": "cannot be read",
    "tiny": "very few pixels",
    "blurred": "out of focus",
    "label": "label this image next",
}
"""Kinds of findings in the order in which they are listed, in words."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: one of `KINDS`.
        path: of the image; for a class that of a typical image of its smaller half; of a pair of
            classes that of the image of the first which lies deepest in the second.
        label: of the image, or the class, or the first of the pair; empty where there is none.
        proposal: the other class; for a split the number of images in each half.
        of: path of the image that it is a copy of, the one to keep; else empty.
        confidence: probability that something is wrong, 0 to 0.99, estimated from above, see
            `planting`; for copies how far the two agree, 0 to 1. ``None`` where none is known.
        branch: name of the branch of the tree that holds both classes; the higher, the graver.
        shared: the finest group that both classes lie in, with its level; empty where levels are
            not known, or share none.
        reason: in words.
    """

    kind: str
    path: str
    label: str = ""
    proposal: str = ""
    of: str = ""
    confidence: float | None = None
    branch: str = ""
    shared: str = ""
    reason: str = ""
