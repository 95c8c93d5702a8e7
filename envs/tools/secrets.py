"""Keys of services: where they come from, and that they show up nowhere.

Knows nothing of services or requests. Always holds: a `Secret` is printed, formatted and logged as `***` and cannot be
pickled, copied into a message or written as JSON; a key file that others can read is refused; a key that was loaded is
taken out of every log record that its process makes from then on, its exception's text included.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

HIDDEN = "***"
MAX_FILE_BYTES = 64 * 1024
MIN_KEY_CHARS, MAX_KEY_CHARS = 8, 4_096
"""A shorter key could not be told from words, and would black out half of every log line."""


class SecretError(ValueError):
    """A key that cannot be used; the message says where it should be, never what it is."""


class Secret:
    """A key. Only `reveal` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Keep a key, and take it out of logs from now on.

        Raises:
            SecretError: it is too short or long, or has characters that no key has.
        """
        if not MIN_KEY_CHARS <= len(value) <= MAX_KEY_CHARS:
            raise SecretError(f"a key has {MIN_KEY_CHARS} to {MAX_KEY_CHARS} characters, this one {len(value)}")
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise SecretError("a key must be of visible ASCII characters, without blanks")
        self._value = value
        _KNOWN.add(value)

    def reveal(self) -> str:
        """The key itself, for the header of one request."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """What may be told of it: tells keys apart and gives none away."""
        return hashlib.sha256(self._value.encode("ascii")).hexdigest()[:12]

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a key is not copied nor sent to other processes: load it where it is used")


class _KnownSecrets:
    """What has to be hidden: every key of this process, also in the form that an address has."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        self._values |= {value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)}
        longest_first = sorted(self._values, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(known) for known in longest_first))

    def hide(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def __bool__(self) -> bool:
        return self._pattern is not None


_KNOWN = _KnownSecrets()


def load_keys(env: str = "", file: str | Path = "") -> tuple[Secret, ...]:
    """The keys in environment variables (names parted by commas), or in a file with one key a line; each once.

    A variable may hold several keys parted by commas. The file counts where both are given; lines that are empty or
    begin with `#` are left out. From here on this process's log records are without the keys (`install_redaction`).

    Raises:
        SecretError: a variable that is not set or empty, a file that is absent, not safe or empty, or no key in it.
    """
    install_redaction()
    if file:
        return _from_file(Path(file))
    keys: list[Secret] = []
    for name in (part.strip() for part in env.split(",")):
        if name:
            keys += _from_variable(name)
    return tuple(dict.fromkeys(keys))


def hide_variable(env: str) -> None:
    """Take what an environment variable holds out of log records, where somebody else reads the key."""
    install_redaction()
    value = os.environ.get(env, "").strip()
    if len(value) >= MIN_KEY_CHARS:
        _KNOWN.add(value)


def _from_variable(name: str) -> list[Secret]:
    values = [value.strip() for value in os.environ.get(name, "").split(",") if value.strip()]
    if not values:
        raise SecretError(f"the environment variable {name} holds no key: export {name}=KEY, or set search.key_file")
    keys = []
    for number, value in enumerate(values, start=1):
        try:
            keys.append(Secret(value))
        except SecretError as error:
            raise SecretError(f"environment variable {name}, key {number}: {error}; set it again") from None
    return keys


def _from_file(path: Path) -> tuple[Secret, ...]:
    keys: list[Secret] = []
    for number, line in enumerate(_safe_text(path).splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith("#"):
            try:
                keys.append(Secret(line))
            except SecretError as error:
                raise SecretError(f"{path}:{number}: {error}; write one key a line") from None
    if not keys:
        raise SecretError(f"{path}: holds no key; write one a line")
    return tuple(dict.fromkeys(keys))


def _safe_text(path: Path) -> str:
    """The file's text, if it is a file that nobody else can read or could have written."""
    try:
        # One descriptor is looked at and read, so that no other file can come in between; never waits on a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SecretError(f"{path}: cannot be read ({error.strerror}); set search.key_file to a file of keys") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path}: is no regular file; set search.key_file to a file of keys")
        if status.st_uid not in (os.geteuid(), 0):
            raise SecretError(f"{path}: belongs to another user; keep the keys in a file of your own")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SecretError(f"{path}: can be read or written by others; run chmod 600 {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise SecretError(f"{path}: over {MAX_FILE_BYTES} bytes is no file of keys")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise SecretError(f"{path}: holds characters that no key has") from None


# --- logs ----------------------------------------------------------------------------------------


def redact(text: str) -> str:
    """The text with every known key replaced by `***`."""
    return _KNOWN.hide(text)


class RedactingFilter(logging.Filter):
    """Takes known keys out of log records; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place: message, arguments, exception and stack."""
        hide_in(record)
        return True


def hide_in(record: logging.LogRecord) -> None:
    """Take the known keys out of a record. What is printed later (an argument's `str`) is cleaned when it is."""
    if not _KNOWN:
        return
    record.msg = redact(record.msg) if isinstance(record.msg, str) else _Cleaned(record.msg)
    if isinstance(record.args, Mapping):
        record.args = {name: _clean(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(_clean(value) for value in record.args)
    if record.exc_info and record.exc_info[0] is not None:
        text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        if (cleaned := redact(text)) != text:
            # The exception itself goes, or a handler with a format of its own would print it.
            record.exc_text, record.exc_info = cleaned, None
    if record.stack_info:
        record.stack_info = redact(record.stack_info)


class _Cleaned:
    """An object that prints itself without keys."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return redact(str(self._value))

    def __repr__(self) -> str:
        return redact(repr(self._value))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    return value if value is None or isinstance(value, int | float) else _Cleaned(value)


def install_redaction() -> None:
    """Clean every log record of this process as it is made, whatever logger and handler it is for; once is enough."""
    made = logging.getLogRecordFactory()
    if isinstance(made, _RedactingFactory):
        return
    logging.setLogRecordFactory(_RedactingFactory(made))


class _RedactingFactory:
    """Makes records as another factory does, and cleans them."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._made(*args, **kwargs)
        hide_in(record)
        return record
