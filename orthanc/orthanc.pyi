"""What our script uses of the module that Orthanc's Python plugin injects (4.0 and 5.0)."""

from collections.abc import Callable
from enum import IntEnum

class ChangeType(IntEnum):
    NEW_INSTANCE = ...
    NEW_SERIES = ...
    ORTHANC_STOPPED = ...
    STABLE_SERIES = ...

class ResourceType(IntEnum):
    SERIES = ...
    INSTANCE = ...

def GetConfiguration() -> str: ...  # noqa: N802
def LogInfo(message: str) -> None: ...  # noqa: N802
def LogWarning(message: str) -> None: ...  # noqa: N802
def RegisterOnChangeCallback(callback: Callable[[int, int, str], None]) -> None: ...  # noqa: N802
def RestApiGet(uri: str) -> bytes: ...  # noqa: N802
