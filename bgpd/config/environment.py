"""What calico-node reads of its environment and bgpd does not: named where it is set, with what says it here."""

from __future__ import annotations

from collections.abc import Mapping

from bgpd.model.resources import Problem

UNREAD = {
    "CALICO_ROUTER_ID": "router_id",
    "IP": "the Node's annotation projectcalico.org/IPv4Address",
    "IP6": "the Node's annotation projectcalico.org/IPv6Address",
    "IP_AUTODETECTION_METHOD": "the Node's annotation projectcalico.org/IPv4Address",
    "IP6_AUTODETECTION_METHOD": "the Node's annotation projectcalico.org/IPv6Address",
    "DISABLE_NODE_IP_CHECK": "nothing: no other Node's address is looked at",
    "AS": "the Node's annotation projectcalico.org/ASNumber, or BGPConfiguration",
    "CALICO_NETWORKING_BACKEND": "nothing: here runs bgpd",
    "CLUSTER_TYPE": "nothing: it concerns no route",
    "CALICO_API_GROUP": "nothing: the group is found as Calico finds it",
    "CALICO_ADVERTISE_CLUSTER_IPS": "serviceClusterIPs in BGPConfiguration",
    "USE_POD_CIDR": "nothing: host-local IPAM is not supported",
    "BGP_LOGSEVERITYSCREEN": "log.level, or logSeverityScreen in BGPConfiguration",
    "DATASTORE_TYPE": "datastore.type",
    "ETCD_ENDPOINTS": "datastore.endpoints",
    "ETCD_CA_CERT_FILE": "datastore.ca",
    "ETCD_CERT_FILE": "datastore.cert",
    "ETCD_KEY_FILE": "datastore.key",
    "ETCD_DISCOVERY_SRV": "datastore.endpoints",
    "ETCD_USERNAME": "datastore.username",
    "ETCD_PASSWORD": "datastore.password_file",
    "KUBECONFIG": "datastore.kubeconfig",
    "K8S_API_ENDPOINT": "datastore.kubeconfig",
    "K8S_TOKEN": "datastore.kubeconfig",
    "K8S_CA_FILE": "datastore.kubeconfig",
    "K8S_CERT_FILE": "datastore.kubeconfig",
    "K8S_KEY_FILE": "datastore.kubeconfig",
    "CALICO_K8S_NODE_REF": "nothing: the Node is the one of NODENAME",
    "CALICO_ENDPOINT_STATUS_PATH_PREFIX": "datastore.endpoint_status",
    "CALICO_IPV4POOL_CIDR": "an IPPool: none is made here",
    "CALICO_IPV6POOL_CIDR": "an IPPool: none is made here",
    "NO_DEFAULT_POOLS": "nothing: no IPPool is made here",
    "CALICO_MANAGE_CNI": "nothing: no CNI plugin is installed here",
    "CALICO_STARTUP_LOGLEVEL": "log.level",
    "CALICO_DISABLE_FILE_LOGGING": "nothing: the log is on standard error",
    "CONFD_TYPHAADDR": "nothing: Typha is not used",
    "CONFD_TYPHAK8SSERVICENAME": "nothing: Typha is not used",
    "FELIX_TYPHAADDR": "nothing: Typha is not used",
    "FELIX_TYPHAK8SSERVICENAME": "nothing: Typha is not used",
    "FELIX_IPV6SUPPORT": "nothing: a Node with an IPv6 address has IPv6",
    "WAIT_FOR_DATASTORE": "nothing: it is always waited for",
}
"""Variable -> what has its place here. ``NODENAME`` is read (``config``)."""


def unread(environment: Mapping[str, str]) -> list[Problem]:
    """The variables that somebody gave for calico-node."""
    return [
        Problem("the environment", name, f"is not read by bgpd; in its place: {place}", harmless=True)
        for name, place in UNREAD.items()
        if environment.get(name)
    ]
