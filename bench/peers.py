"""Runs the same model over the same audio in this service's step, in NeMo's own pipeline and in sherpa-onnx.

    python -m bench.peers --json build/peers.json

- `this`: features, encoder and decoder of this service in one step, in fp32 and bf16. The baseline is NeMo's pipeline.
- `nemo`: NeMo 3.0's `nemo.collections.asr.inference` cache-aware RNN-T pipeline, fed frames of one chunk.
- `sherpa-onnx`: the model exported by NeMo with its caches as inputs, with the metadata that sherpa-onnx reads.
  Its environment is made in build/peers from bench/peers.lock.

Each works on `batch` streams at a time as fast as it can, each stream fed one chunk a turn; `streams` is seconds of
audio over seconds of work: how many streams it keeps up with in real time at that batch size. Speed is measured on the
114M random-weight shape, word error rate on the demo model, where texts mean something. Every run is a process of its
own, so that none profits from what another has warmed up, and works on two seconds a stream before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_service.core.values import Samples
from bench.kept import random_model
from bench.options import write_report
from bench.stepping import RATE, evaluation_set, step_all
from demo_model.wer import compare, total
from testbed.models import babble

BUILT = Path("build/peers")
LOCK = Path(__file__).with_name("peers.lock")
CONTEXT = (70, 1)
WARM_UP_S = 2.0
Work = Callable[[Sequence[Samples]], list[str]]
"""Recordings to texts."""
PEERS = ("this fp32", "this bf16", "nemo", "sherpa-onnx")
_NEMO_PIPELINE = {
    "log_level": 40,
    "matmul_precision": "highest",
    "pipeline_type": "cache_aware",
    "asr_decoding_type": "rnnt",
    "asr_output_granularity": "segment",
    "enable_itn": False,
    "enable_nmt": False,
    "return_tail_result": False,
    "asr": {
        "device": "cpu",
        "device_id": 0,
        "compute_dtype": "float32",
        "use_amp": False,
        "decoding": {
            "strategy": "greedy_batch",
            "preserve_alignments": False,
            "fused_batch_size": -1,
            "greedy": {"use_cuda_graph_decoder": False, "max_symbols": 10, "loop_labels": True},
        },
    },
    "confidence": {
        "exclude_blank": True,
        "aggregation": "mean",
        "method_cfg": {"name": "entropy", "entropy_type": "tsallis", "alpha": 0.5, "entropy_norm": "exp"},
    },
    "itn": {"batch_size": 16, "n_jobs": 1, "left_padding_size": 4},
    "endpointing": {"stop_history_eou": -1, "residue_tokens_at_end": 2},
    "streaming": {
        "sample_rate": RATE,
        "word_boundary_tolerance": 4,
        "att_context_size": list(CONTEXT),
        "use_cache": True,
        "use_feat_cache": True,
        "chunk_size_in_secs": None,
        "request_type": "frame",
    },
}


def run_this(model: str, precision: str, batch: int) -> Work:
    """Makes the work of this service's step."""
    from asr_service.core.model_settings import ModelSettings
    from asr_service.model import make_model

    loaded = make_model(
        ModelSettings(name=model, att_context=CONTEXT, device="cpu", precision=precision, slots=batch)
    )
    loaded.warm_up(batch, lambda _: None)

    def work(audios: Sequence[Samples]) -> list[str]:
        pieces = loaded.info.pieces
        return [
            "".join(pieces[t] for t in one.tokens).replace("\u2581", " ").strip()
            for one in step_all(loaded, audios)
        ]

    return work


