"""A selector built as a tree, printed in any of its spellings, means the same after parsing; noise never crashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from bgpd.rules.selector import parse

Tree = tuple[str, Callable[[Mapping[str, str]], bool]]

KEYS = st.sampled_from(["a", "b", "zone/x", "in", "not-there"])
VALUES = st.sampled_from(["", "x", "xy", "yx", "it's"])
SPACE = st.sampled_from(["", " ", "\n "])


def quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


@st.composite
def leaves(draw: st.DrawFn) -> Tree:
    key, value, space = draw(KEYS), draw(VALUES), draw(SPACE)
    values = draw(st.lists(VALUES, max_size=3))
    members = ", ".join(quoted(v) for v in values)
    text = f"{quoted(value)}{space}"
    return draw(
        st.sampled_from(
            [
                ("all()", lambda labels: True),
                (f"has({space}{key}{space})", lambda labels: key in labels),
                (f"{key}{space}=={space}{text}", lambda labels: labels.get(key) == value),
                (f"{key}{space}!={space}{text}", lambda labels: labels.get(key) != value),
                (f"{key} in{space}{{{members}}}", lambda labels: key in labels and labels[key] in values),
                (
                    f"{key} not in {{{members}}}",
                    lambda labels: key not in labels or labels[key] not in values,
                ),
                (f"{key} contains {text}", lambda labels: key in labels and value in labels[key]),
                (f"{key} starts with {text}", lambda labels: key in labels and labels[key].startswith(value)),
                (f"{key} ends with {text}", lambda labels: key in labels and labels[key].endswith(value)),
            ]
        )
    )


def branches(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    def both(pair: tuple[Tree, Tree]) -> Tree:
        (a, f), (b, g) = pair
        return f"({a}) && ({b})", lambda labels: f(labels) and g(labels)

    def either(pair: tuple[Tree, Tree]) -> Tree:
        (a, f), (b, g) = pair
        return f"({a})||({b})", lambda labels: f(labels) or g(labels)

    def never(tree: Tree) -> Tree:
        return f"!({tree[0]})", lambda labels: not tree[1](labels)

    return st.one_of(st.tuples(inner, inner).map(both), st.tuples(inner, inner).map(either), inner.map(never))


@given(st.recursive(leaves(), branches, max_leaves=8), st.dictionaries(KEYS, VALUES))
def test_means_what_it_was_built_from(tree: Tree, labels: dict[str, str]) -> None:
    text, meaning = tree
    assert parse(text).matches(labels) == meaning(labels)


@given(st.lists(leaves(), min_size=1, max_size=4), st.lists(st.booleans(), min_size=3, max_size=3), st.data())
def test_and_binds_closer_than_or(trees: list[Tree], ands: list[bool], data: st.DataObject) -> None:
    labels = data.draw(st.dictionaries(KEYS, VALUES))
    text, groups = trees[0][0], [[trees[0][1]]]
    for (part, meaning), is_and in zip(trees[1:], ands, strict=False):
        text += f" {'&&' if is_and else '||'} {part}"
        if is_and:
            groups[-1].append(meaning)
        else:
            groups.append([meaning])
    assert parse(text).matches(labels) == any(all(f(labels) for f in group) for group in groups)


@given(st.text(alphabet="ab(){}!&|=,'\" \nhasinotl", max_size=40))
def test_noise_is_refused_or_understood(text: str) -> None:
    try:
        parse(text).matches({"a": "b"})
    except ValueError as error:
        assert str(error).startswith("character ")
