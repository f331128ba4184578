"""The commands, thin and fast to start: ``daemon`` is ``bgpd`` and ``ctl`` is ``bgpctl``; ``client`` talks to the
control socket; ``screens``, ``peers``, ``plans`` and ``tables`` print; ``plan`` and ``policy`` work offline."""
