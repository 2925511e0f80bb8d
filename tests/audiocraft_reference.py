"""A MusicGen of the transformers library rewritten as audiocraft publishes one: two pickles, its own names, fp16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SETTINGS = """compression_model_checkpoint: //pretrained/facebook/encodec_32khz
lm_model: transformer_lm
transformer_lm:
  n_q: 4
  card: 32
  dim: 48
  num_heads: {heads}
  hidden_scale: 2
classifier_free_guidance:
  inference_coef: 3.0
"""


def language_model_state(theirs: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """audiocraft's names for the language model: fused projections, `condition_provider`."""
    decoder = "decoder.model.decoder"
    state = {
        "out_norm.weight": theirs[f"{decoder}.layer_norm.weight"],
        "out_norm.bias": theirs[f"{decoder}.layer_norm.bias"],
    }
    for part in ("weight", "bias"):
        state[f"condition_provider.conditioners.description.output_proj.{part}"] = theirs[f"enc_to_dec_proj.{part}"]
    for k in range(4):
        state[f"emb.{k}.weight"] = theirs[f"{decoder}.embed_tokens.{k}.weight"]
        state[f"linears.{k}.weight"] = theirs[f"decoder.lm_heads.{k}.weight"]
    norms = {"norm1": "self_attn_layer_norm", "norm_cross": "encoder_attn_layer_norm", "norm2": "final_layer_norm"}
    for layer in range(layers):
        ours, source = f"transformer.layers.{layer}", f"{decoder}.layers.{layer}"
        for name, other in {"self_attn": "self_attn", "cross_attention": "encoder_attn"}.items():
            parts = [theirs[f"{source}.{other}.{part}_proj.weight"] for part in "qkv"]
            state[f"{ours}.{name}.in_proj_weight"] = torch.cat(parts)
            state[f"{ours}.{name}.out_proj.weight"] = theirs[f"{source}.{other}.out_proj.weight"]
        for number, other in (("1", "fc1"), ("2", "fc2")):
            state[f"{ours}.linear{number}.weight"] = theirs[f"{source}.{other}.weight"]
        for name, other in norms.items():
            for part in ("weight", "bias"):
                state[f"{ours}.{name}.{part}"] = theirs[f"{source}.{other}.{part}"]
    return state


def codec_state(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """audiocraft's names for the codec: `encoder.model.0.conv.conv.weight_g`, `quantizer.vq.layers.0._codebook`."""
    state = {}
    for name, tensor in theirs.items():
        coder, _, rest = name.split(".", 2)
        if coder == "quantizer":
            state[f"quantizer.vq.layers.{rest.replace('.codebook.', '._codebook.')}"] = tensor
            continue
        rest = rest.replace("parametrizations.weight.original0", "weight_g")
        rest = rest.replace("parametrizations.weight.original1", "weight_v")
        number = int(rest.split(".")[0])
        # The decoder's upsampling convolutions are the direct children between its first and its last.
        transposed = coder == "decoder" and ".block." not in rest and number not in (0, 12) and ".lstm." not in rest
        wrapped = ".convtr.convtr." if transposed else ".conv.conv."
        state[f"{coder}.model.{rest.replace('.conv.', wrapped)}"] = tensor
    return state


def save_audiocraft(directory: Path, theirs: dict[str, Tensor], *, heads: int, layers: int, fp16: bool = True) -> None:
    """Write `state_dict.bin` and `compression_state_dict.bin`."""
    directory.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = language_model_state(theirs, layers)
    state = {name: tensor.half() if fp16 else tensor for name, tensor in state.items()}
    torch.save({"best_state": state, "xp.cfg": SETTINGS.format(heads=heads)}, directory / "state_dict.bin")
    codec = {
        name.removeprefix("audio_encoder."): tensor
        for name, tensor in theirs.items()
        if name.startswith("audio_encoder.")
    }
    torch.save({"best_state": codec_state(codec), "xp.cfg": ""}, directory / "compression_state_dict.bin")
