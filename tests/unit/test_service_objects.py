"""Services and EndpointSlices as Kubernetes writes them -> what is kept of them, and each mistake with its path."""

from __future__ import annotations

from typing import Any

import pytest

from bgpd.datastore.calico.decode import Decoded, Key, Verdict, decode
from bgpd.datastore.objects import Objects
from bgpd.model.prefix import Family, parse_address
from bgpd.model.resources import Endpoint, EndpointSlice, Node, Service

V4, V6 = Family.IPV4, Family.IPV6


def service(
    spec: object = None, status: object = None, name: str = "web", **metadata: object
) -> dict[str, Any]:
    found = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, **metadata}, "spec": spec}
    return found if status is None else {**found, "status": status}


def endpoints(
    *found: object, kind: object = "IPv4", labels: object = None, **metadata: object
) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"} if labels is None else labels
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": labels, **metadata},
        "addressType": kind,
        "endpoints": list(found),
        "ports": [{"port": 80}],
    }


def one(document: object) -> Decoded:
    (decoded,) = decode(document, "f.yaml")
    return decoded


def good(document: object) -> Any:
    decoded = one(document)
    assert (decoded.verdict, decoded.problems) == (Verdict.GOOD, ())
    return decoded.resource


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        (None, None, Service("default/web")),
        ({"ports": [{"port": 80}], "internalTrafficPolicy": "Local"}, {}, Service("default/web")),
        (
            {"type": "NodePort", "clusterIPs": ["10.96.0.1", "fd00::1"], "clusterIP": "10.96.0.1"},
            {"loadBalancer": {}},
            Service("default/web", "NodePort", (parse_address("10.96.0.1"), parse_address("fd00::1"))),
        ),
        ({"clusterIP": "10.96.0.1"}, None, Service("default/web", cluster_ips=(parse_address("10.96.0.1"),))),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, None, Service("default/web")),
        ({"clusterIP": "None"}, None, Service("default/web")),
        ({"clusterIP": "", "type": "ExternalName"}, None, Service("default/web", "ExternalName")),
        (
            {"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local"},
            None,
            Service("default/web", external_ips=(parse_address("192.0.2.1"),), local=True),
        ),
        ({"externalTrafficPolicy": "Cluster"}, None, Service("default/web", cluster=True)),
        (
            {"type": "LoadBalancer"},
            {
                "loadBalancer": {
                    "ingress": [{"ip": "203.0.113.7", "ipMode": "VIP"}, {"hostname": "lb.example"}]
                }
            },
            Service("default/web", "LoadBalancer", load_balancer_ips=(parse_address("203.0.113.7"),)),
        ),
        (
            {"loadBalancerIP": "203.0.113.7"},
            {"loadBalancer": {"ingress": None}},
            Service("default/web", asked_ip=parse_address("203.0.113.7")),
        ),
        ({"loadBalancerIP": ""}, None, Service("default/web")),
    ],
)
def test_services(spec: object, status: object, expected: Service) -> None:
    assert good(service(spec, status)) == expected


@pytest.mark.parametrize(
    ("spec", "status", "path", "words"),
    [
        ({"clusterIPs": "10.96.0.1"}, None, "spec.clusterIPs", "expected a list"),
        ({"clusterIPs": ["10.96.0.0/12"]}, None, "spec.clusterIPs.0", "is not an IPv4 or IPv6 address"),
        ({"clusterIP": "web"}, None, "spec.clusterIP", "is not an IPv4 or IPv6 address"),
        ({"externalIPs": ["192.0.2.1", 7]}, None, "spec.externalIPs.1", "'7' is not an IPv4 or IPv6 address"),
        ({"externalIPs": ["::ffff:192.0.2.1"]}, None, "spec.externalIPs.0", "IPv4 inside IPv6"),
        ({"externalTrafficPolicy": "local"}, None, "spec.externalTrafficPolicy", "one of Cluster, Local"),
        ({"type": [1]}, None, "spec.type", "expected text"),
        ([], None, "spec", "expected keys and values"),
        ({}, {"loadBalancer": {"ingress": [{"ip": "x"}]}}, "status.loadBalancer.ingress.0.ip", "'x' is not"),
        (
            {},
            {"loadBalancer": {"ingress": ["x"]}},
            "status.loadBalancer.ingress.0",
            "expected keys and values",
        ),
    ],
)
def test_bad_services(spec: object, status: object, path: str, words: str) -> None:
    decoded = one(service(spec, status, namespace="shop"))
    (problem,) = decoded.problems
    assert (decoded.verdict, decoded.key) == (Verdict.BAD, Key("Service", "shop/web"))
    assert (problem.source, problem.path) == ("f.yaml: Service shop/web", path)
    assert words in problem.message


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], set()),
        ([{"addresses": ["10.48.0.1"], "nodeName": "a"}], {Endpoint("a", True)}),
        ([{"nodeName": "a", "conditions": {"ready": None, "serving": False}}], {Endpoint("a", True)}),
        ([{"nodeName": "a", "conditions": None}, {"nodeName": "a"}], {Endpoint("a", True)}),
        (
            [{"nodeName": "a", "conditions": {"ready": False, "serving": True, "terminating": True}}],
            {Endpoint("a", False)},
        ),
        ([{"addresses": ["10.48.0.1"]}], {Endpoint(None, True)}),
    ],
)
def test_endpoint_slices(found: list[object], expected: set[Endpoint]) -> None:
    assert good(endpoints(*found)) == EndpointSlice("default/web-1", "default/web", V4, frozenset(expected))
    of_shop = good(endpoints(*found, kind="IPv6", namespace="shop"))
    assert of_shop == EndpointSlice("shop/web-1", "shop/web", V6, frozenset(expected))


