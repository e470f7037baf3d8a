"""Is the hierarchy real? Every score beside what chance and what plain clustering would give.

Four columns, each an answer to a doubt:

- ``encoder``: the tree of the hierarchical proxies over these pictures, and their rankings.
- ``random proxies``: what proxies decide by themselves, with proxies at the same radii but in
  random directions, mean of several draws. Proxies that learned something do better. (The joins of
  the tree that hier shows come from average linkage, so purity at a level and ``lca_correlation``
  of that tree would be much the same with any proxies.)
- ``average linkage``: clustering of the same points without any proxy.
- ``permuted taxonomy``: the encoder against a taxonomy whose classes were exchanged at random,
  mean of several; what is reached by having classes at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hiercli.collection import Collection
from hiercli.errors import DataError
from hiercli.evaluation import relevance, taxonomy
from hiercli.geometry import poincare
from hiercli.hierarchy import build
from hiercli.hierarchy.depth import ancestor_radius, class_middles, nearest_proxy, proxy_joins
from hiercli.hierarchy.node import joins

ENCODER, RANDOM, LINKAGE, PERMUTED = COLUMNS = (
    "encoder", "random proxies", "average linkage", "permuted taxonomy",
)  # fmt: skip
LOWER_IS_BETTER = ("severity", "delta_hyperbolicity")
_DRAWS = 5
_MOST_PHOTOS = 2000
"""Photos that are clustered one by one: average linkage needs their square."""
_DELTA_PHOTOS = 300

Progress = Callable[[int, int], None]
Scores = dict[str, float]


@dataclass(frozen=True)
class Judgement:
    """Scores by column and name.

    Attributes:
        columns: column -> name -> score; a column lacks the scores that it has nothing to say on.
            See `taxonomy` and `relevance` for most of them. Beyond these: ``proxies_purity@level``
            and ``proxies_correlation`` are purity and correlation of heights of the tree that
            proxies make by themselves, see `depth.proxy_joins`; ``photo_purity`` and
            ``nmi`` are dendrogram purity and normalised mutual information of classes in the tree
            over photos whose leaves are the proxies; ``ancestor_depth`` is the Spearman
            correlation, over pairs of classes, of how near the origin their common ancestor lies
            (HIER, equation 6) and the height of theirs in the taxonomy; ``delta_hyperbolicity``
            is Gromov's delta of the distances, twice, over their diameter: 0 in a tree.
        num_classes: classes that were judged.
        num_photos: photos that were.
        unknown: classes that the taxonomy does not know, left out.
    """

    columns: dict[str, Scores]
    num_classes: int
    num_photos: int
    unknown: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Scores in order, each once."""
        return list(dict.fromkeys(name for scores in self.columns.values() for name in scores))


