"""Lists of the Kubernetes API, cut anywhere: items as they are complete, and the version of the list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgpd.datastore.kubernetes.pieces import ListPieces

CORE = '{"kind":"NodeList","metadata":{"resourceVersion":"5"},"items":[{"a":"é{[\\"]}"},{"b":[1,{}]}]}\n'
CUSTOM = '{"apiVersion":"x","items":[ {"a":"é{[\\"]}"} , {"b":[1,{}]} ],"kind":"L","metadata":{"resourceVersion":"5"}}'


@pytest.mark.parametrize("text", [CORE, CUSTOM])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_items_come_whole_wherever_it_is_cut(text: str, size: int) -> None:
    data = text.encode()
    pieces, items = ListPieces(), []
    for at in range(0, len(data), size):
        items += pieces.feed(data[at : at + size])
    items += pieces.feed(b"", last=True)
    assert items == json.loads(text)["items"]
    assert pieces.done
    assert pieces.rest["metadata"] == {"resourceVersion": "5"}


def test_no_items_and_null() -> None:
    for text in ('{"metadata":{},"items":[]}', '{"metadata":{},"items":null}', '{"metadata":{}}'):
        pieces = ListPieces()
        assert pieces.feed(text.encode()) == []
        assert pieces.done


@pytest.mark.parametrize("text", ["[]", "404 page not found", '{"items":[}', "{1:2}", '{"a" 1}', '{"a":x}'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ListPieces().feed(text.encode())


def test_a_list_that_breaks_off_is_not_done() -> None:
    pieces = ListPieces()
    assert len(pieces.feed(CORE.encode()[:-8])) == 1
    assert not pieces.done


def test_a_long_item_is_not_read_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    decode: Any = json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, text: str, at: int = 0) -> Any:
        nonlocal looked
        looked += len(text) - at
        return decode(self, text, at)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counted)
    data = ('{"items":[{"a":"' + "x" * 1_000_000 + '"}],"metadata":{}}').encode()
    pieces, items = ListPieces(), []
    for at in range(0, len(data), 1000):
        items += pieces.feed(data[at : at + 1000])
    items += pieces.feed(b"", last=True)
    assert len(items) == 1
    assert pieces.done
    assert looked < 5 * len(data)
