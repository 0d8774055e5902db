"""Paths as people write them."""

import os


def joined(base: str, path: str | os.PathLike[str]) -> str:
    """`path` as seen from `base`, without what means nothing: `.`, doubled slashes and one at the end.

    What `pathlib` gives, which takes 3 ms to load. `..` stays: behind a link it leads elsewhere.
    """
    whole = os.path.join(base, path)
    root = "/" if whole.startswith("/") else ""
    return root + "/".join(part for part in whole.split("/") if part not in {"", "."}) or "."