def judge(
    points: np.ndarray,
    labels: Sequence[str],
    lineages: Mapping[str, Sequence[str]],
    levels: Sequence[str],
    *,
    c: float | None,
    proxies: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judgement:
    """Hold embedded photos against a taxonomy, beside the controls.

    Args:
        points: (N, D).
        labels: N class names.
        lineages: groups of each class, fine to coarse; photos of other classes are left out.
        levels: names of the levels; without any, only what needs the classes alone is judged.
        c: curvature magnitude, or ``None`` for plain features under the cosine.
        proxies: (P, D) hierarchical proxies; without them there is no tree of theirs.
        seed: of random proxies, permutations and samples.
        progress: called with (done, total) steps.

    Raises:
        DataError: fewer than three classes are known, or the taxonomy cannot tell them apart.
    """
    known = np.array([not levels or name in lineages for name in labels], bool)
    unknown = tuple(sorted({name for name, is_known in zip(labels, known, strict=True)
                            if not is_known}))  # fmt: skip
    points = points[known]
    labels = [name for name, is_known in zip(labels, known, strict=True) if is_known]
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(names) < (3 if levels else 2):
        raise DataError(
            f"expected {'at least three classes of the taxonomy' if levels else 'classes'}, found "
            f"{len(names)}"
            + (f"; not in the taxonomy: {', '.join(unknown[:3])}" if unknown else "")
        )
    rng = np.random.default_rng(seed)
    usable = proxies if c is not None and proxies is not None and len(proxies) else None
    judged = _Judged(points, [str(name) for name in names], codes, c)
    columns: dict[str, Scores] = {column: {} for column in COLUMNS}
    done, steps = 0, _DRAWS + 3

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps)

    lines = [lineages[name] for name in judged.names] if levels else []
    orders = [np.arange(len(lines)), *(rng.permutation(len(lines)) for _ in range(_DRAWS))]
    if levels:
        permuted = [[lines[place] for place in order] for order in orders]
        scored = [judged.against(some, levels, usable) for some in permuted]
        ranked = relevance.score_each(
            points, codes, [taxonomy.lca_heights(some) for some in permuted], c=c
        )
        whole = [own | ranks.to_dict() for own, ranks in zip(scored, ranked, strict=True)]
        columns[ENCODER], columns[PERMUTED] = whole[0], _mean(whole[1:])
        columns[LINKAGE] = judged.linkage(lines, levels)
    step()
    if usable is not None:
        columns[ENCODER] |= judged.grouping(usable)
        columns[LINKAGE] |= judged.clustered(rng)
    step()
    columns[ENCODER]["delta_hyperbolicity"] = judged.delta(rng)
    step()
    drawn: list[Scores] = []
    for _ in range(_DRAWS):
        if usable is not None:
            chance = _random_directions(usable, rng)
            own = judged.proxies(chance, lines, levels) if levels else {}
            drawn.append(own | judged.grouping(chance))
        step()
    columns[RANDOM] = _mean(drawn)
    return Judgement(
        {column: scores for column, scores in columns.items() if scores},
        len(names), len(points), unknown,
    )  # fmt: skip


