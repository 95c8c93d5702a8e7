"""`make train`: the main job on this machine, the way a cluster runs it.

Starts a Ray head with the dashboard, submits `launch/rl_twitter17.py` to it as a job, follows its log with
progress bars, and takes everything down again. Knows nothing of training. Always holds: only what was
started here is stopped, and all of it, whenever a signal comes; Ctrl-C stops the job, which leaves a
checkpoint, before the cluster goes, and a second one no longer waits for the job.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs uninstalled

import asyncio  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import contextmanager, suppress  # noqa: E402
from typing import Any  # noqa: E402

from launch.display import PROGRESS, ProgressBars  # noqa: E402
from sake_ray.config.cli import config_or_exit  # noqa: E402
from sake_ray.config.load import absolute_paths  # noqa: E402
from sake_ray.config.plan import describe_plan, totals  # noqa: E402

log = logging.getLogger("make_train")
JOB = "rl_twitter17"
HEAD_TIMEOUT_S = 120.0
STOPPED = 130
STOP_WAIT_S = 120
TWICE_S = 1.0
LAST_LINES_S = 5.0


class Stop:
    """Counts how often the user asked to stop; a signal handler that cuts nothing off halfway.

    Once: the job is stopped, with a checkpoint. Again: its end is no longer waited for.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._last = -TWICE_S

    def __call__(self, number: int, frame: object) -> None:
        """A signal came; the same one sent twice at once (as `timeout` does) is one request."""
        now = time.monotonic()
        self.asked += now - self._last >= TWICE_S
        self._last = now

    def check(self) -> None:
        """End the process if a stop was asked for: what `with` holds is taken down on the way.

        Raises:
            SystemExit: with status 130.
        """
        if self.asked:
            log.info("stopping before there is a job")
            raise SystemExit(STOPPED)


def free_ports(preferred: Sequence[int], *, low: int = 20000, high: int = 32000) -> list[int]:
    """For each preferred port itself if it is free, else another one outside Ray's worker ports (10002-19999).

    No two are the same.
    """
    ports: list[int] = []
    for wanted in preferred:
        others = (port for port in range(low + os.getpid() % 5000, high) if port not in ports)
        found = next((port for port in (wanted, *others) if _is_free(port)), None)
        if found is None:
            raise RuntimeError(f"no free port between {low} and {high}; close some programs and try again")
        ports.append(found)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left counts as free
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


@contextmanager
def ray_head(num_cpus: int, stop: Stop | None = None) -> Iterator[str]:
    """A Ray head of our own with dashboard and token authentication; yields the dashboard's address.

    Raises:
        RuntimeError: it did not come up; with the end of its log.
        SystemExit: `stop` was asked for before it was up.
    """
    folder = Path(tempfile.mkdtemp(prefix="sr-"))  # short: Ray puts unix sockets below it
    gcs, dashboard, client, agent = free_ports((6379, 8265, 10001, 52365))
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_AUTH_MODE"] = "token"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nobody is served here: no need to wait for what still runs
    }
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--num-cpus={num_cpus}", f"--temp-dir={folder}", f"--port={gcs}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    output = folder / "head.log"
    with output.open("w") as sink:
        # `ray start` makes no token on a new machine, where there is none yet; this does.
        make_token = [command[0], "get-auth-token", "--generate"]
        subprocess.run(make_token, stdout=subprocess.DEVNULL, stderr=sink, env=environment, check=True)
        head = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, start_new_session=True)
    try:
        stop = stop or Stop()
        _wait_for(dashboard, head, output, stop)
        # Jobs are handed to the agent, which on a busy machine comes up long after the dashboard.
        _wait_for(agent, head, output, stop)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, head: subprocess.Popen[bytes], output: Path, stop: Stop) -> None:
    deadline = time.monotonic() + HEAD_TIMEOUT_S
    while time.monotonic() < deadline:
        stop.check()
        if head.poll() is not None:
            break
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.3)
    tail = "\n".join(output.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"the Ray head did not come up on port {port}:\n{tail}")


def _end(head: subprocess.Popen[bytes]) -> None:
    """Stop the head; what it started is in its own session and goes with it."""
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(timeout=30)
    except subprocess.TimeoutExpired:
        log.warning("the Ray head did not end in 30 s; killing it")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


