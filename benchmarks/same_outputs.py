"""Whether a change of the code leaves all outputs as they were: binaries, profiles, traces, JSON, text forms.

    python -m benchmarks.same_outputs REV [--manifest FILE] [--only WORD]

Checks the revision out beside the working tree and gives both the same commands: networks of the samples
and of the test assets, on every shipped target, at every level, without each technique. What the commands
write is compared by digest; times and the names of files are left out. With --manifest the digests of the
revision are kept in a file, and taken from there if it exists. Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ASSETS: Final = Path(os.environ.get("X1_ASSETS", REPOSITORY.parent / "shared" / "assets"))
TARGETS: Final = ("edge16", "edge32", "edge64", "tiny8")
LEVELS: Final = ("0", "1", "2", "3")
TECHNIQUES: Final = ("overlap", "residency", "prefetch", "packing", "fusion", "address", "banks")
TIMES: Final = ("stage_seconds", "seconds")
"""Keys of JSON whose values are times."""
MODELS: Final = ASSETS / "models"
NETWORKS: Final[dict[str, tuple[Path, tuple[str, ...]]]] = {
    "mnist": (
        REPOSITORY / "samples/mnist/mnist.net",
        ("--calibrate", str(REPOSITORY / "samples/mnist/calibration.npz")),
    ),
    "pytorch": (REPOSITORY / "samples/pytorch/net.onnx", ("--calibrate", "random:2")),
    "seed_nchw": (MODELS / "seed_mnist_nchw.onnx", ("--calibrate", "random:2", "--method", "entropy")),
    "seed_nhwc": (MODELS / "seed_mnist_nhwc_keraslike.onnx", ("--calibrate", "random:2", "--equalize")),
    "ccexam": (MODELS / "ccexam_mnist.onnx", ("--calibrate", "random:2", "--per-tensor")),
    "pnet": (
        MODELS / "mtcnn_pnet.onnx",
        ("--calibrate", "random:2", "--shape", "input_1=1,60,44,3", "--method", "minmax"),
    ),
    "rnet": (MODELS / "mtcnn_rnet.onnx", ("--calibrate", "random:2", "--shape", "input_2=2,24,24,3")),
    "onet": (
        MODELS / "mtcnn_onet.onnx",
        ("--calibrate", "random:2", "--shape", "input_3=1,48,48,3", "--symmetric"),
    ),
    "blazeface": (MODELS / "blazeface_front_128.onnx", ("--calibrate", "random:2")),
    "seed_u8": (MODELS / "quantized/seed_mnist_nchw.u8s8.qoperator.onnx", ()),
    "seed_qdq": (MODELS / "quantized/seed_mnist_nchw.s8s8.qdq.onnx", ()),
    "lite0": (MODELS / "quantized/efficientnet_lite0_clean.s8s8.qoperator.onnx", ()),
    "squeezenet": (MODELS / "quantized/squeezenet1_1_ndf_imagenet_227.s8s8.qdq.onnx", ()),
}
ABSENT: Final = "absent"
"""In place of the digest of a file that a command has not written."""
Digests = dict[str, str]


def variants() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every target at every level, and the default target without each technique."""
    for target in TARGETS:
        for level in LEVELS:
            yield f"{target}-O{level}", ("--target", target, f"-O{level}")
    for technique in TECHNIQUES:
        yield f"edge32-without-{technique}", ("--without", technique)


