"""Picture files: decoding, preprocessing, and the listing of folders."""

from hiercli.images.decoding import (
    State,
    from_array,
    prepared,
    probe,
    read,
    read_bytes,
    size_of,
    state_of,
)
from hiercli.images.kinds import IMAGE_LIKE, NAMES, SUFFIXES
from hiercli.images.limits import LIMITS
from hiercli.images.listing import (
    Passed,
    Places,
    Skipped,
    find,
    find_under,
    natural_key,
)
from hiercli.images.preprocessing import Preprocessing, centre_box
from hiercli.images.thumbnails import Picture, grey_thumbnail, thumbnail

__all__ = [
    "IMAGE_LIKE", "LIMITS", "NAMES", "Passed", "Picture", "SUFFIXES", "Places",
    "Preprocessing", "Skipped", "State", "centre_box", "find", "find_under", "from_array",
    "grey_thumbnail", "natural_key", "prepared", "probe", "read",
    "read_bytes", "size_of", "state_of", "thumbnail",
]  # fmt: skip
