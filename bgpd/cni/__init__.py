"""The CNI plugins ``bgpd-ipam`` and ``bgpd-cni`` (CNI specification 1.0.0 and 1.1.0; docs/cni.md).

They start once a pod, so at start they import the standard library only, and little of it. ``spec`` is the protocol,
``request`` what a configuration and its runtime ask for, ``ipam`` and ``network`` are the two plugins, ``links`` the
kernel work. Addresses are the daemon's to give, over its socket; where it is away the plugin does it on the store.
"""
