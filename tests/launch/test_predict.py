"""The command that predicts: its words, its posts, what it prints and keeps, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launch.predict import main
from sake_ray.serving.problems import Problem
from tests.launch.extract_stub import ExtractStub, Form, Said, result_of, running, write_picture

ROOT = Path(__file__).parents[2]


def write_posts(path: Path, rows: list[dict[str, Any] | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def results(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


# --- one post --------------------------------------------------------------------------------------------


def test_one_post_is_printed_and_its_picture_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(tmp_path / "photo.png")
    with running(ExtractStub()) as url:
        assert (
            main([f"image={picture}", "text=Ada [bold]x[/] = \x1b[31m", f"output={tmp_path}/out", f"service={url}"])
            == 0
        )
    said = capsys.readouterr()
    assert "Ada" in said.out and "21, 14, 42, 28" in said.out and "searched" in said.out
    assert "“Ada” → success: Ada is a PER" in said.out and "[bold]x[/]" in said.out and "\x1b" not in said.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.entities.png"]
    assert "photo.entities.png" in said.err


def test_json_is_the_result_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(tmp_path / "photo.png")
    with running(ExtractStub()) as url:
        assert main([f"image={picture}", "text=Ada 🎉", f"output={tmp_path}", f"service={url}", "json=true"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == "Ada 🎉" and value["stop"] == "answer" and value["turns"][0]["search"]["kind"] == "text"


def test_an_upright_picture_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # stands on its side
    Image.new("RGB", (80, 40), "#808080").save(picture, exif=exif)

    def upright(form: Form) -> Said:
        return {**result_of(form), "entities": []}

    with running(ExtractStub(upright)) as url:
        assert main([f"image={picture}", "text=Ada", f"output={tmp_path}", f"service={url}"]) == 0
    with Image.open(tmp_path / "photo.entities.png") as drawn:
        assert drawn.width == 320 and drawn.height > 640


def test_a_post_without_an_answer_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(tmp_path / "photo.png")
    with running(ExtractStub(lambda form: Problem("invalid", "too small", "image"))) as url:
        assert main([f"image={picture}", "text=Ada", f"output={tmp_path}/out", f"service={url}"]) == 1
    said = capsys.readouterr()
    assert said.err == "predict: image: too small\n" and not said.out and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "give one of image=FILE"),
        ("image=P folder=D text=x", "give one of image=FILE"),
        ("image=P", "belong together"),
        ("folder=D text=x output=O", "belong together"),
        ("image=P text=", "text: the post is empty"),
        ("image=none.png text=x", "image: none.png: no such picture"),
        ("folder=D", "output=… is missing"),
        ("folder=none output=O", "folder=none: no such folder"),
        ("folder=E output=O", "holds neither posts.jsonl nor a picture"),
        ("posts=none.jsonl output=O", "none.jsonl: no such file"),
        ("posts=none.jsonl output=O json=true", "json=true is for one post"),
        ("image=P text=x json=yes", "json=yes: must be true or false"),
        ("image=P text=x seed=-1", "seed=-1: must be from 0 to"),
        ("image=P text=x temperature=nan", "temperature=nan: must be from 0 to 2"),
        ("image=P text=x concurrency=many", "concurrency=many: must be a number"),
        ("image=P text=x sevice=http://h", "did you mean 'service'?"),
        ("image=P text=x service=h:80", "service=h:80: must be the address of a service"),
        ("image=P text=x service=http://h model=mini", "model=…: the service has its own"),
        ("image=P text=x service=http://h search.provider=local", "search.provider=…: the service has its own"),
        ("image=P text=x token_env=T", "only together with service=URL"),
        ("image=P text=x service=http://h token_env=NO_SUCH_VARIABLE", "the variable holds no token"),
        ("image=P text=x model=none", "model=none: must be mini, or the folder"),
    ],
)
def test_wrong_words_are_one_sentence_and_write_nothing(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_picture(tmp_path / "photo.png")
    (tmp_path / "E").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main([word.replace("image=P", "image=photo.png") for word in words.split()]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_help_lists_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "python launch/predict.py image=photo.jpg" in said and "deadline_s" in said and "(default 60.0)" in said


# --- many posts ------------------------------------------------------------------------------------------


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    write_picture(tmp_path / "in" / "p.png")
    rows: list[dict[str, Any] | str] = [{"text": f"Name{n} here", "image": "p.png"} for n in range(1, 6)]
    return write_posts(tmp_path / "in" / "list.jsonl", rows)


def test_many_posts_and_those_with_a_problem_are_asked_again(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = {"Name2 here", "Name4 here"}
    stub = ExtractStub(lambda form: Problem("deadline", "too late") if form.text in down else result_of(form))
    out = tmp_path / "out"
    with running(stub) as url:
        words = [f"posts={posts}", f"output={out}", f"service={url}", "concurrency=2"]
        assert main(words) == 1
        first = results(out)
        assert {key: row["status"] for key, row in first.items()} == {"1": 200, "2": 504, "3": 200, "4": 504, "5": 200}
        assert first["2"]["problem"]["detail"] == "too late" and "result" not in first["2"]
        assert sorted(path.stem for path in out.glob("*.png")) == ["1", "3", "5"]
        assert "3 of 5 posts have a result" in capsys.readouterr().err
        with (out / "results.jsonl").open("a") as file:
            file.write('{"id": "9", "status": 20')  # killed while it wrote
        down.clear()
        stub.asked.clear()
        assert main(words) == 0
        assert sorted(form.text for form in stub.asked) == ["Name2 here", "Name4 here"]
        assert all(row["status"] == 200 for row in results(out).values()) and len(results(out)) == 5
        stub.asked.clear()
        assert main(words) == 0 and not stub.asked


def test_what_was_answered_before_the_service_went_is_kept(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = ExtractStub()
    out = tmp_path / "out"
    stub.answer = lambda form: result_of(form) if len(stub.asked) < 3 else Problem("unauthorized", "another token")
    with running(stub) as url:
        assert main([f"posts={posts}", f"output={out}", f"service={url}", "concurrency=1"]) == 2
    said = capsys.readouterr().err
    assert "refuses: another token; the same command goes on from there" in said
    assert len(results(out)) == 2


def test_a_folder_of_other_settings_or_posts_is_refused(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(ExtractStub()) as url:
        words = [f"posts={posts}", f"output={tmp_path}/out", f"service={url}"]
        assert main(words) == 0
        assert main([*words, "seed=1"]) == 2
        assert "made with other settings (seed differ)" in capsys.readouterr().err
        posts.write_text(posts.read_text().replace("Name3", "Other"))
        assert main(words) == 2
        assert "post 3 had another text when it was answered" in capsys.readouterr().err


def test_no_picture_of_the_users_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("Ada")
    before = picture.read_bytes()
    with running(ExtractStub()) as url:
        assert main([f"folder={tmp_path}", f"output={tmp_path}", f"service={url}"]) == 2
        other = write_picture(tmp_path / "out" / "a.png")
        assert main([f"folder={tmp_path}", f"output={tmp_path}/out", f"service={url}"]) == 2
    assert picture.read_bytes() == before == other.read_bytes()
    assert capsys.readouterr().err.count("a.png is there and would be written over") == 2


def test_ctrl_c_keeps_what_was_answered(posts: Path, tmp_path: Path) -> None:
    stub = ExtractStub()
    stub.answer = lambda form: result_of(form) if len(stub.asked) < 4 else Problem("busy", "wait", retry_s=60.0)
    out = tmp_path / "out"
    with running(stub) as url:
        words = [f"posts={posts}", f"output={out}", f"service={url}", "concurrency=1"]
        command = [sys.executable, str(ROOT / "launch" / "predict.py"), *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 60
            while len(stub.asked) < 4 and time.monotonic() < until:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 130 and "stopped; what was answered is kept" in said and "Traceback" not in said
        assert len(results(out)) == 3
        stub.answer = result_of
        assert main(words) == 0 and len(results(out)) == 5


# --- a model in this process -----------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.slow
def test_the_shipped_model_answers_here_without_ray(tmp_path: Path) -> None:
    from launch.job_data import load_miniworld
    from sake_ray.config.load import resolve

    post = load_miniworld(resolve(["preset=mini", f"run.dir={tmp_path}/runs/x"], job="test")).held_out[0]
    command = [
        sys.executable, str(ROOT / "launch" / "predict.py"), f"image={post.image.path}", f"text={post.text}",
        "model=mini", "json=true", f"output={tmp_path}/out",
    ]  # fmt: skip
    no_ray = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # whoever joined one would fail
    done = subprocess.run(command, cwd=tmp_path, env=no_ray, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["text"] == post.text and result["policy"]["model"] == "mini" and result["turns"]
    assert result["image"] == {"width": post.image.width, "height": post.image.height}
    drawn = tmp_path / "out" / f"{Path(post.image.path).stem}.entities.png"
    with Image.open(drawn) as picture:
        assert picture.width >= 640
