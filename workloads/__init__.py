"""What is computed: attention as cascades of Einsums, and the models that set the shapes.

Cascades and models are YAML files. Those of this package are found by name, a user's own by path.
"""

from workloads.blocks import Network
from workloads.library import (
    cascade,
    list_cascades,
    list_models,
    list_networks,
    list_routings,
    model,
    network,
    routing,
)
from workloads.models import LinearLayer, Model, linear_layers
from workloads.networks import Kernel, kernels, macs, parameters
from workloads.routings import Routing

__all__ = [
    "Kernel",
    "LinearLayer",
    "Model",
    "Network",
    "Routing",
    "cascade",
    "kernels",
    "linear_layers",
    "list_cascades",
    "list_models",
    "list_networks",
    "list_routings",
    "macs",
    "model",
    "network",
    "parameters",
    "routing",
]
