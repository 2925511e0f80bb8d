"""CLAP and COCOLA in the protocol: each output against its own context and description, and against another song's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from prepared_songs import write_song
from safetensors.torch import save_file

from evaluation.test_cocola import published_state
from evaluation.test_embeddings import save_clap
from stage_cli.core.audio.reading import read_blocks, to_mono
from stage_cli.core.evaluation import run
from stage_cli.core.evaluation.cocola import Cocola
from stage_cli.core.evaluation.pretrained import ClapEmbedding, text_score
from stage_cli.core.evaluation.run import evaluate
from stage_cli.core.evaluation.settings import EvaluationConfig


@pytest.mark.slow
def test_scores_of_pairs(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "write_report", lambda folder, **_: folder / "report.html")
    for number, genre in enumerate(("funky", "sad")):
        write_song(tmp_path / "songs" / f"song {number}", seconds=7, genres=(genre,), moods=())
    save_clap(tmp_path / "clap")
    save_file(published_state(), tmp_path / "cocola.safetensors")
    report = tmp_path / "report"
    results = evaluate(
        EvaluationConfig(
            out=report,
            models=(str(tiny_model_dir),),
            data=(str(tmp_path / "songs"),),
            chunks=1,
            seconds=5.0,
            embeddings=(f"clap={tmp_path / 'clap'}",),
            cocola=tmp_path / "cocola.safetensors",
        )
    ).results
    assert results.failures == ()
    clap, cocola = ClapEmbedding(str(tmp_path / "clap")), Cocola.load(tmp_path / "cocola.safetensors")
    first, second = results.items
    outputs = {output.system: output for output in first.outputs}

    def audio(name: str | None) -> tuple[np.ndarray, int]:
        path = report / str(name)
        return np.concatenate([to_mono(block) for block in read_blocks(path)]), soundfile.info(path).samplerate

    target, rate = audio(first.files["target"])
    own = text_score(clap, target, rate, "Genre: funky.")
    assert outputs["true"].metrics["clap_score"] == pytest.approx(own, abs=1e-4)
    stem = outputs["model:tiny"]
    made, made_rate = audio(stem.files["generated"])
    # What was too loud for a file was turned down in it, and is heard as it was.
    made = made / json.loads((report / "items" / "0001.model-tiny.json").read_text())["made"]["gain"]
    assert stem.metrics["clap_score"] == pytest.approx(text_score(clap, made, made_rate, "Genre: funky."), abs=1e-4)
    shuffled = outputs["shuffled:model:tiny"].metrics
    assert shuffled["clap_score"] != stem.metrics["clap_score"]
    assert shuffled["clap_score"] == pytest.approx(text_score(clap, made, made_rate, "Genre: sad."), abs=1e-4)
    contexts = [audio(item.files["context"])[0] for item in (first, second)]
    scores = [cocola.score(context, target, rate).both for context in contexts]
    assert outputs["true"].metrics["cocola"] == pytest.approx(scores[0], abs=1e-3)
    summaries = {(entry.system, entry.metric): entry for entry in results.summaries}
    for metric in ("cocola", "cocola_harmonic", "cocola_percussive", "clap_score"):
        gain = summaries["model:tiny", f"{metric}_over_shuffled"]
        difference = summaries["model:tiny", metric].value - summaries["shuffled:model:tiny", metric].value
        assert gain.value == pytest.approx(difference, abs=1e-9)
    other, _ = audio(second.files["target"])
    expected = cocola.score(contexts[0], other, rate).both
    assert outputs["shuffled"].metrics["cocola"] == pytest.approx(expected, abs=1e-3)
    assert ("silence", "clap_score") not in summaries
    assert results.metrics["fad_clap"].title == "FAD (clap)"
