"""The benchmark: bgpd beside BIRD, FRR and the kernel alone, at the same work in the same run. See ``__main__``.

==========  =================================================================================================
work        what is measured, in which order and by whom
subjects    the daemons, each as a node; their configurations are in ``peers/``
injector    simulated peers and tables encoded beforehand
kernel      the kernel's counts and notifications in a namespace
floors      the same table by batched netlink alone
ground      namespaces, and waits that have limits
tables      the cases about a whole table
nodes       the cases about a node among others
cuts        the case of a path that dies, with BFD
pods        the case of a node's pods, by CNI
probe       bgpd with a timer in its event loop
report      medians, ratios, targets; Markdown, JSON, a plot
==========  =================================================================================================
"""
