"""Which address goes to whom, and what is written for it: Calico's IPAM, decided and not done (ipam.md §2).

A decision that takes several reads and writes is a generator: it yields a step (``steps``) and is sent what came of it.
So it is pure, and a test may stop, delay or interleave it between any two writes; ``datastore.store`` carries the
steps out on a store. ``pools`` chooses pools and walks over them, ``blocks`` is what becomes of one block, ``claim``
gives blocks to nodes and takes them back, ``assign`` and ``release`` are about addresses, ``garbage`` is about what the
dead left, ``edit`` about resources that people write.
"""
