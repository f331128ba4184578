"""Import and export policy: each refusal by name, and what changes on the way out."""

import pytest

from bgpd.model.prefix import Family
from bgpd.model.route import AsPath, Attributes, Origination, Out, Reason, SegmentType
from bgpd.rules.communities import NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED
from bgpd.rules.exports import ExportRefusal, group_keys, learned_out, local_out, prefix_refusal
from bgpd.rules.imports import import_refusal
from tests.unit.builders import (
    BOTH,
    ME,
    ME6,
    OWN_AS,
    V4,
    V6,
    addr,
    attributes,
    origination,
    path,
    peer,
    pfx,
    sequence,
)

IBGP, EBGP, FAR = peer("10.0.1.30"), peer("10.0.2.1", 65001), peer("10.0.2.2", 65002)


def group(of: object) -> object:
    return group_keys(of)[V4]  # type: ignore[arg-type]


def test_sessions_that_hear_the_same_octets_are_one_group() -> None:
    assert group(peer("10.0.1.31")) == group(IBGP)
    assert group(peer("10.0.2.9", 65001)) == group(EBGP)
    assert group(EBGP) != group(IBGP)
    assert group(EBGP) == group(FAR), "the peer's AS changes nothing"
    assert group(peer("10.0.1.31", asn4=False)) != group(IBGP)


def test_the_next_hop_is_ours_in_each_family() -> None:
    both = group_keys(peer("10.0.1.30", families=BOTH))
    assert {family: found.next_hop for family, found in both.items()} == {V4: ME, V6: ME6}
    bare = peer("10.0.1.30", families=BOTH)
    alone = type(bare.config)(
        **{name: getattr(bare.config, name) for name in bare.config.__dataclass_fields__} | {"next_hops": {}}
    )
    without = type(bare)(alone, bare.router_id, ME, BOTH, True)
    assert set(group_keys(without)) == {Family.IPV4}, "no address of a family, nothing to say in it"


def test_import_refuses_loops_only() -> None:
    assert import_refusal(path(EBGP)) is None
    assert import_refusal(path(EBGP, attributes(65001, OWN_AS))) is Reason.AS_LOOP
    mine = attributes(local_pref=100, originator_id="10.0.1.20")
    assert import_refusal(path(IBGP, mine)) is Reason.ORIGINATOR_LOOP
    assert import_refusal(path(IBGP, attributes(local_pref=100, originator_id="10.0.1.21"))) is None


def test_our_own_routes() -> None:
    assert local_out(group(IBGP)) == Out(Attributes(local_pref=100), ME, None)
    assert local_out(group(EBGP)) == Out(Attributes(as_path=sequence(OWN_AS)), ME, None)


def test_internal_is_not_passed_to_internal() -> None:
    assert learned_out(path(IBGP), group(peer("10.0.1.31"))) is ExportRefusal.INTERNAL


def test_internal_to_external_puts_our_as_in_front_and_strips_what_is_internal() -> None:
    inside = Attributes(
        as_path=sequence(65009),
        med=50,
        local_pref=300,
        communities=(5,),
        extended_communities=(b"\x00\x02abcdef", b"\x40\x04abcdef"),
        large_communities=((1, 2, 3),),
        originator_id=addr("1.1.1.1"),
        cluster_list=(addr("2.2.2.2"),),
    )
    out = learned_out(path(IBGP, inside), group(EBGP))
    assert out == Out(
        Attributes(
            as_path=sequence(OWN_AS, 65009),
            communities=(5,),
            extended_communities=(b"\x00\x02abcdef",),
            large_communities=((1, 2, 3),),
        ),
        ME,
        IBGP.id,
    )


def test_external_to_internal_adds_a_local_preference_and_keeps_med() -> None:
    out = learned_out(path(EBGP, attributes(65001, med=7)), group(IBGP))
    assert out == Out(attributes(65001, med=7, local_pref=100), addr("10.0.2.1"), EBGP.id)


def test_external_to_external() -> None:
    out = learned_out(path(EBGP, attributes(65001, med=7)), group(FAR))
    assert out == Out(attributes(OWN_AS, 65001), ME, EBGP.id)


def test_a_path_with_the_peers_as_on_it_is_its_own_to_refuse() -> None:
    """It may allow its AS there (numAllowedLocalASNumbers), and Calico announces it too."""
    out = learned_out(path(EBGP, attributes(65001, 65002)), group(FAR))
    assert out == Out(attributes(OWN_AS, 65001, 65002), ME, EBGP.id)


@pytest.mark.parametrize(
    ("community", "to", "refusal"),
    [
        (NO_ADVERTISE, IBGP, ExportRefusal.NO_ADVERTISE),
        (NO_ADVERTISE, FAR, ExportRefusal.NO_ADVERTISE),
        (NO_EXPORT, FAR, ExportRefusal.NO_EXPORT),
        (NO_EXPORT_SUBCONFED, FAR, ExportRefusal.NO_EXPORT),
        (NO_EXPORT, IBGP, None),
    ],
)
def test_well_known_communities(community: int, to: object, refusal: ExportRefusal | None) -> None:
    out = learned_out(path(EBGP, attributes(65001, communities=(9, community))), group(to))
    assert (out if isinstance(out, ExportRefusal) else None) is refusal


def test_prepending() -> None:
    assert sequence().prepended(1) == sequence(1)
    assert sequence(2, 3).prepended(1) == sequence(1, 2, 3)
    full = sequence(*range(1000, 1255))
    assert full.prepended(1) == AsPath.of((SegmentType.AS_SEQUENCE, (1,)), *full.segments())
    aset = AsPath.of((SegmentType.AS_SET, (7, 8)))
    assert aset.prepended(1) == AsPath.of((SegmentType.AS_SEQUENCE, (1,)), (SegmentType.AS_SET, (7, 8)))


def test_prefixes_inside_exported_pools_only_and_never_a_default() -> None:
    inside = origination(pools=["10.48.0.0/16", "10.50.0.0/16"], hidden_pools=["10.48.8.0/24"])
    verdicts = {
        text: prefix_refusal(pfx(text), inside)
        for text in (
            "10.48.0.0/26",
            "10.48.0.0/16",
            "10.50.1.1/32",
            "10.48.8.64/26",
            "10.49.0.0/26",
            "10.0.0.0/8",
        )
    }
    assert verdicts == {
        "10.48.0.0/26": None,
        "10.48.0.0/16": None,
        "10.50.1.1/32": None,
        "10.48.8.64/26": ExportRefusal.POOL_DISABLED,
        "10.49.0.0/26": ExportRefusal.NOT_IN_POOL,
        "10.0.0.0/8": ExportRefusal.NOT_IN_POOL,
    }
    everything = origination(pools=["0.0.0.0/0"])
    assert prefix_refusal(pfx("0.0.0.0/0"), everything) is ExportRefusal.DEFAULT_ROUTE
    assert prefix_refusal(pfx("10.48.0.0/26"), Origination()) is ExportRefusal.NOT_IN_POOL
