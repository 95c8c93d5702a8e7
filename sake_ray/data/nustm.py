"""Reads the original layout of the data sets: CoNLL text and one PASCAL-VOC XML file per annotated picture.

Text: an `IMGID:<id>` line, then `token<TAB>tag` lines (FMNERG: `token<TAB>coarse tag<TAB>fine tag`), a blank
line after each post; tags are BIO, and OTHER is our MISC. XML: `size`, and one `object` per box with the
`name` of the mention it shows and a `bndbox`. Knows nothing of pictures. Always holds: a post without an XML
file has no boxes and no recorded size; a box goes to every mention whose text is the object's name (what the
converted gold does too); a name that is no mention of the post is a problem, never dropped.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sake_ray.data import gold
from sake_ray.data.json_files import read_text
from sake_ray.data.problems import DataError, FieldError, Problem, ProblemLog
from sake_ray.types import Box

MAX_XML_BYTES = 256 * 1024
MAX_XML_DEPTH = 8
_MARK = "IMGID:"
_RENAMED = {"OTHER": "MISC"}


@dataclass(frozen=True, slots=True)
class _Block:
    """The lines of one post: its id, the line that says it, and (line number, columns) of its tokens."""

    id: str
    line: int
    rows: tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Mention:
    span: gold.Span
    text: str
    type: str
    coarse_type: str


def nustm_posts(text_path: Path, xml_dir: Path, task: str, log: ProblemLog) -> Iterator[gold.GoldPost]:
    """The good posts of a CoNLL file with the boxes of `xml_dir`; bad ones go to `log`.

    Raises:
        DataError: the text file or the XML folder is missing, or `log` stops at the first problem.
    """
    if not xml_dir.is_dir():
        raise DataError(f"{xml_dir}: no such folder; the boxes of {text_path.name} belong there, one XML a picture")
    for block in _blocks(text_path):
        try:
            yield _post(block, text_path, xml_dir, task)
        except _XmlError as error:
            log.add(Problem(str(error.path), 1, error.field, error.message))
        except FieldError as error:
            log.add(Problem(str(text_path), block.line, error.field, error.message))


class _XmlError(FieldError):
    """A rule broken in the XML file rather than in the text."""

    def __init__(self, path: Path, field_name: str, message: str) -> None:
        super().__init__(field_name, message)
        self.path = path


def _blocks(path: Path) -> Iterator[_Block]:
    post_id, start = "", 0
    rows: list[tuple[int, tuple[str, ...]]] = []
    for number, raw in enumerate(read_text(path).split("\n"), start=1):
        line = raw.rstrip("\r")
        if line.startswith(_MARK):
            if start:
                yield _Block(post_id, start, tuple(rows))
            post_id, start, rows = line[len(_MARK) :].strip(), number, []
        elif line.strip():
            if not start:
                raise DataError(f"{path}:{number}: {_MARK}: tokens before the first {_MARK} line; is it CoNLL?")
            rows.append((number, tuple(line.split("\t"))))
    if start:
        yield _Block(post_id, start, tuple(rows))


def _post(block: _Block, text_path: Path, xml_dir: Path, task: str) -> gold.GoldPost:
    image_name, post_id = gold.image_name_and_id(block.id, _MARK)
    columns = 3 if task == "fmnerg" else 2
    for number, row in block.rows:
        if len(row) != columns:
            raise FieldError(f"line {number}", f"{len(row)} columns; data.task={task} has {columns}, separated by tabs")
    tokens = gold.check_tokens([row[0] for _, row in block.rows])
    mentions = _mentions(block, tokens, task)
    size: gold.Size | None = None
    boxes: dict[str, tuple[Box, ...]] = {}
    xml_path = xml_dir / f"{post_id}.xml"
    if xml_path.is_file():
        size, boxes = _read_xml(xml_path, {mention.text for mention in mentions})
    rows = []
    for mention in mentions:
        for box in boxes.get(mention.text, (None,)):
            rows.append(
                gold.GoldRow(
                    f"mention at {mention.span}", mention.span, mention.text, mention.type, mention.coarse_type, box
                )
            )
    entities = gold.entities_of(rows)
    return gold.GoldPost(str(text_path), block.line, post_id, image_name, size, " ".join(tokens), entities)


def _mentions(block: _Block, tokens: Sequence[str], task: str) -> list[_Mention]:
    spans: list[tuple[int, int, str, str]] = []
    previous = ("O", "", "")
    for at, (number, row) in enumerate(block.rows):
        tag = _tag(row[1:], number)
        mark, kind, coarse = tag
        if mark == "B":
            spans.append((at, at, kind, coarse))
        elif mark == "I":
            if previous[0] == "O" or previous[1:] != tag[1:]:
                raise FieldError(f"line {number}", f"tag {row[-1]!r:.40} continues nothing: B-{kind} must come first")
            spans[-1] = (spans[-1][0], at, kind, coarse)
        previous = tag
    mentions = []
    for start, end, kind, coarse in spans:
        field = f"line {block.rows[start][0]}"
        known = gold.check_type(_RENAMED.get(kind, kind) if task == "gmner" else kind, task, field)
        parent = gold.check_coarse(coarse or None, known, task, field)
        mentions.append(_Mention((start, end), " ".join(tokens[start : end + 1]), known, parent))
    return mentions


def _tag(columns: Sequence[str], number: int) -> tuple[str, str, str]:
    """(B, I or O; type; coarse type or "") of a token's tag columns."""
    marks, kinds = [], []
    for column in columns:
        mark, dash, kind = column.strip().partition("-")
        if mark not in ("B", "I", "O") or bool(dash) != (mark != "O") or (dash and not kind):
            raise FieldError(f"line {number}", f"{column!r:.40} is not a tag (O, B-TYPE or I-TYPE)")
        marks.append(mark)
        kinds.append(kind)
    if len(set(marks)) != 1:
        raise FieldError(f"line {number}", f"coarse and fine tag disagree: {' '.join(columns)!r:.80}")
    return marks[0], kinds[-1], kinds[0] if len(kinds) == 2 else ""