def test_endpoint_slices_without_a_list() -> None:
    assert good({**endpoints(), "endpoints": None}).endpoints == frozenset()


@pytest.mark.parametrize(
    "document",
    [
        endpoints({"nodeName": "a"}, kind="FQDN"),
        endpoints({"nodeName": "a"}, labels={}),
        endpoints({"nodeName": "a"}, labels={"app": "web"}),
    ],
)
def test_endpoint_slices_of_no_service(document: object) -> None:
    decoded = one(document)
    assert (decoded.verdict, decoded.resource, decoded.problems) == (Verdict.GONE, None, ())


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        (endpoints(kind="IPv5"), "addressType", "one of IPv4, IPv6, FQDN"),
        (endpoints(kind=None), "addressType", "expected, but not there"),
        (endpoints({"nodeName": [7]}), "endpoints.0.nodeName", "expected text"),
        (endpoints({"conditions": {"ready": "nein"}}), "endpoints.0.conditions.ready", "true or false"),
        (endpoints("a"), "endpoints.0", "expected keys and values"),
        ({**endpoints(), "endpoints": {}}, "endpoints", "expected a list"),
    ],
)
def test_bad_endpoint_slices(document: object, path: str, words: str) -> None:
    decoded = one(document)
    (problem,) = decoded.problems
    assert (decoded.verdict, problem.path) == (Verdict.BAD, path)
    assert words in problem.message


def test_a_namespace_that_is_no_text() -> None:
    decoded = one(service(namespace=[7]))
    assert (decoded.verdict, decoded.key, decoded.problems[0].path) == (
        Verdict.BAD,
        None,
        "metadata.namespace",
    )


def test_one_name_in_two_namespaces_is_two_objects() -> None:
    """Two of one namespace are one that is there more than once; without a namespace it is ``default``."""

    def put(*documents: object) -> None:
        objects.put("a.yaml", [one(document) for document in documents])
        objects.settle(0.0, True)

    def address(number: int) -> dict[str, Any]:
        return {"clusterIP": f"10.96.0.{number}"}

    objects = Objects("me")
    objects.put("n.yaml", [Decoded(Verdict.GOOD, Key("Node", "me"), Node("me"))])
    put(
        service(address(1)),
        service(address(2), namespace="shop"),
        endpoints({"nodeName": "a"}),
        endpoints({"nodeName": "b"}, namespace="shop"),
    )
    found = objects.snapshot()
    assert {name: each.cluster_ips for name, each in found.services.items()} == {
        "default/web": (parse_address("10.96.0.1"),),
        "shop/web": (parse_address("10.96.0.2"),),
    }
    assert {name: each.service for name, each in found.endpoint_slices.items()} == {
        "default/web-1": "default/web",
        "shop/web-1": "shop/web",
    }
    put(service(address(1)), service(address(3), namespace="default"), service(address(2), namespace="shop"))
    assert objects.snapshot().services == found.services, "the last good version stands"
    assert [str(p) for p in objects.snapshot().problems] == [
        "a.yaml: Service default/web: is there more than once: the last good version stands"
    ]
