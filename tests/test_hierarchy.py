"""The tree: grown, named, cut, written, read, laid out, compared, searched with."""

import csv
import dataclasses
import io
import json
import math
import tracemalloc
from collections.abc import Sequence

import dendropy
import networkx
import numpy as np
import pytest
from conftest import leaf_images, tree_of

from hiercli import Collection
from hiercli.encoder.metadata import Metadata
from hiercli.errors import DataError, FileFormatError, InputError
from hiercli.evaluation.taxonomy import joined_at
from hiercli.files import escaped
from hiercli.geometry import poincare
from hiercli.hierarchy import build, formats, layout, newick
from hiercli.hierarchy.branches import Branches
from hiercli.hierarchy.compare import compare
from hiercli.hierarchy.depth import class_middles, proxy_joins
from hiercli.hierarchy.naming import common_name, group_name
from hiercli.hierarchy.node import Node, find, joins, trim
from hiercli.images import Preprocessing

C = 0.1
NAMES = ["red fox", "arctic fox", "house cat", "wild cat", "oak", "elm"]
PATHS = [f"/photos/{name}/{number}.jpg" for name in NAMES for number in range(5)]


def world(seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Photos of six classes in three pairs, two of which are kin, and a proxy for each join."""
    rng = np.random.default_rng(seed)
    animal, tree, fox, cat = np.eye(8)[:4] * 1.0
    middles = [animal + fox, animal + fox, animal + cat, animal + cat, 2 * tree, 2 * tree]
    own = np.repeat(np.stack(middles), 5, axis=0) + 0.35 * np.repeat(
        np.eye(8)[[4, 5, 6, 7, 4, 5]], 5, axis=0
    )
    tangent = own + 0.03 * rng.normal(size=own.shape)
    tangent *= rng.uniform(1.7, 1.9, (len(own), 1)) / np.linalg.norm(tangent, axis=1, keepdims=True)
    inner = np.stack([0.05 * animal, 0.8 * animal, animal + fox, animal + cat, 1.2 * tree, -animal])
    points = poincare.expmap0(tangent, C).astype(np.float32)
    return points, [name for name in NAMES for _ in range(5)], poincare.expmap0(inner, C)


def grown(**options: bool) -> Node:
    points, labels, proxies = world()
    return tree_of(points, PATHS, labels, proxies, C, **options)


def groups(root: Node) -> set[frozenset[str]]:
    return {frozenset(leaf.name for leaf in node.leaves) for node in root.walk() if node.children}


# -- growing ------------------------------------------------------------------------------------


def test_the_tree_is_the_one_that_is_there() -> None:
    root = grown()
    assert groups(root) == {
        frozenset(NAMES), frozenset(NAMES[:4]), frozenset(NAMES[:2]), frozenset(NAMES[2:4]),
        frozenset(NAMES[4:]),
    }  # fmt: skip
    assert {node.proxy for node in root.walk() if node.children} == {0, 1, 2, 3, 4}, "5 is dead"


def test_depth_grows_from_the_root_to_the_leaves() -> None:
    for node in grown().walk():
        for child in node.children:
            assert node.radius is not None and child.radius is not None
            assert node.radius <= child.radius + 1e-9
            assert node.height >= child.height


def test_nodes_know_what_they_hold() -> None:
    root = grown()
    assert (root.size, root.counted, root.purity) == (30, "photos", pytest.approx(1 / 6))
    fox = find(root, "fox")
    assert (fox.size, fox.purity, fox.id) == (10, 0.5, "p2")
    leaf = find(root, "red fox")
    assert leaf.photo is not None and leaf.photo.startswith("/photos/red fox/")
    assert (leaf.purity, leaf.proxy, leaf.height) == (1.0, None, 0.0)


def test_the_photo_of_a_node_is_the_one_nearest_to_its_middle() -> None:
    points, labels, proxies = world()
    root = tree_of(points, PATHS, labels, proxies, C)
    for node in root.walk():
        names = {leaf.name for leaf in node.leaves}
        own = [place for place, label in enumerate(labels) if label in names]
        middle = poincare.midpoint(points[own].astype(np.float64), C)
        far = poincare.dist(middle[None], points[own].astype(np.float64), C)
        assert node.photo == PATHS[own[int(far.argmin())]]


def test_words_that_all_have_name_nothing() -> None:
    points, labels, proxies = world()
    labels = [f"species of {label}" for label in labels]
    root = tree_of(points, PATHS, labels, proxies, C)
    assert find(root, "p2").name == "fox"
    unlabelled = tree_of(points, PATHS, None, proxies, C)
    names = [node.name for node in unlabelled.walk() if node.children]
    assert len(set(names)) == len(names) > 1 and all("group" in name for name in names)
    by_proxy = tree_of(points, PATHS, labels, proxies, C, by_proxy=True)
    held = [node.name for node in by_proxy.walk() if node.children]
    assert held and all(name.split()[0] not in ("more", "species") for name in held)


def test_without_labels_photos_stand_by_their_nearest_proxy() -> None:
    points, labels, proxies = world()
    which = poincare.pairwise_dist(points.astype(np.float64), proxies, C).argmin(axis=1)
    unlabelled = tree_of(points, PATHS, None, proxies, C)
    assert {leaf.id for leaf in unlabelled.leaves} == {f"group {proxy}" for proxy in set(which)}
    assert unlabelled.purity is None
    named = tree_of(points, PATHS, labels, proxies, C, by_proxy=True)
    assert groups(named) != groups(unlabelled)
    assert [leaf.size for leaf in named.leaves] == [leaf.size for leaf in unlabelled.leaves]
    fox = find(named, "group 2")
    assert (fox.name, fox.purity, fox.size) == ("fox", 0.5, 10)


def test_it_is_grown_the_same_each_time() -> None:
    assert formats.to_json(grown()) == formats.to_json(grown())


def test_ids_hold_when_photos_come_in_another_order() -> None:
    points, labels, proxies = world()
    order = np.random.default_rng(1).permutation(len(points))
    shuffled = tree_of(
        points[order], [PATHS[place] for place in order], [labels[place] for place in order],
        proxies, C,
    )  # fmt: skip
    assert {node.id for node in shuffled.walk()} == {node.id for node in grown().walk()}


def test_photos_at_leaves_come_typical_first() -> None:
    points, labels, proxies = world()
    root = grown()
    placed = leaf_images(root, root, points, labels, proxies, C)
    assert set(placed) == set(NAMES)
    for name, own in placed.items():
        wide = points[own].astype(np.float64)
        far = poincare.dist(poincare.midpoint(wide, C)[None], wide, C)
        assert {labels[place] for place in own} == {name}
        assert (np.diff(far) >= 0).all()
    cut = trim(root, depth=1)
    assert {
        frozenset(labels[place] for place in own)
        for own in leaf_images(root, cut, points, labels, proxies, C).values()
    } == {frozenset(NAMES[:4]), frozenset(NAMES[4:])}


def test_one_label_is_none() -> None:
    points, labels, proxies = world()
    root = tree_of(points, PATHS, ["one"] * len(labels), proxies, C)
    assert root == tree_of(points, PATHS, None, proxies, C)
    assert root.purity is None


def test_too_little_to_grow_a_tree_of() -> None:
    points, labels, proxies = world()
    with pytest.raises(InputError, match="expected proxies"):
        tree_of(points, PATHS, labels, proxies[:0], C)
    with pytest.raises(DataError, match="hierarchical proxies for a tree"):
        build.from_images(Collection(points=points, c=C))
    with pytest.raises(DataError, match="found 1 class or group and 1 proxy"):
        tree_of(points, PATHS, None, proxies[:1], C)
    with pytest.raises(DataError, match="at least two classes"):
        build.from_classes(points[:1], ["one"], proxies, C)


def test_a_class_that_is_called_like_a_proxy() -> None:
    points, labels, proxies = world()
    odd = {"oak": "p0", "elm": "class p0"}
    labels = [odd.get(label, label) for label in labels]
    root = tree_of(points, PATHS, labels, proxies, C)
    assert find(root, "class p0").name == "p0"
    assert find(root, "p0").children
    placed = leaf_images(root, root, points, labels, proxies, C)
    assert [len(placed[own]) for own in ("class p0", "class class p0")] == [5, 5]


def test_no_proxy_is_its_own_ancestor_while_there_are_others() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = poincare.expmap0(rng.normal(size=(12, 3)), C)
        proxies = poincare.expmap0(1.2 * rng.normal(size=(40, 3)), C)
        root = build.from_classes(points, [f"c{n}" for n in range(12)], proxies, C)
        waiting: list[tuple[Node, tuple[int | None, ...]]] = [(root, ())]
        while waiting:
            node, line = waiting.pop()
            if node.proxy is not None:
                assert node.proxy not in line[:-1]
                if node.proxy not in line:  # right above itself it is one node at two heights
                    line = (*line, node.proxy)
            waiting += [(child, line) for child in node.children]


def test_proxies_make_a_tree_by_themselves() -> None:
    """Foxes and cats join on proxies of their own, animals further in, everything at the root."""
    points, labels, proxies = world()
    middles = class_middles(points, labels, NAMES, C)
    members, heights = proxy_joins(middles, proxies, C)
    assert {frozenset(branches) for branches in members[:3]} == {
        frozenset({0, 1}), frozenset({2, 3}), frozenset({4, 5}),
    }  # fmt: skip
    met = joined_at(members, heights, 6)
    assert met[0, 1] == met[2, 3] < met[0, 2] == met[1, 3] < met[0, 4] == met[3, 5]
    assert (np.diag(met) == 0).all() and met[4, 5] < met[0, 4]


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["red fox", "arctic fox"], "fox"),
        (["Parus_major", "Parus_ater"], "Parus"),
        (["red fox", "arctic fox", "wolf"], "mostly fox"),
        (
            [
                "Ula mira",
                "Helu tana",
                "Brasa rara",
                "Brasa bona",
                "Brasa lila",
                "Ula soro",
                "Ula tiva",
                "Helu xana",
            ],
            "Ula, Brasa and Helu",
        ),
        (
            ["a owl", "b finch", "c oak", "d finch", "e elm", "f owl", "g finch", "h oak"],
            "finch, owl and 3 more",
        ),
        (["oak", "elm"], "oak and elm"),
        (["a fox", "b fox", "c fox", "a owl", "b owl", "c owl", "d owl"], "owl and fox"),
        (["oak", "elm", "ash", "yew"], "oak, elm and 2 more"),
        (["red fox", "oak", "elm", "arctic fox", "yew"], "fox, oak and 2 more"),
        (["1", "2", "3"], "1, 2 and 3"),
        (["1", "2", "3", "4"], "1, 2 and 2 more"),
        (["lone wolf"], "lone wolf"),
        (["Class_1", "Class_2"], "Class"),
        (["house cat", "caterpillar", "oak", "wild cat", "elm"], "cat, caterpillar and 2 more"),
    ],
)
def test_a_name_is_what_they_have_in_common(names: Sequence[str], expected: str) -> None:
    assert common_name(names) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([3, 0, 0], "oak"),
        ([3, 1, 0], "mostly oak"),
        ([2, 2, 2], "oak, elm and ash"),
        ([4, 3, 0], "mostly oak"),
    ],
)
def test_a_group_is_named_after_what_is_commonest(counts: list[int], expected: str) -> None:
    assert group_name(["oak", "elm", "ash"], np.array(counts)) == expected


def test_a_class_of_most_photos_outweighs_a_word_of_most_classes() -> None:
    names = ["red oak", "white oak", "bur oak", "elm"]
    assert group_name(names, np.array([14, 13, 13, 60])) == "mostly elm"
    assert common_name([]) == ""
    tits = ["Eagle", "Auk", "Great Tit", "Blue Tit", "Coal Tit", "Marsh Tit"]
    assert common_name(tits, photos=[50, 40, 1, 1, 1, 1]) == "mostly Eagle"
    assert common_name(tits, photos=[45, 45, 1, 1, 1, 1]) == "Eagle, Auk and Tit"
    assert common_name(tits, photos=[1, 1, 9, 9, 9, 9]) == "mostly Tit"


def test_small_words_name_nothing() -> None:
    dishes = ["fish_and_chips", "macaroni_and_cheese", "shrimp_and_grits"]
    assert common_name(dishes) == "fish_and_chips, macaroni_and_cheese and shrimp_and_grits"


# -- looking ------------------------------------------------------------------------------------


def test_finding_and_cutting() -> None:
    root = grown()
    assert find(root, root.id) is root
    with pytest.raises(InputError, match="got 'foks'") as missing:
        find(root, "foks")
    assert "fox" in str(missing.value)
    assert [node.id for node in trim(root, depth=0).walk()] == [root.id]
    assert max(len(node.children) for node in trim(root, depth=1).children) == 0
    large = trim(root, min_size=10)
    assert {node.size for node in large.walk()} == {10, 20, 30}
    assert trim(root) == root


def test_joins_are_numbered_after_their_members() -> None:
    root = grown()
    members, heights = joins(root, NAMES)
    met = joined_at(members, heights, len(NAMES))
    for first, one in enumerate(NAMES):
        for second, other in enumerate(NAMES):
            both = [n.height for n in root.walk() if {one, other} <= {x.name for x in n.leaves}]
            assert met[first, second] == min(both) * (first != second)
    fewer, _ = joins(root, ["red fox", "oak", "elm"])
    assert [sorted(branches) for branches in fewer] == [[1, 2], [0, 3]]


# -- forms --------------------------------------------------------------------------------------

ODD = Node(
    "p1", "it's (a) tree, [x]; y:z", 1, 0.5, 2.0, 3, "classes", 0.5, None,
    (
        Node("a_b", "a_b", None, 1.0, 0.0, photo="/x/a b.jpg"),
        Node("p2", "q\n\t\x01", 2, 0.7, 1.5, 2, children=(
            Node("c'd", "c'd", None, 1.1, 0.0), Node("ü ", "ü ", None, 1.2, 0.0),
        )),
    ),
)  # fmt: skip
"""Names with all that a format may trip over."""


@pytest.mark.parametrize("root", [ODD, grown()], ids=["odd", "grown"])
def test_json_comes_back_whole(root: Node) -> None:
    assert formats.from_json(formats.to_json(root), "x") == root


@pytest.mark.parametrize(("name", "value"), [("name", 5), ("height", "tall"), ("id", None)])
def test_facts_of_another_kind_are_refused(name: str, value: object) -> None:
    tree = json.loads(formats.to_json(grown()))
    tree["children"][0][name] = value
    with pytest.raises(FileFormatError, match=f"{name} is {value!r}"):
        formats.from_json(json.dumps(tree), "x")


def test_a_tree_that_is_too_deep_for_json() -> None:
    node = Node("c0", "c0", None, 1.0, 0.0)
    for depth in range(5000):
        node = Node(f"p{depth}", "x", depth, 0.0, float(depth), children=(node,))
    with pytest.raises(InputError, match="too deep for JSON"):
        formats.to_json(node)
    assert formats.to_csv(node).count("\n") == 5001
    assert newick.read(formats.to_newick(node), "x").height == pytest.approx(4999)


def test_groups_of_one_name_are_told_apart_in_newick() -> None:
    root = dataclasses.replace(
        wide_tree(3), children=tuple(dataclasses.replace(leaf, name="oak")
                                     for leaf in wide_tree(3).children)
    )  # fmt: skip
    names = [leaf.name for leaf in newick.read(formats.to_newick(root), "x").leaves]
    assert names == ["oak (c0)", "oak (c1)", "oak (c2)"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"id": 1, "children": 3}', '{"id": "a"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(FileFormatError, match="x is not a tree"):
        formats.from_json(text, "x")


@pytest.mark.parametrize("root", [ODD, grown()], ids=["odd", "grown"])
def test_newick_is_what_another_reader_reads(root: Node) -> None:
    text = formats.to_newick(root)
    theirs = dendropy.Tree.get(
        data=text, schema="newick", suppress_leaf_node_taxa=False, preserve_underscores=True
    )
    ours = newick.read(text, "x")
    expected = {frozenset(escaped(x.name) for x in n.leaves) for n in root.walk()}
    for read in (
        {frozenset(leaf.taxon.label for leaf in node.leaf_iter()) for node in theirs},
        {frozenset(leaf.name for leaf in node.leaves) for node in ours.walk()},
    ):
        assert read == expected
    lengths = [edge.length for edge in theirs.postorder_edge_iter() if edge.length is not None]
    assert sum(lengths) == pytest.approx(
        sum(node.height - child.height for node in root.walk() for child in node.children), rel=1e-4
    )
    assert ours.height == pytest.approx(root.height, rel=1e-4)


def test_newick_of_others() -> None:
    root = newick.read("((A_b:1,'C d':2)x[note]:1.5,(E,F)x,G):0;\n", "x")
    assert [leaf.name for leaf in root.leaves] == ["A b", "C d", "E", "F", "G"]
    assert [node.id for node in root.walk() if node.children] == ["n0", "n1", "n4"]
    assert root.children[0].height == 2
    assert root.height == 3.5


@pytest.mark.parametrize(
    "text", ["", "(a,b)", "(a,b;", "(a,b));", "(a,(b);", "a;", "(a,b)c d;", "(a:x,b);", "(a,a);",
             "(a,);", "(a,b);(c,d);", "(a,'b);"],
)  # fmt: skip
def test_what_is_no_newick(text: str) -> None:
    with pytest.raises(FileFormatError, match="x"):
        newick.read(text, "x")


@pytest.mark.parametrize("root", [ODD, grown()], ids=["odd", "grown"])
def test_graphml_is_what_another_reader_reads(root: Node) -> None:
    graph = networkx.parse_graphml(formats.to_graphml(root))
    nodes = list(root.walk())
    assert networkx.is_arborescence(graph)
    assert len(graph) == len(nodes)
    for node in nodes:
        (number,) = (n for n in graph if graph.nodes[n]["id"] == escaped(node.id))
        facts = graph.nodes[number]
        assert facts["size"] == node.size
        assert facts["height"] == node.height
        below = [graph.nodes[child]["id"] for child in graph.successors(number)]
        assert below == [escaped(child.id) for child in node.children]


@pytest.mark.parametrize("root", [ODD, grown()], ids=["odd", "grown"])
def test_csv_comes_back_whole(root: Node) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(root))))
    assert [row["id"] for row in rows] == [node.id for node in root.walk()]
    parents = {child.id: node.id for node in root.walk() for child in node.children}
    assert {row["id"]: row["parent"] for row in rows if row["parent"]} == parents
    assert [float(row["radius"]) for row in rows] == [node.radius for node in root.walk()]


# -- in the disk --------------------------------------------------------------------------------


def positions(places: Sequence[layout.Place]) -> np.ndarray:
    """Complex positions with the root in the middle."""
    frames: list[tuple[complex, complex]] = []
    for spot in places:
        turn, way = np.exp(0.5j * spot.angle), spot.distance / 2
        alpha, beta = turn * math.cosh(way), turn * math.sinh(way)
        if spot.parent >= 0:
            a, b = frames[spot.parent]
            alpha, beta = a * alpha + b * np.conj(beta), a * beta + b * np.conj(alpha)
        frames.append((alpha, beta))
    return np.array([beta / np.conj(alpha) for alpha, beta in frames])


def wide_tree(leaves: int) -> Node:
    below = tuple(Node(f"c{n}", f"c{n}", None, 1.0, 0.0, 5, "photos") for n in range(leaves))
    return Node("p0", "all", 0, 0.0, 1.0, 5 * leaves, "photos", 0.1, None, below)


@pytest.mark.parametrize("root", [grown(), wide_tree(60), wide_tree(7)], ids=["a", "b", "c"])
def test_everything_has_a_place_of_its_own(root: Node) -> None:
    places = layout.place(root, {leaf.id: 5 for leaf in root.leaves})
    assert [spot.node for spot in places if spot.node is not None].count(root) == 1
    assert {spot.node.id for spot in places if spot.node} == {node.id for node in root.walk()}
    assert sum(spot.photo is not None for spot in places) == 5 * len(root.leaves)
    assert all(spot.parent < number for number, spot in enumerate(places))
    at = positions(places)
    assert np.abs(at).max() < 1
    ball = np.stack([at.real, at.imag], axis=1)
    far = poincare.pairwise_dist(ball, ball, 1.0) + 9 * np.eye(len(at))
    assert far.min() > 0.2


def test_branches_do_not_cross() -> None:
    """Around the root the leaves of each branch lie side by side."""
    root = wide_tree(60)
    places = layout.place(root, {})
    at = positions(places)
    leaves = [n for n, spot in enumerate(places) if spot.node is not None and n]
    assert len(leaves) == 60
    assert [places[n].node.id for n in sorted(leaves, key=lambda n: np.angle(at[n]))] == [  # type: ignore[union-attr]
        f"c{n}" for n in range(60)
    ]
    counts = np.bincount([spot.parent for spot in places if spot.parent >= 0])
    assert counts.max() <= 8


def test_no_node_has_many_branches_however_unlike_they_are() -> None:
    big = dataclasses.replace(wide_tree(500), id="p1")
    root = dataclasses.replace(wide_tree(60), children=(big, *wide_tree(60).children))
    places = layout.place(root, {})
    counts = np.bincount([spot.parent for spot in places if spot.parent >= 0])
    assert counts.max() <= 8
    assert len({id(spot.node) for spot in places if spot.node is not None}) == 562


def test_a_very_deep_tree_can_be_laid_out() -> None:
    node = Node("c0", "c0", None, 1.0, 0.0)
    for depth in range(3000):
        leaf = Node(f"c{depth + 1}", f"c{depth + 1}", None, 1.0, 0.0)
        node = Node(f"p{depth}", "x", depth, 0.0, float(depth), depth + 2, children=(node, leaf))
    assert len(layout.place(node, {})) == 6001


# -- comparing ----------------------------------------------------------------------------------


def tree(text: str) -> Node:
    return newick.read(text, "x")


def test_a_tree_is_no_different_from_itself() -> None:
    found = compare(grown(), tree(formats.to_newick(grown())))
    assert (found.distance, found.correlation, found.num_leaves) == (0, pytest.approx(1), 6)
    assert found.moves == found.splits == found.merges == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_is_the_one_of_dendropy(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def random_tree() -> str:
        parts = [f"t{n}" for n in rng.permutation(9)]
        while len(parts) > 1:
            size = min(len(parts), int(rng.integers(2, 4)))
            some = [parts.pop(int(rng.integers(len(parts)))) for _ in range(size)]
            parts.append(f"({','.join(some)})")
        return parts[0] + ";"

    texts = random_tree(), random_tree()
    taxa = dendropy.TaxonNamespace()
    theirs = [
        dendropy.Tree.get(data=text, schema="newick", taxon_namespace=taxa, rooting="force-rooted")
        for text in texts
    ]
    clades = [
        {frozenset(x.taxon.label for x in node.leaf_iter()) for node in one.internal_nodes()}
        for one in theirs
    ]
    both = sum(len(own) - 1 for own in clades)
    expected = dendropy.calculate.treecompare.symmetric_difference(*theirs) / both
    assert compare(tree(texts[0]), tree(texts[1])).distance == pytest.approx(expected)


def test_what_moved_split_and_merged() -> None:
    before = tree("(((a,b,c),(d,e,f))x,((g,h,i)y,(j,k,l)))r;")
    after = tree("(((a,b),(d,e,f,c)),((g,h),(i,j,k,l)));")
    found = compare(before, after)
    assert {move.leaf for move in found.moves} == {"c", "i"}
    swapped = tree("(((a,b,c),(g,h,i))p,((d,e,f),(j,k,l))q)r;")
    found = compare(before, swapped)
    assert [(split.name, split.size) for split in found.splits] == [
        ("x", 6),
        ("g, h and 4 more", 6),
    ]
    assert [(merge.name, merge.size) for merge in found.merges] == [("p", 6), ("q", 6)]
    assert len(found.splits[0].parts) == 2
    assert found.moves == ()


def test_leaves_of_one_tree_only() -> None:
    found = compare(tree("((a,b),(c,x_y));"), tree("((a,b),(c,'x y'),z);"))
    assert (found.num_leaves, found.only_first, found.only_second) == (4, (), ("z",))
    assert found.distance == 0
    with pytest.raises(InputError, match="three leaves that both trees have"):
        compare(tree("((a,b),c);"), tree("((a,b),d);"))


# -- searching with it --------------------------------------------------------------------------


def metadata() -> Metadata:
    points, labels, proxies = world()
    middles = np.stack([poincare.midpoint(points[np.array(labels) == name], C) for name in NAMES])
    shown = Preprocessing(32, 1.0, (0.5,) * 3, (0.5,) * 3, "bicubic")
    return Metadata("f", shown, C, 2.3, 8, "x", 0, NAMES, middles, proxies)


@pytest.mark.parametrize("own", [False, True], ids=["of the encoder", "of the index"])
def test_common_ancestors_and_levels(own: bool) -> None:
    points, labels, _ = world()
    branches = Branches(metadata(), points if own else None, labels if own else ())
    query = points[0]
    asked = [0, 5, 10, 25]
    common = branches.common(query, points[asked], [labels[place] for place in asked])
    assert [len(node.leaves) for node in common] == [1, 2, 4, 6]
    assert common[1].name == "fox"
    for level, size in enumerate((1, 2, 4, 6, 6)):
        branch = branches.above(query, level)
        assert len(branch.leaves) == size
        found, far = branches.spread(query, points, labels, branch, 2 * size)
        assert {labels[place] for place in found[:size]} == set(NAMES[:size])
        assert [labels[place] for place in found].count("red fox") == 2
        assert found[0] == 0
        expected = poincare.dist(query[None].astype(float), points[found].astype(float), C)
        assert far == pytest.approx(expected)
        assert (np.diff(far[:size]) >= 0).all() and (np.diff(far[size:]) >= 0).all()


def test_specificity_is_the_share_of_photos_that_lie_further_in() -> None:
    lengths = np.linspace(1.0, 2.0, 101)
    directions = np.random.default_rng(0).normal(size=(101, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = poincare.expmap0(directions * lengths[:, None], C).astype(np.float32)
    own = dataclasses.replace(metadata(), image_depth=True)
    branches = Branches(own, points)
    for length, share in ((0.5, 0.0), (1.0, 0.0), (1.25, 0.25), (1.9, 0.9), (2.2, 1.0)):
        point = poincare.expmap0(np.eye(8)[0] * length, C)
        assert branches.specificity(point) == pytest.approx(share, abs=1e-3)


def test_an_encoder_without_depth_says_nothing_of_it() -> None:
    flat = metadata()
    scale = 1.8 / np.linalg.norm(flat.class_points, axis=1, keepdims=True)
    saturated = flat.class_points * scale
    same = Metadata(**{**vars(flat), "class_points": saturated, "proxies": saturated})
    assert not Branches(same).has_depth
    assert Branches(same).specificity(saturated[0]) is None


def test_a_tree_never_takes_the_square_of_its_photos() -> None:
    rng = np.random.default_rng(0)
    inner = poincare.expmap0(rng.normal(size=(50, 4)) * 0.5, C)
    points = poincare.expmap0(rng.normal(size=(20_000, 4)), C).astype(np.float32)
    tracemalloc.start()
    root = tree_of(points, None, None, inner, C)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert root.size == 20_000
    assert peak < 20_000**2 / 10


def test_more_leaves_than_can_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_MOST_LEAVES", 5)
    with pytest.raises(DataError, match="at most 5 leaves"):
        grown()
