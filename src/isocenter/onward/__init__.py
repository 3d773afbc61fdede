"""Outcomes of jobs on their way to other systems: an outbox in the database, one courier for each destination."""

from isocenter.onward.couriers import Couriers
from isocenter.onward.delivery import Delivery
from isocenter.onward.outbox import Counts, Outbox

__all__ = ["Counts", "Couriers", "Delivery", "Outbox"]
