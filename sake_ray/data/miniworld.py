"""MiniWorld: a small open world, generated from a seed, in which only a search tells some things.

Entities have a name, a type and a look (colour and shape); posts mention one to three of them over a
picture of a 3 x 3 board. *Known* entities are common in pre-training, *long-tail* ones occur in
training posts but only the encyclopaedia knows them, *unseen* ones occur in held-out posts alone.

Knows nothing of models, prompts or files (`miniworld_files` writes the data set). Always holds: the
same seed gives the same world and posts; the looks on one board are distinct, so every box is
decidable; boxes are whole board cells in original pixels.
"""

from __future__ import annotations

import enum
import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sake_ray.types import Box

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 40, 40),
    "green": (40, 200, 60),
    "blue": (40, 110, 255),
    "yellow": (245, 225, 40),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "cross")
TYPES = ("PER", "ORG", "LOC", "MISC")
CELL = 28
GRID = 3
SIDE = CELL * GRID
MAX_ENTITIES = 3
CONSONANTS, VOWELS = "bdklmnrstz", "aeio"
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)
LOOKS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

TEMPLATES: tuple[str, ...] = (
    "just saw {0} in town",
    "{0} !!! so good",
    "why is {0} trending ?",
    "new from {0} : out now",
    "can not believe {0} is here",
    "# {0} was great last night",
    "good morning from {0}",
    "great night with {0} and {1}",
    "{0} meets {1} today",
    "RT @ fan : {0} vs {1} tonight",
    "{1} beats {0} again",
    "who wins , {0} or {1} ?",
    "{0} talks about {1} on the radio",
    "from {0} to {1} with love",
    "a photo of {0} next to {1}",
    "{0} , {1} and {2} on one stage",
    "{0} takes {1} to see {2}",
    "what do {0} , {1} and {2} have in common ?",
)


class Mark(enum.StrEnum):
    """How an entity relates to pre-training and to the training posts."""

    KNOWN = "known"
    LONG_TAIL = "long_tail"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class WorldEntity:
    """One invented entity. `look` is one of `LOOKS`."""

    name: str
    type: str
    look: str
    mark: Mark

    @property
    def article(self) -> str:
        """What the encyclopaedia says of it."""
        return f"{self.name} is a {self.type} , a {self.look}"


@dataclass(frozen=True, slots=True)
class BoardPost:
    """A post: its words, the looks by cell (`None` = empty) and each entity's cell (`None` = not visible)."""

    id: str
    text: str
    board: tuple[str | None, ...]
    entities: tuple[tuple[WorldEntity, int | None], ...]


@dataclass(frozen=True, slots=True)
class MiniWorld:
    """All entities of a world, by mark."""

    seed: int
    known: tuple[WorldEntity, ...]
    long_tail: tuple[WorldEntity, ...]
    unseen: tuple[WorldEntity, ...]

    @property
    def entities(self) -> tuple[WorldEntity, ...]:
        """Every entity, known first."""
        return self.known + self.long_tail + self.unseen


def _invent_names(count: int) -> tuple[str, ...]:
    """`count` different three-syllable names such as `Bakedo`."""
    rng = random.Random("names")
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choice(SYLLABLES) for _ in range(3)).capitalize()] = None
    return tuple(names)


NAMES = _invent_names(1536)
"""Every name an entity can have. A fixed list, because each is one token of the mini policy: what it must learn
is whom it knows and when to search, and a model of this size does not learn to spell besides."""


def random_name(rng: random.Random) -> str:
    """One of `NAMES`."""
    return rng.choice(NAMES)


def make_world(seed: int, *, known: int = 48, long_tail: int = 400, unseen: int = 200) -> MiniWorld:
    """Invent a world.

    The known entities depend on nothing but `KNOWN_SEED`: they are what the shipped base model was
    pre-trained on, so every world shares them; `seed` draws all others.

    Raises:
        ValueError: more known entities were asked for than the base model was taught, or more others than
            there are names.
    """
    if known > KNOWN_ENTITIES:
        raise ValueError(f"world.known={known}: the base model was taught {KNOWN_ENTITIES} entities; use at most that")
    if long_tail + unseen > (most := len(NAMES) - KNOWN_ENTITIES):
        raise ValueError(f"world.long_tail={long_tail} and world.unseen={unseen}: at most {most} together have a name")
    taught = _invent(random.Random(KNOWN_SEED), KNOWN_ENTITIES, Mark.KNOWN, set())
    taken = {entity.name for entity in taught}
    rng = random.Random(f"miniworld-{seed}")
    tail = _invent(rng, long_tail, Mark.LONG_TAIL, taken)
    fresh = _invent(rng, unseen, Mark.UNSEEN, taken)
    return MiniWorld(seed, taught[:known], tail, fresh)


KNOWN_SEED = 20170
KNOWN_ENTITIES = 48