class Recorder:
    """Runs commands of the `x1` that is first on the path, and keeps digests of what they write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: Digests = {}

    def run(self, *arguments: str) -> bytes:
        """What a command writes to stdout; its exit code at the end."""
        out = self.folder / "stdout"
        child = os.fork()
        if child == 0:
            place = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(place, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.argv = ["x1", *arguments]
            _entry()
        _, status = os.waitpid(child, 0)
        return out.read_bytes() + f"\nexit {os.waitstatus_to_exitcode(status)}".encode()

    def keep(self, key: str, content: bytes) -> None:
        """Keep the digest of an output, whatever folder it was made in."""
        plain = content.replace(str(self.folder).encode(), b"FOLDER")
        self.digests[key] = hashlib.sha256(plain).hexdigest()

    def keep_json(self, key: str, *arguments: str) -> None:
        """Keep what a command prints as JSON, times left out."""
        content, _, code = self.run(*arguments, "--json").rpartition(b"\n")
        self.keep(key, _timeless(content) + code)

    def keep_file(self, key: str, name: str) -> None:
        """Keep a file that a command has written, or that it has written none."""
        path = self.folder / name
        if path.is_file():
            self.keep(key, path.read_bytes())
            path.unlink()
        else:
            self.digests[key] = ABSENT

    def network(self, name: str, model: Path, options: tuple[str, ...]) -> None:
        """All outputs of a network."""
        binary = str(self.folder / "net.x1")
        for variant, choice in variants():
            key = f"{name}/{variant}"
            self.keep_json(f"compile.json {key}", "compile", str(model), *options, *choice, "-o", binary)
            self.keep_json(f"profile.json {key}", *self._profile(binary))
            self.keep_file(f"csv {key}", "layers.csv")
            self.keep_file(f"trace {key}", "trace.json")
            self.keep_json(f"check.json {key}", "check", binary)
            if variant == "edge32-O3":
                self._forms(name, model, options, binary)
            self.keep_file(f"binary {key}", "net.x1")

    def _profile(self, binary: str) -> tuple[str, ...]:
        csv, trace = (str(self.folder / name) for name in ("layers.csv", "trace.json"))
        return "profile", binary, "--csv", csv, "--trace", trace

    def _forms(self, name: str, model: Path, options: tuple[str, ...], binary: str) -> None:
        """What there is of a network besides binaries of it."""
        for form in ("nn", "q", "schedule", "asm"):
            self.keep(f"{form} {name}", self.run("compile", str(model), *options, "--emit", form))
        self.keep(f"passes {name}", self.run("compile", str(model), *options, "--print-after", "all"))
        for form in ("text", "json", "dot"):
            self.keep(f"inspect {form} {name}", self.run("inspect", binary, "--format", form))
        self.keep(f"profile text {name}", self.run("profile", binary))
        if options:
            for form in ("qoperator", "qdq"):
                output, scheme = str(self.folder / "q.onnx"), str(self.folder / "scheme.toml")
                written = ("-o", output, "--save-scheme", scheme)
                self.keep_json(
                    f"quantize.json {form} {name}",
                    "quantize",
                    str(model),
                    *options,
                    "--format",
                    form,
                    *written,
                )
                self.keep_file(f"onnx {form} {name}", "q.onnx")
                self.keep_file(f"scheme {form} {name}", "scheme.toml")


def _entry() -> None:
    try:  # of whichever tree is measured
        from x1.cli.entry import entry  # noqa: PLC0415
    except ImportError:
        from x1.cli.main import entry  # noqa: PLC0415  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    entry()


def _timeless(content: bytes) -> bytes:
    """JSON without its times."""
    try:
        body: dict[str, Any] = json.loads(content)
    except ValueError:
        return content
    return json.dumps({k: v for k, v in body.items() if k not in TIMES}, sort_keys=True).encode()


def record(place: Path, only: str) -> None:
    """Write the digests of the tree that is first on the path."""
    import x1.api  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport]  (before commands fork)

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        for name, (model, options) in NETWORKS.items():
            if only in name:
                recorder.network(name, model, options)
    place.write_text(json.dumps(recorder.digests, indent=0))


def started(tree: Path, place: Path, only: str) -> subprocess.Popen[bytes]:
    """A process that records a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--record", str(place), "--only", only]
    return subprocess.Popen(command, cwd=tree, env=environment)


def checked_out(revision: str, folder: Path) -> Path:
    """The four packages of a revision."""
    content = subprocess.run(
        ["git", "archive", revision], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def differences(before: Digests, after: Digests) -> int:
    """Print a line for every kind of output and one for every output that differs; how many do."""
    kinds = Counter(key.split(" ", 1)[0] for key in before.keys() | after.keys())
    wrong = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    off = Counter(key.split(" ", 1)[0] for key in wrong)
    absent = Counter(key.split(" ", 1)[0] for key, digest in after.items() if digest == ABSENT)
    for kind, count in sorted(kinds.items()):
        none = f" ({absent[kind]} not written)" if absent[kind] else ""
        print(f"{kind:14} {count:5} compared, {off[kind]} differ{none}")
    for key in wrong:
        print(f"differs: {key}")
    return len(wrong)


def main() -> int:
    """Compare the working tree with a revision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.record is not None:
        record(options.record, options.only)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = options.manifest or folder / "before.json"
        running = [started(REPOSITORY, folder / "after.json", options.only)]
        if not kept.is_file():
            tree = checked_out(options.revision, folder / "tree")
            running.append(started(tree, kept, options.only))
        codes = [process.wait() for process in running]
        if any(codes):
            return 1
        before, after = (json.loads(p.read_text()) for p in (kept, folder / "after.json"))
    wrong = differences({k: v for k, v in before.items() if k in after or not options.only}, after)
    print(f"{len(after)} outputs, {wrong} differ from {options.revision}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