class _Judged:
    """Photos and their classes, to be held against one taxonomy after the other."""

    def __init__(
        self, points: np.ndarray, names: list[str], codes: np.ndarray, c: float | None
    ) -> None:
        self.points, self.names, self.codes, self.c = points, names, codes, c
        self.labels = [names[code] for code in codes]
        self.distances = taxonomy.class_distances(points, self.labels, names, c)
        self._shown: tuple[list[list[int]], np.ndarray] | None = None
        self._middles: np.ndarray | None = None

    def _collection(self, proxies: np.ndarray, labels: list[str] | None) -> Collection:
        return Collection(points=self.points, labels=labels, c=self.c, proxies=proxies)

    def against(
        self, lines: list[Sequence[str]], levels: Sequence[str], proxies: np.ndarray | None
    ) -> Scores:
        """What a taxonomy can say of the encoder, but for rankings."""
        scores = self.linkage(lines, levels)  # of the tree that is shown where there are no proxies
        if proxies is not None:
            scores |= self.tree(proxies, lines, levels) | self.proxies(proxies, lines, levels)
        nearer = taxonomy.triplet_accuracy(self.distances, taxonomy.lca_heights(lines))
        return scores | {"triplet_accuracy": nearer}

    def linkage(self, lines: list[Sequence[str]], levels: Sequence[str]) -> Scores:
        """Clustering of the classes without proxies."""
        found = taxonomy.judge(self.distances, lines, levels)
        return _tree_scores(found.purity, found.correlation)

    def tree(
        self, proxies: np.ndarray, lines: list[Sequence[str]], levels: Sequence[str]
    ) -> Scores:
        """How far the tree that hier shows agrees with a taxonomy."""
        assert self.c is not None
        if self._shown is None:
            root = build.from_images(self._collection(proxies, self.labels))
            leaves = {node.name: node.id for node in root.leaves}
            self._shown = joins(root, [leaves[name] for name in self.names])
        return _tree_scores(*self._agreement(*self._shown, lines, levels))

    def proxies(
        self, proxies: np.ndarray, lines: list[Sequence[str]], levels: Sequence[str]
    ) -> Scores:
        """How far the tree of proxies alone, and the depth of common ancestors, agree with it."""
        assert self.c is not None
        if self._middles is None:
            self._middles = class_middles(self.points, self.labels, self.names, self.c)
        purity, correlation = self._agreement(
            *proxy_joins(self._middles, proxies, self.c), lines, levels
        )
        depth = ancestor_radius(self._middles, proxies, self.c)
        upper = np.triu_indices(len(lines), 1)
        return {
            **{f"proxies_purity@{level}": value for level, value in purity.items()},
            "proxies_correlation": correlation,
            "ancestor_depth": taxonomy.correlation(
                -depth[upper], taxonomy.lca_heights(lines)[upper]
            ),
        }

    def _agreement(
        self,
        members: list[list[int]],
        heights: np.ndarray,
        lines: list[Sequence[str]],
        levels: Sequence[str],
    ) -> tuple[dict[str, float], float]:
        upper = np.triu_indices(len(lines), 1)
        met = taxonomy.joined_at(members, heights, len(lines))
        correlation = taxonomy.correlation(met[upper], taxonomy.lca_heights(lines)[upper])
        return taxonomy.purities(members, lines, levels), correlation

    def grouping(self, proxies: np.ndarray) -> Scores:
        """How far the proxies part photos by class, with no word of a taxonomy."""
        assert self.c is not None
        which = nearest_proxy(self.points, proxies, self.c)
        alive, groups = np.unique(which, return_inverse=True)
        counts = np.zeros((len(alive), len(self.names)))
        np.add.at(counts, (groups, self.codes), 1)
        scores = {"nmi": _mutual_information(counts)}
        if len(alive) > 1:
            root = build.from_images(self._collection(proxies, None))
            members, _ = joins(root, [f"group {proxy}" for proxy in alive])
            scores["photo_purity"] = taxonomy.dendrogram_purity(members, counts)
        return scores

    def clustered(self, rng: np.random.Generator) -> Scores:
        """Average linkage of the photos themselves."""
        from scipy.cluster.hierarchy import average
        from scipy.spatial.distance import squareform

        assert self.c is not None
        some = rng.permutation(len(self.points))[:_MOST_PHOTOS]
        counts = np.eye(len(self.names))[self.codes[some]]
        if counts.sum(axis=0).max() < 2:
            return {}
        wide = self.points[some].astype(np.float64)
        flat = squareform(poincare.pairwise_dist(wide, wide, self.c), checks=False)
        tree = average(flat)[:, :2].astype(int)
        return {"photo_purity": taxonomy.dendrogram_purity(tree, counts)}

    def delta(self, rng: np.random.Generator) -> float:
        """Gromov's delta by the four-point condition from one base point, doubled, over diameter.

        Fournier, Ismail and Vigneron, "Computing the Gromov hyperbolicity of a discrete metric
        space" (2015): the max-min product of the Gromov products.
        """
        some = rng.permutation(len(self.points))[:_DELTA_PHOTOS]
        wide = self.points[some].astype(np.float64)
        if self.c is None:
            wide /= np.linalg.norm(wide, axis=1, keepdims=True).clip(1e-12)
            far = np.sqrt((2 - 2 * wide @ wide.T).clip(0))
        else:
            far = poincare.pairwise_dist(wide, wide, self.c)
        np.fill_diagonal(far, 0)
        product = (far[:1] + far[:, :1] - far) / 2
        best = np.stack([np.minimum(row[:, None], product).max(axis=0) for row in product])
        diameter = float(far.max())
        return float(2 * (best - product).max() / diameter) if diameter else 0.0


def _tree_scores(purity: Mapping[str, float], correlation: float) -> Scores:
    """Agreement of the tree of a column with the taxonomy, by name."""
    return {
        **{f"purity@{level}": value for level, value in purity.items()},
        "lca_correlation": correlation,
    }


def _random_directions(proxies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    direction = rng.standard_normal(proxies.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    placed: np.ndarray = direction * np.linalg.norm(
        proxies.astype(np.float64), axis=1, keepdims=True
    )
    return placed


def _mean(scores: Sequence[Scores]) -> Scores:
    names = dict.fromkeys(name for one in scores for name in one)
    return {name: float(np.mean([one[name] for one in scores if name in one])) for name in names}


def _mutual_information(counts: np.ndarray) -> float:
    """Normalised by the mean of the two entropies; 0 where both partitions are one group."""
    joint = counts / counts.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)

    def entropy(shares: np.ndarray) -> float:
        some = shares[shares > 0]
        return float(-(some * np.log(some)).sum())

    both = entropy(rows) + entropy(columns)
    return 2 * (both - entropy(joint)) / both if both > 0 else 0.0