async def run(address: str, arguments: Sequence[str], run_dir: Path, stop: Stop) -> int:
    """Submit the job, follow it to its end, and return its exit status (0 succeeded, 1 failed, 130 stopped).

    Raises:
        SystemExit: `stop` was asked for before there was a job.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = await _connect(JobSubmissionClient, address, stop)
    entrypoint = shlex.join(["python", f"launch/{JOB}.py", *arguments])
    job_id = client.submit_job(entrypoint=entrypoint, runtime_env=job_environment())
    log.info("dashboard: %s   job: %s", address, job_id)
    follow = asyncio.create_task(_follow(client, job_id))
    bars = asyncio.create_task(_draw_bars(run_dir / PROGRESS, time.time()))
    ended = await _until_ended(client, job_id, stop)
    await asyncio.wait({follow}, timeout=LAST_LINES_S if ended else 0)
    if follow.done() and (error := follow.exception()):
        log.warning("the job's log was not followed to its end (%s): ray job logs %s has it", error, job_id)
    follow.cancel()
    bars.cancel()
    await asyncio.gather(follow, bars, return_exceptions=True)
    if not ended:
        log.warning("not waiting for the job any longer; what it has not saved is lost")
        return STOPPED
    status = client.get_job_status(job_id)
    if status == JobStatus.SUCCEEDED:
        return 0
    log.error("the job ended as %s: %s", status.value, client.get_job_info(job_id).message)
    return STOPPED if stop.asked else 1


async def _until_ended(client: Any, job_id: str, stop: Stop) -> bool:
    """Wait for the job's end, asking for it when `stop` is asked for; False when that was asked again."""
    told = False
    while not (await asyncio.to_thread(client.get_job_status, job_id)).is_terminal():
        if stop.asked > 1:
            return False
        if stop.asked and not told:
            told = True
            log.info("stopping the job; it writes a checkpoint first (once more: do not wait for it)")
            await asyncio.to_thread(client.stop_job, job_id)
        await asyncio.sleep(0.5)
    return True


def job_environment() -> dict[str, Any]:
    """The job's runtime environment: this working tree, and time to write a checkpoint when it is stopped."""
    # The tree travels to the cluster as a package; what .gitignore names stays behind. Ray's own wait is 3 s.
    return {"working_dir": str(ROOT), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}


async def _connect(make_client: Any, address: str, stop: Stop) -> Any:
    """The job client; the dashboard answers a little after its port is open."""
    deadline = time.monotonic() + HEAD_TIMEOUT_S
    while True:
        stop.check()
        try:
            return await asyncio.to_thread(make_client, address)
        except (ConnectionError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the dashboard at {address} does not answer: {error}") from error
        await asyncio.sleep(0.5)


async def _follow(client: Any, job_id: str) -> None:
    async for text in client.tail_job_logs(job_id):
        sys.stdout.write(text)
        sys.stdout.flush()


async def _draw_bars(path: Path, since: float) -> None:
    """Bars from the job's `progress.json`, where there is a terminal to draw them on."""
    if not sys.stderr.isatty():
        return
    bars = ProgressBars()
    try:
        while True:
            if path.exists() and path.stat().st_mtime >= since:  # noqa: ASYNC240
                bars.show(json.loads(path.read_text()))  # noqa: ASYNC240
            await asyncio.sleep(0.5)
    finally:
        bars.stop()


def main(arguments: Sequence[str]) -> int:
    """Run the main job with the given overrides."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", datefmt="%H:%M:%S")
    config = config_or_exit(arguments, job=JOB)
    run_dir = config.run_dir.resolve()
    # The job runs in a copy of the working tree: paths relative to here would not be found there.
    given = absolute_paths([word for word in arguments if not word.startswith("run.dir=")], Path.cwd())
    cpus, _ = totals(describe_plan(config))
    began = time.monotonic()
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with ray_head(max(os.cpu_count() or 1, round(cpus + 0.49)), stop) as address:
        status = asyncio.run(run(address, [*given, f"run.dir={run_dir}"], run_dir, stop))
    log.info("ended with status %d after %.0f s; everything is in %s", status, time.monotonic() - began, run_dir)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
