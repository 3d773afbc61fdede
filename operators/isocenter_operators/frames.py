"""What an error holds of the functions that it passed through."""

from __future__ import annotations

import traceback

__all__ = ["empty_frames"]


def empty_frames(error: BaseException) -> None:
    """Let go of everything that the frames on the way of an error hold; the way itself stays, for the log.

    Holoscan keeps each error that an operator raised for ever, and with its traceback the application, its threads and
    its images: 20 MB and more for each graph that ends with an error. Only frames that have ended are emptied.
    """
    following: BaseException | None = error
    while following is not None:
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__
