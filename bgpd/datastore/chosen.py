"""The datastore that a configuration names. What only one of them needs is imported only with it."""

from __future__ import annotations

from bgpd.config.config import Config
from bgpd.datastore.cluster import Cluster, Source
from bgpd.datastore.files import Files
from bgpd.datastore.last_known import LastKnown


def make_datastore(config: Config) -> Files | Cluster:
    """``datastore.type`` with its keys."""
    options = config.datastore
    source: Source
    if options.type == "files":
        return Files(options.path, config.node, options.endpoint_status)
    if options.type == "etcd":
        from bgpd.datastore.etcd import client as etcd
        from bgpd.datastore.etcd.feeds import Etcd

        servers = etcd.Access(
            options.endpoints, options.ca, options.cert, options.key, options.username, options.password_file
        )
        source = Etcd(servers, options.prefix, config.node, config.originate.ipam_early)
    else:
        from bgpd.datastore.kubernetes import client as kubernetes
        from bgpd.datastore.kubernetes.feeds import Kubernetes

        server = kubernetes.Access(options.kubeconfig, options.context)
        source = Kubernetes(server, config.node, config.originate.ipam_early, options.namespace)
    memory = LastKnown(config.state_directory) if options.last_known else None
    return Cluster(source, config.node, options.endpoint_status, memory)
