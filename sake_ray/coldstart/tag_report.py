"""What stage 1a found, for people: counts by type and difficulty, agreement with a data set's own marks, a plot.

Knows nothing of how the tags came about. Always holds: `report.json` has every number that `report.md` and the
table show; counts add up to the number of entities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sake_ray.coldstart.difficulty import EntityTag, post_difficulty
from sake_ray.coldstart.teaching import Need
from sake_ray.data.json_files import write_json
from sake_ray.types import Difficulty, Example

ORDER = (Difficulty.KNOWN, Difficulty.AMBIGUOUS, Difficulty.UNKNOWN)
_COLUMN = 12


@dataclass(frozen=True)
class TagReport:
    """Counts over tagged posts.

    Attributes:
        by_type: type → difficulty → entities.
        by_search: the released tag → entities.
        posts: hardest entity's difficulty → posts.
        hits: hits of n → entities, for the paper's count and the two of the released tag.
        marks: the data set's own mark → difficulty → entities; empty where it has none.
        marks_by_type: the same with difficulty by types alone (tags.known_by=type).
    """

    n: int
    malformed: int
    sampled: int
    by_type: Mapping[str, Mapping[str, int]]
    by_search: Mapping[str, int]
    posts: Mapping[str, int]
    hits: Mapping[str, Mapping[int, int]]
    marks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    marks_by_type: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, examples: Sequence[Example], tags: Sequence[Sequence[EntityTag]], tagged: Sequence[Example],
        *, n: int, malformed: int,
    ) -> TagReport:  # fmt: skip
        """Count. `examples` carry the data set's own marks, `tagged` the difficulties of the tags."""
        pairs = [
            (entity, tag)
            for example, found in zip(examples, tags, strict=True)
            for entity, tag in zip(example.entities, found, strict=True)
        ]
        types, marks = sorted({entity.type for entity, _ in pairs}), {e.difficulty for e, _ in pairs if e.difficulty}
        counts = {
            "hits": Counter(tag.hits for _, tag in pairs),
            "hit_text": Counter(tag.hit_text for _, tag in pairs),
            "hit_image": Counter(tag.hit_image for _, tag in pairs),
        }
        hardest = Counter(post_difficulty(example) for example in tagged)
        return cls(
            n=n,
            malformed=malformed,
            sampled=n * len(examples),
            by_type={kind: _by_difficulty(tag for e, tag in pairs if e.type == kind) for kind in types},
            by_search={str(need): sum(tag.is_search is need for _, tag in pairs) for need in Need},
            posts={str(d): hardest[d] for d in ORDER} | {"no entity": hardest[None]},
            hits={name: {k: count[k] for k in range(n + 1)} for name, count in counts.items()},
            marks={m: _by_difficulty(tag for e, tag in pairs if e.difficulty is m) for m in ORDER if m in marks},
            marks_by_type={
                m: _by_difficulty((tag for e, tag in pairs if e.difficulty is m), "type") for m in ORDER if m in marks
            },
        )

    def agreement(self, known_by: str = "whole") -> dict[str, dict[str, float]]:
        """Precision and recall of `known` and `unknown` against the data set's own marks, of those it has.

        The precision of what was never said is 0: a tag that finds none of its entities does not go unseen.
        """
        result = {}
        marks = self.marks_by_type if known_by == "type" else self.marks
        for name in (str(Difficulty.KNOWN), str(Difficulty.UNKNOWN)):
            said = sum(row[name] for row in marks.values())
            true = sum(marks.get(name, {}).values())
            right = marks.get(name, {}).get(name, 0)
            if true:
                result[name] = {"precision": right / max(said, 1), "recall": right / true}
        return result

    def table(self) -> str:
        """The counts as aligned text."""
        heads = [str(difficulty) for difficulty in ORDER]
        lines = [_line("entities", [*heads, "all"])]
        total = Counter[str]()
        for kind, row in self.by_type.items():
            total.update(row)
            lines.append(_line(kind, [*(row[name] for name in heads), sum(row.values())]))
        lines.append(_line("all types", [*(total[name] for name in heads), total.total()]))
        lines.append(_line("posts", [*(self.posts[name] for name in heads), sum(self.posts.values())]))
        lines.append(f"answers that did not parse: {self.malformed} of {self.sampled}")
        lines.append("search tags: " + ", ".join(f"{name} {count}" for name, count in self.by_search.items()))
        for mark, row in self.marks.items():
            lines.append(_line(f"marked {mark}", [*(row[name] for name in heads), sum(row.values())]))
        for known_by, words in (("whole", "by whole entities"), ("type", "by types alone")):
            for name, scores in self.agreement(known_by).items():
                numbers = f"precision {scores['precision']:.3f}, recall {scores['recall']:.3f}"
                lines.append(f"tag {name}, {words}: {numbers}")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """`hits.png`, `report.md` and, last and whole, `report.json`: where that is, the stage is done."""
        self._draw(folder / "hits.png")
        text = f"# Difficulty tags, n = {self.n}\n\n```\n{self.table()}```\n\n![counts of hits](hits.png)\n"
        (folder / "report.md").write_text(text, encoding="utf-8")
        content: dict[str, Any] = {
            **vars(self),
            "agreement": self.agreement(),
            "agreement_by_type": self.agreement("type"),
        }
        write_json(folder / "report.json", content)

    def _draw(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        titles = {"hits": "whole entity", "hit_text": "text and type", "hit_image": "text and box"}
        figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), sharey=True, constrained_layout=True)
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            axis.bar(list(self.hits[name]), list(self.hits[name].values()))
            axis.set_title(f"{title} right")
            axis.set_xlabel(f"of {self.n} samples")
            axis.set_xticks(range(self.n + 1))
        axes[0].set_ylabel("entities")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _by_difficulty(tags: Iterable[EntityTag], known_by: str = "whole") -> dict[str, int]:
    counts = Counter(tag.difficulty_by(known_by) for tag in tags)
    return {str(difficulty): counts[difficulty] for difficulty in ORDER}


def _line(name: str, cells: Sequence[object]) -> str:
    return f"{name:<24}" + "".join(f"{cell!s:>{_COLUMN}}" for cell in cells)
