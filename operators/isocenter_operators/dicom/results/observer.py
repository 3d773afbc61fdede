"""Who observed: the device that an application is, as the root of a document names it (PS3.16, TID 1002, TID 1004)."""

from __future__ import annotations

from highdicom.sr import CodedConcept, DeviceObserverIdentifyingAttributes, ObserverContext

from isocenter_operators.dicom.identity import Algorithm

__all__ = ["device_observer"]


def device_observer(algorithm: Algorithm) -> ObserverContext:
    """The content items that say that `algorithm`, and no person, is the observer."""
    device = DeviceObserverIdentifyingAttributes(
        uid=algorithm.device_uid,
        name=algorithm.name,
        manufacturer_name=algorithm.manufacturer,
        model_name=algorithm.name,
        serial_number=algorithm.device_uid,
    )
    return ObserverContext(CodedConcept("121007", "DCM", "Device"), device)
