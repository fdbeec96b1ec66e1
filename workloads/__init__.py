"""What is computed: attention as cascades of Einsums, and the models that set the shapes.

Cascades and models are YAML files. Those of this package are found by name, a user's own by path.
"""

from workloads.library import cascade, list_cascades, list_models, model
from workloads.models import LinearLayer, Model, linear_layers

__all__ = [
    "LinearLayer",
    "Model",
    "cascade",
    "linear_layers",
    "list_cascades",
    "list_models",
    "model",
]
