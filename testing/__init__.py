"""What tests, benchmarks and the lab share, and no node needs: ``namespaces`` and the ``daemons`` in them,
``resources`` as dictionaries, and ``lab``, which lays a containerlab topology."""
