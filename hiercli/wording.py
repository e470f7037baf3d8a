"""Numbers and long names in sentences."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Args:
        number: at least 0.
        one: the noun for one.
        many: the noun for any other number; with an s where left out.

    Examples:
        >>> counted(1, "image"), counted(12_000, "image"), counted(0, "query", "queries")
        ('1 image', '12,000 images', '0 queries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shortened(name: str, most: int = 80) -> str:
    """A name of which a long rest is left out.

    Examples:
        >>> shortened("wren"), shortened("a" * 200, 5)
        ('wren', 'aaaaa...')
    """
    return name if len(name) <= most else f"{name[:most]}..."