def run_nemo(model: str, batch: int) -> Work:
    """Makes the work of NeMo's pipeline."""
    import torch
    from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
    from nemo.collections.asr.inference.streaming.framing.request import Frame
    from nemo.collections.asr.inference.streaming.framing.request_options import ASRRequestOptions
    from omegaconf import OmegaConf

    config = OmegaConf.create(_NEMO_PIPELINE)
    config.asr.model_name = model
    config.streaming.batch_size = config.streaming.num_slots = batch
    pipeline: Any = PipelineBuilder.build_pipeline(config)
    chunk = int(pipeline.chunk_size_in_secs * RATE)

    def work(audios: Sequence[Samples]) -> list[str]:
        pipeline.open_session()
        texts = [""] * len(audios)
        waiting = list(range(len(audios)))[::-1]
        live: dict[int, int] = {}
        while waiting or live:
            while waiting and len(live) < batch:
                live[waiting.pop()] = 0
            frames = []
            for number, place in list(live.items()):
                piece = audios[number][place : place + chunk]
                last = place + chunk >= len(audios[number])
                padded = np.pad(piece, (0, chunk - len(piece)))
                frames.append(
                    Frame(
                        samples=torch.from_numpy(padded), stream_id=number, is_first=place == 0, is_last=last,
                        length=len(piece), options=ASRRequestOptions() if place == 0 else None,
                    )
                )  # fmt: skip
                live[number] = place + chunk
                if last:
                    del live[number]
            for frame, out in zip(frames, pipeline.transcribe_step(frames), strict=True):
                texts[frame.stream_id] += out.final_transcript
            pipeline.delete_states([frame.stream_id for frame in frames if frame.is_last])
        pipeline.close_session()
        return [text.strip() for text in texts]

    return work


def export(model: str, folder: Path) -> None:
    """Exports encoder, prediction network and joint for sherpa-onnx, and its table of tokens."""
    import onnx
    import torch

    from asr_service.model.locate import find_model
    from asr_service.model.reference.nemo_model import read_nemo

    loaded: Any = read_nemo(find_model(model), torch.device("cpu"), "the export")
    encoder = loaded.encoder
    encoder.set_default_att_context_size(list(CONTEXT))
    loaded.change_decoding_strategy(decoder_type="rnnt")
    loaded.set_export_config({"decoder_type": "rnnt", "cache_support": True})
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*loaded.joint.vocabulary, "<blk>"]
    (folder / "tokens.txt").write_text("".join(f"{piece} {n}\n" for n, piece in enumerate(vocabulary)))
    loaded.decoder.export(str(folder / "decoder.onnx"))
    loaded.joint.export(str(folder / "joiner.onnx"))
    encoder.export(str(folder / "exported.onnx"))
    streaming = encoder.streaming_cfg
    facts = {
        "vocab_size": loaded.decoder.vocab_size,
        "window_size": streaming.chunk_size[1] + streaming.pre_encode_cache_size[1],
        "chunk_shift": streaming.chunk_size[1],
        "normalize_type": "",
        "cache_last_channel_dim1": len(encoder.layers),
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model,
        "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "pred_rnn_layers": loaded.decoder.pred_rnn_layers,
        "pred_hidden": loaded.decoder.pred_hidden,
        "subsampling_factor": encoder.subsampling_factor,
        "feat_dim": loaded.cfg.preprocessor.features,
        "model_type": "EncDecHybridRNNTCTCBPEModel",
        "version": "1",
        "model_author": "NeMo",
    }
    exported = onnx.load(str(folder / "exported.onnx"))
    onnx.helper.set_model_props(exported, {key: str(value) for key, value in facts.items()})
    onnx.save(exported, str(folder / "encoder.onnx"))
    (folder / "exported.onnx").unlink()


def sherpa_python() -> Path:
    """Gives the interpreter of sherpa-onnx' environment, made if it is not there or the lock file is newer."""
    home = BUILT / "venv"
    python, stamp = home / "bin" / "python", home / "installed"
    if not stamp.exists() or stamp.read_text() != LOCK.read_text():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", LOCK], check=True)
        stamp.write_text(LOCK.read_text())
    return python


