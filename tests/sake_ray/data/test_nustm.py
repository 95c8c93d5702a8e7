"""The original CoNLL + XML layout gives the same examples as the gold rows made from it, and bad files say where."""

from __future__ import annotations

from pathlib import Path

import pytest

from sake_ray.data.loading import load_split
from sake_ray.data.problems import DataError
from sake_ray.types import Box, Entity

TEXT = (
    "IMGID:O_1\nAnn\tB-PER\nLee\tI-PER\nmet\tO\nAnn\tB-PER\nLee\tI-PER\nat\tO\nExpo\tB-OTHER\n\nIMGID:77\nnothing\tO\n"
)
XML = """<annotation><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>Ann Lee</name><bndbox><xmin>0</xmin><ymin>1</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
</annotation>"""


def _write(folder: Path, text: str = TEXT, xml: str = XML, texts: str = "txt") -> Path:
    for name in (texts, "xml"):
        (folder / name).mkdir(exist_ok=True)
    (folder / texts / "train.txt").write_text(text)
    (folder / "xml" / "O_1.xml").write_text(xml)
    return folder


def test_a_box_goes_to_every_mention_of_its_name_and_no_xml_means_no_boxes(tmp_path: Path) -> None:
    first, second = load_split(_write(tmp_path), "train", images="standin").examples
    ann = Entity("Ann Lee", "PER", (Box(0, 1, 20, 30),))
    assert first.entities == (ann, ann, Entity("Expo", "MISC"))
    assert (first.text, first.image.width, first.image.height) == ("Ann Lee met Ann Lee at Expo", 40, 30)
    assert (second.id, second.entities) == ("77", ())


def test_windows_line_ends_and_a_missing_last_blank_line_change_nothing(tmp_path: Path) -> None:
    expected = load_split(_write(tmp_path), "train", images="standin").examples
    text = TEXT.rstrip("\n").replace("\n", "\r\n")
    assert load_split(_write(tmp_path, text), "train", images="standin").examples == expected


def test_fine_types_have_two_tag_columns(tmp_path: Path) -> None:
    text = "IMGID:O_1\nAnn\tB-person\tB-actor\nLee\tI-person\tI-actor\n"
    _write(tmp_path, text, texts="txt_fine")
    (example,) = load_split(tmp_path, "train", task="fmnerg", images="standin").examples
    assert example.entities == (Entity("Ann Lee", "actor", (Box(0, 1, 20, 30),), coarse_type="person"),)
    _write(tmp_path, text.replace("I-person", "O"), texts="txt_fine")
    with pytest.raises(DataError, match=r"train\.txt:1: line 3: coarse and fine tag disagree"):
        load_split(tmp_path, "train", task="fmnerg", images="standin")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("met\tO", "met\tI-PER\nagain\tI-LOC", r"line 5: tag 'I-LOC' continues nothing"),
        ("met\tO", "met\tX-PER", r"line 4: 'X-PER' is not a tag"),
        ("B-OTHER", "B-THING", r"line 8: 'THING' is not one of the 4 types"),
        ("met\tO", "met", r"line 4: 1 columns; data.task=gmner has 2"),
        ("met\tO", "met\tO\tO", r"line 4: 3 columns"),
        ("IMGID:O_1", "IMGID:../O_1", "IMGID:: '../O_1' is not a plain file name"),
        ("nothing\tO\n", "", "tokens: must be a list of 1 to"),
    ],
)
def test_bad_text_is_named_by_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    _write(tmp_path, TEXT.replace(old, new))
    with pytest.raises(DataError, match=r"train\.txt:\d+: " + says):
        load_split(tmp_path, "train", images="standin")
    result = load_split(tmp_path, "train", images="standin", on_bad="skip")
    assert (len(result.examples), len(result.problems)) == (1, 1)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<name>Ann Lee", "<name>Ann", "object\\[0\\]/name: 'Ann' is no mention of the post.*'Ann Lee'"),
        ("<xmax>20", "<xmax>41", "object\\[0\\]/bndbox: box .* outside the image"),
        ("<xmax>20</xmax>", "", "object\\[0\\]/bndbox/xmax: must occur once"),
        ("<xmin>0", "<xmin>zero", "object\\[0\\]/bndbox/xmin: .*'zero'"),
        ("<width>40", "<width>0", "size: 0 x 30 is no image size"),
        ("</annotation>", "", "xml: broken XML"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', "xml: declares a document type"),
        ("<object>", "<a>" * 20 + "</a>" * 20 + "<object>", "xml: nested deeper"),
    ],
)
def test_bad_annotations_are_named_by_their_own_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    _write(tmp_path, xml=XML.replace(old, new))
    with pytest.raises(DataError, match=r"O_1\.xml:1: " + says):
        load_split(tmp_path, "train", images="standin")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-7", "cp037"])
def test_a_document_type_does_not_hide_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    """Its entity would otherwise become part of a name, and a nest of entities would fill the memory."""
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "Ann Lee">]>'
    folder = _write(tmp_path)
    (folder / "xml" / "O_1.xml").write_bytes((text + XML.replace("<name>Ann Lee", "<name>&b;")).encode(encoding))
    with pytest.raises(DataError, match=r"O_1\.xml:1: xml: (not UTF-8|broken XML|declares a document type)"):
        load_split(folder, "train", images="standin")


def test_a_byte_order_mark_and_a_declared_encoding_change_nothing(tmp_path: Path) -> None:
    expected = load_split(_write(tmp_path), "train", images="standin").examples
    content = f'<?xml version="1.0" encoding="utf-16"?>{XML}'.encode("utf-8-sig")
    (tmp_path / "xml" / "O_1.xml").write_bytes(content)
    assert load_split(tmp_path, "train", images="standin").examples == expected


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    (_write(tmp_path) / "xml" / "O_1.xml").unlink()
    (tmp_path / "xml").rmdir()
    with pytest.raises(DataError, match="xml: no such folder; the boxes"):
        load_split(tmp_path, "train", images="standin")
