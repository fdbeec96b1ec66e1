"""Arrays of processing elements, cycle by cycle, on real numbers: the finest level.

`product` is a systolic array that computes one matrix product fold by fold. `run` plays a whole
mapping: any tiles of any dense Einsums, in a given order, on a 2D array and the lanes at its feet.
"""

from sim.cycle.issue import TaskRun
from sim.cycle.points import NotAtThisLevel
from sim.cycle.product import Dataflow, Folds, ProductRun, simulate_product
from sim.cycle.run import CycleRun, PhaseRun, simulate

__all__ = [
    "CycleRun",
    "Dataflow",
    "Folds",
    "NotAtThisLevel",
    "PhaseRun",
    "ProductRun",
    "TaskRun",
    "simulate",
    "simulate_product",
]