def _read_xml(path: Path, names: set[str]) -> tuple[gold.Size, dict[str, tuple[Box, ...]]]:
    """The recorded size and the boxes by mention text."""
    try:
        root = _parse_xml(path)
        size = gold.check_size([_number(root, f"size/{side}") for side in ("width", "height")], "size")
        assert size is not None
        boxes: dict[str, tuple[Box, ...]] = {}
        for at, item in enumerate(root.iterfind("object")):
            box = _box(item, size, f"object[{at}]")
            found = [" ".join((name.text or "").split()) for name in item.iterfind("name")]
            if not found:
                raise FieldError(f"object[{at}]/name", "is missing")
            for name in found:
                if name not in names:
                    known = ", ".join(repr(one) for one in sorted(names)) or "none"
                    message = f"{name!r:.80} is no mention of the post (mentions: {known:.400})"
                    raise FieldError(f"object[{at}]/name", message)
                boxes[name] = (*boxes.get(name, ()), box)
    except FieldError as error:
        raise _XmlError(path, error.field, error.message) from error
    return size, boxes


def _box(item: ElementTree.Element, size: gold.Size, where: str) -> Box:
    corners = [_number(item, f"bndbox/{corner}", f"{where}/") for corner in ("xmin", "ymin", "xmax", "ymax")]
    box = gold.check_box(corners, size, f"{where}/bndbox")
    assert box is not None
    return box


def _number(element: ElementTree.Element, path: str, where: str = "") -> int:
    found = element.findall(path)
    text = (found[0].text or "").strip() if len(found) == 1 else ""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 6):
        raise FieldError(f"{where}{path}", f"must occur once, a whole number (found {len(found)}: {text!r:.40})")
    return int(text)


def _parse_xml(path: Path) -> ElementTree.Element:
    data = path.read_bytes()
    if len(data) > MAX_XML_BYTES:
        raise FieldError("xml", f"{len(data)} bytes are more than the {MAX_XML_BYTES} an annotation may have")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FieldError("xml", f"not UTF-8 (byte {error.start}: {error.reason}); re-encode it") from error
    # In another encoding that the parser knows, a document type would not look like one here. Given text, the parser
    # takes no heed of a declared encoding, but it still goes by the zero bytes of UTF-16.
    if "\0" in text:
        raise FieldError("xml", "not UTF-8 (it holds zero bytes); re-encode it")
    if "<!" in text.replace("<!--", ""):
        raise FieldError("xml", "declares a document type or entities; annotations have none")
    depth = 0
    root: ElementTree.Element | None = None
    try:
        for event, element in ElementTree.iterparse(io.StringIO(text), events=("start", "end")):
            root = element if root is None else root
            depth += 1 if event == "start" else -1
            if depth > MAX_XML_DEPTH:
                raise FieldError("xml", f"nested deeper than {MAX_XML_DEPTH} levels")
    except ElementTree.ParseError as error:
        raise FieldError("xml", f"broken XML: {error}") from error
    if root is None or root.tag != "annotation":
        raise FieldError("xml", "the outermost element is not <annotation>")
    return root
