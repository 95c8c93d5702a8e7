"""Keys: where they may come from, and that they are printed nowhere."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
from pathlib import Path

import pytest

from envs.tools.secrets import RedactingFilter, Secret, SecretError, hide_variable, load_keys, redact

KEY = "sk-planted/0123+456789"


def test_a_key_gives_itself_away_to_nobody() -> None:
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    assert {repr(secret), str(secret), f"{secret}", f"{secret!r}", str([secret])} == {"***", "[***]"}
    assert f"{secret:>5}" == "  ***"
    assert secret == Secret(KEY) != Secret(KEY + "x")
    assert len(secret.fingerprint) == 12
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            leak(secret)


def test_keys_come_from_variables_or_a_file_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", f" {KEY}-1 , {KEY}-2,")
    monkeypatch.setenv("TWO", f"{KEY}-2")
    assert [key.reveal() for key in load_keys("ONE, TWO")] == [f"{KEY}-1", f"{KEY}-2"]
    file = tmp_path / "keys"
    file.write_text(f"# mine\n{KEY}-3\n\n{KEY}-3\n")
    file.chmod(0o600)
    assert [key.reveal() for key in load_keys("ONE", file)] == [f"{KEY}-3"]
    assert load_keys() == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "holds no key"),
        ("short", "8 to 4096"),
        ("with a blank", "visible ASCII"),
        ("ümlaut-ümlaut", "visible ASCII"),
    ],
)
def test_a_variable_without_a_usable_key_is_named_and_not_quoted(
    value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONE", value)
    with pytest.raises(SecretError, match=words) as caught:
        load_keys("ONE")
    assert "ONE" in str(caught.value)
    assert not value or value not in str(caught.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    file.chmod(0o640)
    with pytest.raises(SecretError, match=f"chmod 600 {file}"):
        load_keys(file=file)


def test_what_is_no_file_of_keys_is_refused(tmp_path: Path) -> None:
    pipe, folder, empty, large = tmp_path / "pipe", tmp_path / "folder", tmp_path / "empty", tmp_path / "large"
    os.mkfifo(pipe, 0o600)
    folder.mkdir(mode=0o700)
    empty.touch(mode=0o600)
    large.touch(mode=0o600)
    large.write_text("x" * 100_000)
    for path, words in (
        (pipe, "no regular file"), (folder, "no regular file"), (empty, "holds no key"), (large, "no file of keys"),
        (tmp_path / "absent", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(SecretError, match=words):
            load_keys(file=path)


def test_log_records_are_without_keys_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", KEY)
    monkeypatch.setenv("OTHER", "planted-for-somebody-else")
    load_keys("ONE")
    hide_variable("OTHER")
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("a library's own")
    logger.addHandler(handler)
    try:
        logger.warning("at %s with %r, %d times", f"https://a.example/?k={KEY}", {"X-API-KEY": KEY}, 3)
        logger.warning("%(key)s", {"key": KEY})
        logger.warning(ValueError(KEY))
        logger.warning("quoted sk-planted%2F0123%2B456789 and planted-for-somebody-else")
        try:
            raise RuntimeError(f"no such key: {KEY}")
        except RuntimeError:
            logger.exception("failed", stack_info=True)
    finally:
        logger.removeHandler(handler)
    text = out.getvalue()
    assert "at https://a.example/?k=*** with {'X-API-KEY': '***'}, 3 times" in text
    assert "RuntimeError: no such key: ***" in text
    assert "0123" not in text
    assert "somebody" not in text


def test_the_filter_cleans_records_made_elsewhere() -> None:
    Secret(KEY)
    record = logging.makeLogRecord({"msg": f"{KEY} %s", "args": (KEY,)})
    assert RedactingFilter().filter(record)
    assert record.getMessage() == redact(f"{KEY} {KEY}") == "*** ***"
