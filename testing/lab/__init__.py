"""Topologies in network namespaces, from the same files containerlab reads.

``topology`` reads and checks a ``*.clab.yml``; ``lab`` lays it, a set of namespaces a node, and ends it; ``init`` is
the first process of a node; ``commands`` is ``bgpd lab``; ``checks`` holds a laid one
against what must be true of it; ``demo`` runs the story of the cluster in ``containerlab/``.
Called by ``cli`` and by the tests::

    with Lab.load(Path("pair.clab.yml"), name="pair-gw3") as lab:
        lab.node("left").run("ping -c 1 10.0.0.2")
"""

from testing.lab.lab import Lab, LabError, Node
from testing.lab.topology import Topology, TopologyError, load_topology

__all__ = ["Lab", "LabError", "Node", "Topology", "TopologyError", "load_topology"]
