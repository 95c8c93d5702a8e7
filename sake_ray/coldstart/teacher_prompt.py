"""What a model that teaches is told in secret about a post, and which words of its turns would betray that.

Knows nothing of endpoints or of how an episode is run. Always holds: a template is checked when it is loaded and
filled in one pass; the answer in it is exactly one that the checker takes; words of the post, of the instruction and
of the answer itself betray nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sake_ray.coldstart.teaching import Brief, Need, TaughtTurn
from sake_ray.data.images import processed_size, to_processed
from sake_ray.observation_text import clean_text
from sake_ray.prompts import TASKS, PromptError, read_template
from sake_ray.types import SearchKind

MAX_FEEDBACK_CHARS = 1_000
LEAK_WORDS = 8
"""So many words of the hidden instructions in a row are no accident."""

LEAK_PHRASES = (
    # Told, or forbidden.
    r"I(?:'m| am| was| were|'ve been| have been| had been) (?:told|instructed|informed|supposed to|forbidden to)",
    r"I(?:'m| am| was)? not supposed to",
    r"(?:not|never) (?:allowed|permitted|meant) to (?:know|say|tell|reveal|mention|admit|let)",
    r"I (?:must|should|may|can|shall|will)(?: ?not|n't) (?:reveal|mention|disclose|let on|admit|betray|give away)",
    r"as (?:I (?:was|am|have been|'ve been) )?instructed",
    r"as directed(?! by)",
    r"as I (?:was|am|have been|'ve been) (?:told|asked|directed)",
    r"(?:according to|following|per|by|follow|obey) (?:the|my|these|those|your) (?:hidden |secret |system )?"
    r"(?:instructions?|brief|guidelines?|directives?|solution|annotations?)",
    r"(?:the|my|these|those|your) (?:instructions?|brief|prompt|system message)"
    r" (?:says?|tells?|told|states?|wants?|requires?|asks?|forbids?|demands?|marks?|lists?)",
    r"(?:hidden|secret|confidential|private) (?:instruction|prompt|rule|guideline|brief|note|hint|solution|answer)s?",
    r"system (?:prompt|message|instruction)s?",
    # The answer, given.
    r"gold(?:en)? (?:answers?|annotations?|entity|entities|labels?)",
    r"ground[- ]?truths?",
    r"(?:reference|provided|supplied|expected|predetermined|prescribed) (?:final )?"
    r"(?:answer|solution|output|annotation|label)s?",
    r"(?:target|required|desired|given|known) (?:final )?(?:answer|solution|output|annotation)s?",
    r"(?:the|this) (?:answer|solution|list)(?: that)?(?: I)?"
    r" (?:was|is|were|am|have been|has been|had been) (?:given|provided|supplied|told|shown)",
    r"I(?:'m| am| was|'ve been| have been) given (?:the |this |an )?(?:answer|solution|labels?|type|box)",
    r"answer (?:key|sheet)",
    r"the (?:solution|answer) (?:says?|states?|tells?|shows?)",
    r"the solution (?:lists?|gives?|has|contains?|marks?)",
    r"(?:provided|supplied|reference|annotated) (?:bounding )?(?:box|boxes|coordinates)",
    r"annotat(?:ed|ions?|ors?) (?:as|says?|gives?|marks?|is|are|for)",
    r"(?:marked|labell?ed|tagged|flagged|listed) as (?:(?:an? )?(?:un)?known|ambiguous|not known|unsure)",
    # Play-acting.
    r"(?:I|we) (?:must|should|have to|need to|will|shall|am going to) (?:now )?(?:pretend|feign|simulate|act as)",
    r"(?:I'll|I'm) (?:now )?(?:pretend|pretending|feign|feigning)",
    r"pretend(?:ing|ed)?,? (?:not|that|I|ignorance|as if|as though|to (?:not|ignore|search|know|be un\w+))",
    r"(?:feign|simulat|fak)(?:e|ed|ing) (?:ignorance|uncertainty|not knowing|a search)",
    r"as (?:if|though) I (?:did not|didn't|do not|don't) know",
    r"I (?:secretly|actually|already) know (?:the (?:answer|solution|box|type)|that the answer)",
    r"(?:as|being|I'm|I am) (?:a|the) teacher model",
    r"the reader(?:'s| (?:knows?|does|doesn't|has|must|should|is|cannot|can't))",
    r"(?:for|as) (?:the )?(?:training|demonstration|teaching) (?:purposes?|data|example)",
    r"(?:last|previous|earlier|first) attempt (?:was|had been|got|has been)",
    r"attempt (?:was|got|had been|has been) rejected",
)
"""Regular expressions, case aside, of what only somebody with hidden instructions says."""

_LEAK = re.compile(rf"(?<!\w)(?:{'|'.join(f'(?:{phrase})' for phrase in LEAK_PHRASES)})(?!\w)", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>.*", re.DOTALL)
# In the hidden text: the lists in JSON, and the names between quotation marks; their words are no instructions.
_DATA = re.compile(r'^\[.*\]$|"(?:[^"\\\n]|\\.)*"', re.MULTILINE)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_PLACEHOLDERS = ("answer", "needs", "now", "feedback")
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(_PLACEHOLDERS)})\}}")
_NEARLY = re.compile(r"\{\s*(?:answers?|needs?|now|feedbacks?)\s*\}", re.IGNORECASE)
_EMPTY_LINES = re.compile(r"\n{3,}")

_KNOWLEDGE = {
    Need.NONE: "known, name and look. No query may ask for it.",
    Need.TEXT: "not known who or what this is. A text search has to tell.",
    Need.IMAGE: "known who or what this is, but not what it looks like. An image search has to show it.",
    Need.BOTH: "not known who or what this is, nor what it looks like. It takes a text search and an image search.",
}
_FREE = "the reader is not sure. Whether it searches for this is up to you."


@dataclass(frozen=True, slots=True)
class TeacherPrompt:
    """A checked template and what it needs to be filled.

    Attributes:
        template: text with `{answer}`, `{needs}`, `{now}` and `{feedback}`, once each.
        min_pixels, max_pixels: how the picture is sized for the policy, whose pixels the boxes are in.
        image_first: whether an image search must come before a text search.
        max_queries: queries one search may have.
    """

    template: str
    min_pixels: int
    max_pixels: int
    image_first: bool = False
    max_queries: int = 5

    def hidden(self, brief: Brief, turns: Sequence[TaughtTurn] = (), feedback: str = "") -> str:
        """The hidden instructions for the turn after `turns`; `feedback` says why the last attempt was rejected."""
        said = clean_text(feedback, MAX_FEEDBACK_CHARS)
        values = {
            "answer": self._answer(brief),
            "needs": _needs(brief),
            "now": self._now(brief, {turn.observation.kind for turn in turns if turn.observation is not None}),
            "feedback": f"Your last attempt at this post was rejected because: {said}. Avoid that." if said else "",
        }
        filled = _PLACEHOLDER.sub(lambda match: values[match.group(1)], self.template)
        return _EMPTY_LINES.sub("\n\n", filled)

    def _answer(self, brief: Brief) -> str:
        """Gold as the policy has to write it; of several boxes the first."""
        image = brief.example.image
        original = (image.width, image.height)
        shown = processed_size(*original, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        rows = [
            {
                "entity": clean_text(entity.text, 256),
                "type": clean_text(entity.type, 256),
                "box2d": list(to_processed(entity.boxes[0], original, shown)) if entity.boxes else [],
            }
            for entity in brief.example.entities
        ]
        return json.dumps(rows, ensure_ascii=False)

    def _now(self, brief: Brief, done: set[SearchKind]) -> str:
        """What the next turn has to be, by the needs and the searches made so far."""
        due = {kind: _names(brief, kind) for kind in SearchKind if kind not in done}
        due = {kind: names for kind, names in due.items() if names}
        free = _quoted(dict.fromkeys(_name(brief, index) for index in sorted(brief.free)))
        if not due:
            left = [kind for kind in (SearchKind.IMAGE, SearchKind.TEXT) if self._allowed(kind, done)]
            if not free or not left:
                return f"The reader answers now, without any {'further ' if done else ''}search."
            kinds = " or ".join(_a(kind) for kind in left)
            return f"The reader answers now, or first makes {kinds} for {free} alone. {self._queries()}"
        if self.image_first and SearchKind.IMAGE in due:
            due = {SearchKind.IMAGE: due[SearchKind.IMAGE]}
        asked = ", or ".join(f"{_a(kind)} for {_quoted(names)}" for kind, names in due.items())
        rest = " The other one is for the turn after." if len(due) > 1 else ""
        more = f" It may ask for {free} too." if free else ""
        return f"The reader makes {asked}.{rest}{more} {self._queries()}"

    def _allowed(self, kind: SearchKind, done: set[SearchKind]) -> bool:
        late = kind is SearchKind.IMAGE and self.image_first and SearchKind.TEXT in done
        return kind not in done and not late

    def _queries(self) -> str:
        return (
            f"At most {self.max_queries} queries in all. Each name stands in a query letter by letter as the post has "
            "it, and no query names an entity that needs no search."
        )


def load_teacher_prompt(
    task: str, *, min_pixels: int, max_pixels: int, image_first: bool = False, max_queries: int = 5, folder: str = ""
) -> TeacherPrompt:
    """The template `<task>_teacher.txt` of the package, or of `folder` when it is given.

    Raises:
        PromptError: an unknown task; a file that is missing, empty, not UTF-8 or over 64 KiB; a placeholder that is
            missing, repeated or misspelt.
    """
    if task not in TASKS:
        raise PromptError(f"data.task={task!r}: must be one of {', '.join(TASKS)}")
    root = Path(folder) if folder else Path(__file__).parents[1] / "prompts" / "teacher"
    template = _load(root / f"{task}_teacher.txt")
    return TeacherPrompt(template, min_pixels, max_pixels, image_first, max_queries)


def leaks(text: str, hidden: str, visible: str = "") -> str | None:
    """The first words of a turn that betray hidden instructions, or None.

    Args:
        text: the turn; what its answer block holds is checked elsewhere, and equals gold on purpose.
        hidden: the instructions that must not be heard of.
        visible: what the policy is shown (instruction, post, results): what stands there may be repeated.
    """
    said = _plain(_ANSWER.sub(" ", text))
    shown = _plain(visible)
    for match in _LEAK.finditer(said):
        if match.group().casefold() not in shown.casefold():
            return match.group()
    suspect = [run for run in _runs(said) if run in _secret(hidden)]
    known = frozenset(_runs(shown)) if suspect else frozenset()
    return next((" ".join(run) for run in suspect if run not in known), None)


def _load(path: Path) -> str:
    text = read_template(path)
    wanted = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
    for match in _NEARLY.finditer(text):
        if not _PLACEHOLDER.fullmatch(match.group()):
            raise PromptError(f"{path}: {match.group()!r} is no placeholder; use {wanted}")
    for name in _PLACEHOLDERS:
        if (count := text.count(f"{{{name}}}")) != 1:
            raise PromptError(f"{path}: {{{name}}} occurs {count} times; each of {wanted} must occur once")
    return text


def _needs(brief: Brief) -> str:
    lines = [
        f"- {_quoted([_name(brief, index)])}: {_FREE if index in brief.free else _KNOWLEDGE[need]}"
        for index, need in enumerate(brief.needs)
    ]
    return "\n".join(lines) or "- The post names no entity."


def _name(brief: Brief, index: int) -> str:
    return clean_text(brief.example.entities[index].text, 256)


def _names(brief: Brief, kind: SearchKind) -> list[str]:
    """What must be searched for with one tool, each name once."""
    wanted = [need.text if kind is SearchKind.TEXT else need.image for need in brief.needs]
    indices = [index for index, needed in enumerate(wanted) if needed and index not in brief.free]
    return list(dict.fromkeys(_name(brief, index) for index in indices))


def _quoted(names: Sequence[str] | dict[str, None]) -> str:
    return ", ".join(json.dumps(name, ensure_ascii=False) for name in names)


def _a(kind: SearchKind) -> str:
    return "a text search" if kind is SearchKind.TEXT else "an image search"


@functools.lru_cache(maxsize=64)
def _secret(hidden: str) -> frozenset[tuple[str, ...]]:
    """The runs of words in hidden instructions; a post's turns and tries are looked at one after another."""
    return frozenset(run for piece in _DATA.split(_plain(hidden, lines=True)) for run in _runs(piece))


def _plain(text: str, *, lines: bool = False) -> str:
    """One kind of apostrophe, one kind of blank; line ends only with `lines`."""
    text = re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", text)
    return re.sub(r"[^\S\n]+", " ", text) if lines else re.sub(r"\s+", " ", text)


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every `LEAK_WORDS` words in a row."""
    words = _WORD.findall(text.casefold())
    return (tuple(words[at : at + LEAK_WORDS]) for at in range(len(words) - LEAK_WORDS + 1))