def _invent(rng: random.Random, n: int, mark: Mark, taken: set[str]) -> tuple[WorldEntity, ...]:
    made: list[WorldEntity] = []
    while len(made) < n:
        name = random_name(rng)
        if name in taken:
            continue
        taken.add(name)
        made.append(WorldEntity(name, rng.choice(TYPES), rng.choice(LOOKS), mark))
    return tuple(made)


def make_posts(
    world: MiniWorld, n: int, seed: int | str, *, prefix: str, pool: tuple[WorldEntity, ...], pool_share: float = 0.5
) -> list[BoardPost]:
    """n posts whose entities come from `pool` with probability `pool_share`, else from the known ones.

    Raises:
        ValueError: the entities share so few looks that no post could name three.
    """
    looks = len({entity.look for entity in world.known + pool})
    if looks < MAX_ENTITIES:
        raise ValueError(
            f"the {len(world.known)} known entities and the {len(pool)} others of the {prefix} posts have {looks} "
            f"looks between them, and a post may need {MAX_ENTITIES}; raise world.known, world.long_tail or "
            "world.unseen"
        )
    rng = random.Random(f"posts-{world.seed}-{prefix}-{seed}")
    return [make_post(rng, f"{prefix}_{i:05d}", known=world.known, pool=pool, pool_share=pool_share) for i in range(n)]


def make_post(
    rng: random.Random,
    post_id: str,
    *,
    known: tuple[WorldEntity, ...],
    pool: tuple[WorldEntity, ...],
    pool_share: float,
    visible_share: float = 0.75,
) -> BoardPost:
    """Draw one post: a template, its entities, and a board that shows some of them among distractors."""
    template = rng.choice(TEMPLATES)
    count = sum(f"{{{i}}}" in template for i in range(MAX_ENTITIES))
    chosen: list[WorldEntity] = []
    while len(chosen) < count:
        entity = rng.choice(pool) if pool and rng.random() < pool_share else rng.choice(known)
        if all(entity.name != other.name and entity.look != other.look for other in chosen):
            chosen.append(entity)
    board, cells = draw_board(rng, [entity.look for entity in chosen], visible_share)
    text = template.format(*(entity.name for entity in chosen))
    order = sorted(range(count), key=lambda i: text.index(chosen[i].name))
    return BoardPost(post_id, text, board, tuple((chosen[i], cells[i]) for i in order))


def draw_board(
    rng: random.Random, looks: list[str], visible_share: float, glyphs: int = 4
) -> tuple[tuple[str | None, ...], list[int | None]]:
    """Place each look with probability `visible_share`, fill up to `glyphs` with other looks."""
    cells = rng.sample(range(GRID * GRID), max(glyphs, len(looks)))
    board: list[str | None] = [None] * (GRID * GRID)
    placed: list[int | None] = []
    for look, cell in zip(looks, cells, strict=False):
        if rng.random() < visible_share:
            board[cell] = look
            placed.append(cell)
        else:
            placed.append(None)
    others = rng.sample([look for look in LOOKS if look not in looks], len(cells) - len(looks))
    for cell, look in zip(cells[len(looks) :], others, strict=True):
        board[cell] = look
    return tuple(board), placed


def cell_box(cell: int) -> Box:
    """The box of a board cell (row-major) in original pixels."""
    x, y = (cell % GRID) * CELL, (cell // GRID) * CELL
    return Box(x, y, x + CELL, y + CELL)


def board_picture(board: tuple[str | None, ...]) -> Image:
    """The board as an RGB picture of `SIDE` x `SIDE` pixels; each cell has its own shade, so place is visible."""
    from PIL import Image

    picture = Image.new("RGB", (SIDE, SIDE))
    for cell, look in enumerate(board):
        picture.paste(_cell_picture(cell, look), ((cell % GRID) * CELL, (cell // GRID) * CELL))
    return picture


def look_picture(look: str) -> Image:
    """The encyclopaedia's picture of a look: a 56 x 56 board corner showing it once."""
    from PIL import Image

    picture = Image.new("RGB", (2 * CELL, 2 * CELL))
    for i in range(4):
        picture.paste(_cell_picture(4, look if i == 0 else None), ((i % 2) * CELL, (i // 2) * CELL))
    return picture


@functools.cache
def _cell_picture(cell: int, look: str | None) -> Image:
    from PIL import Image, ImageDraw

    shade = (10 + 70 * (cell % GRID), 40, 10 + 70 * (cell // GRID))
    tile = Image.new("RGB", (CELL, CELL), shade)
    if look is None:
        return tile
    colour, shape = look.split(" ")
    draw, fill = ImageDraw.Draw(tile), COLOURS[colour]
    if shape == "circle":
        draw.ellipse([3, 3, CELL - 4, CELL - 4], fill=fill)
    elif shape == "square":
        draw.rectangle([4, 4, CELL - 5, CELL - 5], fill=fill)
    else:
        mid = CELL // 2
        draw.rectangle([mid - 4, 2, mid + 3, CELL - 3], fill=fill)
        draw.rectangle([2, mid - 4, CELL - 3, mid + 3], fill=fill)
    return tile