def one(peer: str, model: str, audio: Path, batch: int) -> dict[str, Any]:
    """Runs one peer once in this process (sherpa-onnx: in its own)."""
    with np.load(audio) as file:
        audios = [file[name] for name in sorted(file.files)]
    if peer == "sherpa-onnx":
        import torch

        folder = BUILT / Path(model).stem
        if not (folder / "encoder.onnx").exists():
            export(model, folder)
        chunk = (CONTEXT[1] + 1) * 1280
        done = subprocess.run(
            [sherpa_python(), Path(__file__).with_name("peers_sherpa.py"), folder, audio, str(batch), str(chunk),
             str(torch.get_num_threads())],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it crashed")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    if peer == "nemo":
        path = model
        if model == "demo":
            from asr_service.model.locate import DEMO_MODEL

            path = str(DEMO_MODEL)
        work = run_nemo(path, batch)
    else:
        work = run_this(model, peer.split()[1], batch)
    work([babble(WARM_UP_S, n) for n in range(batch)])
    begun = time.perf_counter()
    texts = work(audios)
    return {
        "texts": texts,
        "seconds": time.perf_counter() - begun,
        "audio": sum(map(len, audios)) / RATE,
    }


def apart(peer: str, model: str, audio: Path, batch: int) -> dict[str, Any]:
    """Runs `one` in a process of its own; {"failed": reason} if it does not work."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers", "--one", peer, model, str(audio), str(batch)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _save(folder: str, name: str, audios: Sequence[Samples]) -> Path:
    path = Path(folder) / f"{name}.npz"
    np.savez(path, **{f"{n:04d}": audio for n, audio in enumerate(audios)})  # type: ignore[arg-type]
    return path


def measure(
    quick: bool, peers: Sequence[str], show: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Measures all rows; `show` gets each as it is done."""
    rows: list[dict[str, Any]] = []
    seconds, batches, limit = (10.0, (1, 16), 8) if quick else (30.0, (1, 16, 32), 0)
    large = str(random_model("large"))
    with tempfile.TemporaryDirectory() as folder:
        utterances = evaluation_set(limit)
        said = _save(folder, "said", [samples for _, samples in utterances])
        for peer in peers:
            found = apart(peer, "demo", said, 16)
            row: dict[str, Any] = {"peer": peer, "model": "demo", "batch": 16}
            if "failed" in found:
                row["failed"] = found["failed"]
            else:
                pairs = zip(utterances, found["texts"], strict=True)
                row["wer"] = round(total([compare(u.text, text) for (u, _), text in pairs]).wer, 2)
            rows.append(row)
            show(row)
        for batch in batches:
            audio = _save(folder, f"babble{batch}", [babble(seconds, n) for n in range(batch)])
            for peer in peers:
                found = apart(peer, large, audio, batch)
                row = {"peer": peer, "model": "114M", "batch": batch}
                if "failed" in found:
                    row["failed"] = found["failed"]
                else:
                    row["streams"] = round(found["audio"] / found["seconds"], 1)
                rows.append(row)
                show(row)
    for row in rows:
        base = next(
            (r for r in rows if r["peer"] == "nemo" and r["batch"] == row["batch"] and "streams" in r), None
        )
        if base and "streams" in row:
            row["times_nemo"] = round(row["streams"] / base["streams"], 2)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="eight utterances, ten seconds a stream")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the rows")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only these (may be repeated)")
    parser.add_argument("--one", nargs=4, metavar=("PEER", "MODEL", "AUDIO", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        peer, model, audio, batch = options.one
        print(json.dumps(one(peer, model, Path(audio), int(batch))))
        return
    rows = measure(options.quick, options.peer or PEERS, lambda row: print(row, flush=True))
    report = {"baseline": "NeMo 3.0's cache-aware pipeline, fp32, same run", "rows": rows}
    write_report(options.json, report)
    print(
        "\n| | model | batch | WER, % | real-time streams | times NeMo's |\n| --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        cells = [row.get("wer", "-"), row.get("streams", "-"), row.get("times_nemo", "-")]
        if "failed" in row:
            cells = [f"failed: {row['failed']}", "-", "-"]
        print("| " + " | ".join(str(c) for c in (row["peer"], row["model"], row["batch"], *cells)) + " |")


if __name__ == "__main__":
    main()
