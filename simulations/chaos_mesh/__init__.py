"""Chaos Mesh's experiments, as they are written for Kubernetes, as plans for real processes.

A document is read field by field. What cannot be honoured is refused by its field's path, with the reason
and what to do instead; nothing is ever ignored. The format: https://chaos-mesh.org/docs/, version v1alpha1.
"""

from simulations.chaos_mesh.reading import plan_from_yaml
from simulations.chaos_mesh.selector import Pods

__all__ = ["Pods", "plan_from_yaml"]
