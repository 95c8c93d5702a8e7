"""Loads a split of a data set from its folder, whichever of the known layouts lies there.

Layouts: `SPLIT.jsonl` or `SPLIT.json` (released gold), `txt/SPLIT.txt` (FMNERG: `txt_fine/`) with `xml/` (the
original release), `SPLIT.parquet` (the RL release). Pictures lie in `images/` beside them unless `image_dir`
says otherwise. Knows nothing of what is inside the files. Always holds: exactly one layout matches, or the
error lists what was looked for.
"""

from __future__ import annotations

from pathlib import Path

from sake_ray.data.nustm import nustm_posts
from sake_ray.data.parquet import parquet_posts
from sake_ray.data.problems import DataError, LoadResult, OnBad, ProblemLog
from sake_ray.data.released import released_posts
from sake_ray.data.resolve import Images, ReadOptions, to_examples

SPLITS = ("train", "dev", "test")


def load_split(
    root: Path | str,
    split: str,
    *,
    task: str = "gmner",
    subset: str = "all",
    images: Images = "files",
    image_dir: Path | str | None = None,
    on_bad: OnBad = "stop",
    max_examples: int = 0,
) -> LoadResult:
    """The posts of one split; the arguments are the fields of the `data.` config section.

    `image_dir` empty or None means `images/` in `root`; `max_examples` 0 means all (every post is checked
    either way).

    Raises:
        DataError: no or several layouts match, an option is unknown, a file breaks a rule under
            `on_bad="stop"`, a picture is missing, or no post is left.
    """
    folder = Path(root)
    if split not in SPLITS:
        raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise DataError(f"data.root={folder}: no such folder")
    options = ReadOptions(
        task=task,
        subset=subset,
        images=images,
        image_dir=Path(image_dir) if image_dir else folder / "images",
        on_bad=on_bad,
        max_examples=max_examples,
    )
    candidates = [
        folder / f"{split}.jsonl",
        folder / f"{split}.json",
        folder / ("txt_fine" if task == "fmnerg" else "txt") / f"{split}.txt",
        folder / f"{split}.parquet",
    ]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        looked = ", ".join(str(path.relative_to(folder)) for path in candidates)
        what = " and ".join(path.name for path in found) if found else "nothing"
        hint = "keep one" if found else f"the folder has: {_listing(folder)}"
        raise DataError(f"data.root={folder}: looked for {looked} and found {what}; {hint}")
    path = found[0]
    if path.suffix == ".txt":
        return read_nustm(path, folder / "xml", options)
    return read_parquet(path, options) if path.suffix == ".parquet" else read_released(path, options)


def read_released(path: Path, options: ReadOptions | None = None) -> LoadResult:
    """A released gold file (JSON list or JSON lines).

    Raises:
        DataError: as `load_split`.
    """
    options = options or ReadOptions()
    log = ProblemLog(options.on_bad)
    posts = released_posts(path, options.task, log)
    return to_examples(posts, log, options, source=path, image_dir=_image_dir(path.parent, options))


def read_nustm(path: Path, xml_dir: Path, options: ReadOptions | None = None) -> LoadResult:
    """A CoNLL file and its folder of XML annotations.

    Raises:
        DataError: as `load_split`.
    """
    options = options or ReadOptions()
    log = ProblemLog(options.on_bad)
    posts = nustm_posts(path, xml_dir, options.task, log)
    return to_examples(posts, log, options, source=path, image_dir=_image_dir(xml_dir.parent, options))


def read_parquet(path: Path, options: ReadOptions | None = None) -> LoadResult:
    """An RL parquet of the release.

    Raises:
        DataError: as `load_split`.
    """
    options = options or ReadOptions()
    log = ProblemLog(options.on_bad)
    posts = parquet_posts(path, options.task, log)
    return to_examples(posts, log, options, source=path, image_dir=_image_dir(path.parent, options))


def _image_dir(beside: Path, options: ReadOptions) -> Path:
    return options.image_dir if options.image_dir is not None else beside / "images"


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "") if names else "nothing"
