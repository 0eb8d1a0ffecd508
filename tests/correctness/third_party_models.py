"""Other people's models, small and with random weights: what `third_party` converts."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Model:
    """A model of a package, and the arguments of its forward."""

    name: str
    package: str
    make: Callable[[], nn.Module]
    inputs: dict[str, Tensor]

    def __str__(self) -> str:
        return self.name


def _random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def _torchvision(name: str, size: int = 32, **options: Any) -> Model:
    def make() -> nn.Module:
        models = importlib.import_module("torchvision.models")
        model: nn.Module = getattr(models, name)(num_classes=10, **options)
        return model

    return Model(name, "torchvision", make, {"x": _random(2, 3, size, size)})


def _swin(version: int) -> Model:
    def make() -> nn.Module:
        swin = importlib.import_module("torchvision.models.swin_transformer")
        parts = (swin.SwinTransformerBlock, swin.PatchMerging)
        if version == 2:
            parts = (swin.SwinTransformerBlockV2, swin.PatchMergingV2)
        sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4]}
        model: nn.Module = swin.SwinTransformer(
            patch_size=[4, 4], block=parts[0], downsample_layer=parts[1], **sizes
        )
        return model

    return Model(f"swin, version {version}", "torchvision", make, {"x": _random(2, 3, 32, 32)})


class Recurrent(nn.Module):
    """A recurrent layer of torch.nn and a Linear on its last output."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return y


def _transformer() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


def _attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2)


def _timm(name: str, size: int = 64, **options: Any) -> Model:
    def make() -> nn.Module:
        model: nn.Module = importlib.import_module("timm").create_model(
            name, num_classes=10, **options
        )
        return model

    return Model(name, "timm", make, {"x": _random(2, 3, size, size)})


_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_BERT |= {"intermediate_size": 32}
_BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
_BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_SPEECH = {"conv_dim": [16, 16], "conv_kernel": [4, 4], "conv_stride": [4, 4]}
_SPEECH |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4}
_SPEECH |= {"num_conv_pos_embedding_groups": 2}
_TOKENS = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))


def _transformers(
    name: str, config: dict[str, Any], kind: str = "Model", **inputs: Tensor
) -> Model:
    def make() -> nn.Module:
        package = importlib.import_module("transformers")
        words = {} if "pixel_values" in inputs else {"vocab_size": 50}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        made = getattr(package, f"{name}Config")(**(words and (words | special)), **config)
        model: nn.Module = getattr(package, f"{name}{kind}")(made)
        return model

    return Model(f"{name}{kind}", "transformers", make, inputs or {"input_ids": _TOKENS})


_IMAGE = {"pixel_values": _random(2, 3, 32, 32)}
_PATCHES = {"image_size": 32, "patch_size": 8}
_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32}
_SMALL = {"img_size": 32, "depth": 2}
_WINDOWS = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}

MODELS = (
    Model(
        "Transformer",
        "torch",
        _transformer,
        {"src": _random(2, 5, 8), "tgt": _random(2, 3, 8)},
    ),
    Model(
        "MultiheadAttention",
        "torch",
        _attention,
        {n: _random(5, 2, 8) for n in ("query", "key", "value")},
    ),
    Model("LSTM and Linear", "torch", lambda: Recurrent(nn.LSTM), {"x": _random(2, 5, 4)}),
    Model("GRU and Linear", "torch", lambda: Recurrent(nn.GRU), {"x": _random(2, 5, 4)}),
    Model(
        "AdaptiveLogSoftmaxWithLoss",
        "torch",
        lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 12, [4]),
        {"input_": _random(4, 8), "target_": torch.tensor([0, 5, 11, 3])},
    ),
    _torchvision("alexnet", 64),
    _torchvision("convnext_tiny"),
    _torchvision("densenet121"),
    _torchvision("efficientnet_b0"),
    _torchvision("efficientnet_v2_s"),
    _torchvision("googlenet", 64, init_weights=False),
    _torchvision("inception_v3", 96, init_weights=False, aux_logits=False),
    _torchvision(
        "MaxVit",
        input_size=(32, 32),
        stem_channels=8,
        partition_size=4,
        block_channels=[8, 16],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.1,
    ),
    _torchvision("mnasnet0_5"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("regnet_y_400mf"),
    _torchvision("resnet18"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("squeezenet1_1"),
    _swin(1),
    _swin(2),
    _torchvision("vgg11"),
    _torchvision("VisionTransformer", **_VIT, mlp_dim=64),
    _timm("beit_base_patch16_224", 32, **_SMALL, embed_dim=64, num_heads=2),
    _timm("cait_xxs24_224", 32, **_SMALL),
    _timm("convnext_atto"),
    _timm("davit_tiny"),
    _timm("edgenext_xx_small"),
    _timm("eva02_tiny_patch14_224", 28, img_size=28, depth=2),
    _timm("ghostnet_050"),
    _timm("gmlp_ti16_224", 224),
    _timm("hgnet_tiny"),
    _timm("levit_128s", 224),
    _timm("mambaout_femto"),
    _timm("mobilevit_xxs"),
    _timm("pvt_v2_b0"),
    _timm("swin_tiny_patch4_window7_224", **_WINDOWS, window_size=4),
    _timm("swinv2_tiny_window8_256", **_WINDOWS, window_size=4),
    _timm("tf_efficientnetv2_b0"),
    _timm("vit_tiny_patch16_224", 32, **_SMALL),
    _timm("xcit_nano_12_p16_224"),
    _transformers("Albert", _BERT | {"embedding_size": 16}),
    _transformers("Bart", _BART),
    _transformers("Bert", _BERT),
    _transformers("Beit", _BERT | _PATCHES, **_IMAGE),
    _transformers("DebertaV2", _BERT),
    _transformers("DistilBert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    _transformers("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2}, "LMHeadModel"),
    _transformers("GPTNeoX", _BERT),
    _transformers("Llama", _BERT, "ForCausalLM"),
    _transformers("Mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    _transformers("Mixtral", _BERT | {"num_key_value_heads": 1, "num_local_experts": 4}),
    _transformers("Qwen3", _BERT | {"num_key_value_heads": 1, "head_dim": 8}, "ForCausalLM"),
    _transformers(
        "T5",
        {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
        input_ids=_TOKENS,
        decoder_input_ids=_TOKENS,
    ),
    _transformers("ViT", _BERT | _PATCHES, **_IMAGE),
    _transformers("Wav2Vec2", _BERT | _SPEECH, input_values=_random(2, 800)),
    _transformers("WavLM", _BERT | _SPEECH, input_values=_random(2, 800)),
    _transformers(
        "Whisper",
        _BART | {"num_mel_bins": 8, "max_source_positions": 16, "decoder_start_token_id": 1},
        input_features=_random(2, 8, 32),
        decoder_input_ids=_TOKENS,
    ),
)
