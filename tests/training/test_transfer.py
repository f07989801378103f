"""A language model's knowledge of codes follows a tokenizer whose codebooks have moved."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import baichuan_audio
from baichuan_audio.audio_tokenizer.quantizer import codebooks, initialise
from baichuan_audio.data.store.manifest import ClipStore, ClipWriter
from baichuan_audio.errors import DataError, TrainingError
from baichuan_audio.training.common.assemble import start
from baichuan_audio.training.common.transfer import transfer_codebooks


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    with ClipWriter(root) as writer:
        for index in range(10):
            noise = 0.1 * random.standard_normal(36000).astype(np.float32)
            named = {"language": "en", "speaker": "noise", "transcript": "one", "source": "synthetic", "kind": "read"}
            writer.add(noise, id=f"clip{index}", license="Apache-2.0", split="train", **named)
    return root


def test_codes_with_other_numbers_mean_the_same(base: Path, corpus: Path, tmp_path: Path) -> None:
    model = baichuan_audio.load(base)
    store = ClipStore(corpus)
    features = [model.tokenizer.features(model.tokenizer.log_mel(store.waveform(c), 24000)) for c in store.clips]
    vectors = torch.cat([model.tokenizer.bridge.pooled(each[None], torch.tensor([len(each)]))[0] for each in features])
    initialise(model.tokenizer.bridge.vq_list, vectors.float())
    baichuan_audio.save(model, tmp_path / "old")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    first = codebooks(model.tokenizer.bridge.vq_list)[0]
    for stored in (first.embed, first.embed_avg, first.cluster_size):
        stored.copy_(stored[order].clone())
    baichuan_audio.save(model, tmp_path / "new")

    assert transfer_codebooks(tmp_path / "old", tmp_path / "new", corpus, tmp_path / "carried") > 0.9
    old, carried = (baichuan_audio.load(tmp_path / name) for name in ("old", "carried"))
    waveform = store.waveform(store.clips[0])
    frames = [m.language_model.embed_frames(m.tokenizer.encode(waveform, 24000)) for m in (old, carried)]
    assert (frames[0] - frames[1]).norm() < 0.3 * frames[0].norm()
    codes = old.tokenizer.encode(waveform, 24000)[0]
    likely = torch.mode(codes).values  # a code that was met often
    place = int((order == likely).nonzero())
    weights = [m.audio_head.heads[0].weight for m in (old, carried)]
    away = (weights[1][place] - weights[0]).norm(dim=1)
    assert int(away.argmin()) == int(likely)
    assert torch.equal(weights[0][-1], weights[1][-1])


def test_other_sizes_and_an_empty_corpus_are_refused(base: Path, template: Path, corpus: Path, tmp_path: Path) -> None:
    config = json.loads(template.read_text())
    config["audio_config"]["vq_config"] = {"codebook_sizes": [8, 8]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    start(tmp_path / "config.json", base.parent / "dialogues.jsonl", tmp_path / "other")
    with pytest.raises(TrainingError, match="different sizes of codebooks"):
        transfer_codebooks(base, tmp_path / "other", corpus, tmp_path / "nothing")
    with ClipWriter(tmp_path / "empty"):
        pass
    with pytest.raises(DataError):
        transfer_codebooks(base, base, tmp_path / "empty", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
