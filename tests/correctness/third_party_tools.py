"""Other people's tools on one small model: each says what it gives, as tensors to compare."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import prune

Outcome = list[Tensor]
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
Y = torch.rand(6, 4, generator=torch.Generator().manual_seed(2))
LAYERS = ("0", "2")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 4))


@dataclass(frozen=True)
class Tool:
    """A use of a tool, what of its outcome is compared, and why ours has to go `to_torch` first."""

    name: str
    package: str
    use: Callable[[nn.Module], Outcome]
    compared: str
    why: str | None = None
    distributed: bool = False

    def __str__(self) -> str:
        return self.name


def trained(model: nn.Module, parameters: Iterable[Tensor] | None = None) -> Outcome:
    """The output, and the gradient of each parameter, whole where it is sharded."""
    output = model(X)
    (output - Y).square().mean().backward()
    gradients = [p.grad for p in parameters or model.parameters() if p.grad is not None]
    whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
    return [output.detach(), *whole]


def count(number: float) -> Tensor:
    return torch.tensor(float(number))


def dynamic_quantization(model: nn.Module) -> Outcome:
    quantization = importlib.import_module("torch.ao.quantization")
    quantized = quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    kinds = [type(module).__module__ for module in quantized.modules()]
    return [quantized(X), count(sum("quantized" in kind for kind in kinds))]


def pruned(model: nn.Module) -> Outcome:
    for name in LAYERS:
        prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
    seen = trained(model)
    for name in LAYERS:
        prune.remove(model.get_submodule(name), "weight")
    return [*seen, model(X).detach()]


def traced_and_saved(model: nn.Module) -> Outcome:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, X), file)
    file.seek(0)
    return trained(torch.jit.load(file))


def exported(model: nn.Module) -> Outcome:
    program = torch.export.export(model, (X,))
    return [program.module()(X).detach(), count(len(program.graph.nodes))]


def onnx_exported(model: nn.Module) -> Outcome:
    evaluator = importlib.import_module("onnx.reference")
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (X,), dynamo=True, verbose=False).save(file)
    file.seek(0)
    loaded = importlib.import_module("onnx").load(file)
    session = evaluator.ReferenceEvaluator(loaded)
    return [torch.from_numpy(session.run(None, {session.input_names[0]: X.numpy()})[0])]


def deep_lift(model: nn.Module) -> Outcome:
    attribution = importlib.import_module("captum.attr").DeepLift(model)
    return [attribution.attribute(X, torch.zeros_like(X), target=1).detach()]


def integrated_gradients(model: nn.Module) -> Outcome:
    attribution = importlib.import_module("captum.attr").IntegratedGradients(model)
    return [attribution.attribute(X, torch.zeros_like(X), target=1, n_steps=4).detach().float()]


def thop_count(model: nn.Module) -> Outcome:
    return [count(n) for n in importlib.import_module("thop").profile(model, (X,), verbose=False)]


def fvcore_count(model: nn.Module) -> Outcome:
    return [count(importlib.import_module("fvcore.nn").FlopCountAnalysis(model, X).total())]


def ptflops_count(model: nn.Module) -> Outcome:
    counted = importlib.import_module("ptflops").get_model_complexity_info(
        model, (4,), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    return [count(n) for n in counted]


def torch_count(model: nn.Module) -> Outcome:
    counter = importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    with counter:
        trained(model)
    return [count(counter.get_total_flops())]


def torchinfo_count(model: nn.Module) -> Outcome:
    seen = importlib.import_module("torchinfo").summary(model, input_data=X, verbose=0)
    return [count(seen.total_params), count(seen.total_mult_adds)]


def lora(model: nn.Module) -> Outcome:
    peft = importlib.import_module("peft")
    config = peft.LoraConfig(r=2, target_modules=list(LAYERS), init_lora_weights=False)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(model, config)
    return [*trained(adapted), adapted.merge_and_unload()(X).detach()]


def fitted_by_lightning(model: nn.Module) -> Outcome:
    lightning = importlib.import_module("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return (self.net(batch[0]) - batch[1]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=2)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", enable_model_summary=False, **options
    )
    trainer.fit(Module(), data)
    return [p.detach() for p in model.parameters()]


def fitted_by_skorch(model: nn.Module) -> Outcome:
    skorch = importlib.import_module("skorch")
    options: dict[str, Any] = {"train_split": None, "verbose": 0, "lr": 0.5, "batch_size": 2}
    net = skorch.NeuralNetRegressor(model, max_epochs=2, **options).fit(X.numpy(), Y.numpy())
    return [*(p.detach() for p in net.module_.parameters()), torch.from_numpy(net.predict(X))]


def opacus_gradients(mode: str) -> Callable[[nn.Module], Outcome]:
    def use(model: nn.Module) -> Outcome:
        wrap = importlib.import_module("opacus.grad_sample").wrap_model
        wrapped = wrap(model, grad_sample_mode=mode, loss_reduction="mean")
        (wrapped(X) - Y).square().mean().backward()
        return [p.grad_sample for p in wrapped.parameters()]

    return use


def per_sample_gradients(model: nn.Module) -> Outcome:
    def cost(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(model, parameters, (x,)) - y).square().mean()

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return list(vmap(grad(cost), in_dims=(None, 0, 0))(parameters, X, Y).values())


def ddp(model: nn.Module) -> Outcome:
    return trained(nn.parallel.DistributedDataParallel(model))


def fsdp2(model: nn.Module) -> Outcome:
    fsdp = importlib.import_module("torch.distributed.fsdp")
    mesh = dist.init_device_mesh("cpu", (2,))
    for name in LAYERS:
        fsdp.fully_shard(model.get_submodule(name), mesh=mesh)
    return trained(fsdp.fully_shard(model, mesh=mesh))


def tensor_parallel(model: nn.Module) -> Outcome:
    parallel = importlib.import_module("torch.distributed.tensor.parallel")
    plan = {"0": parallel.ColwiseParallel(), "2": parallel.RowwiseParallel()}
    return trained(parallel.parallelize_module(model, dist.init_device_mesh("cpu", (2,)), plan))


_BOTH = "output and gradients"
_BY_TYPE = "it looks for exactly nn.{}, and {}"
TOOLS = (
    Tool("functorch per-sample gradients", "torch", per_sample_gradients, "gradients"),
    Tool("nn.utils.prune", "torch", pruned, "output, gradients, and the output after remove"),
    Tool(
        "torch.ao.quantization.quantize_dynamic",
        "torch",
        dynamic_quantization,
        "output and number of quantized layers",
        _BY_TYPE.format("Linear", "quantizes no layer of ours, without a word"),
    ),
    Tool(
        "torch.jit.script",
        "torch",
        lambda model: trained(torch.jit.script(model)),
        _BOTH,
        "TorchScript cannot compile the Python of our forward, and raises",
    ),
    Tool("torch.jit.trace", "torch", lambda model: trained(torch.jit.trace(model, X)), _BOTH),
    Tool(
        "torch.jit.trace and save",
        "torch",
        traced_and_saved,
        _BOTH,
        "a file of TorchScript cannot hold a Python Function, and save raises",
    ),
    Tool("torch.export", "torch", exported, "output and number of nodes"),
    Tool("torch.onnx.export", "onnx", onnx_exported, "output of onnx's reference evaluator"),
    Tool("DDP", "torch", ddp, _BOTH, distributed=True),
    Tool("FSDP2, fully_shard", "torch", fsdp2, _BOTH, distributed=True),
    Tool("tensor parallel", "torch", tensor_parallel, _BOTH, distributed=True),
    Tool("torch.utils.flop_counter", "torch", torch_count, "FLOP, forward and backward"),
    Tool(
        "captum DeepLift",
        "captum",
        deep_lift,
        "attributions",
        _BY_TYPE.format("Sigmoid", "takes the plain gradient of ours, without a word"),
    ),
    Tool("captum IntegratedGradients", "captum", integrated_gradients, "attributions"),
    Tool(
        "fvcore FlopCountAnalysis",
        "fvcore",
        fvcore_count,
        "FLOP",
        "it counts a traced graph, where ours is one Python operation, and counts 0",
    ),
    Tool("lightning Trainer.fit", "lightning", fitted_by_lightning, "parameters after 6 steps"),
    Tool("opacus, hooks", "opacus", opacus_gradients("hooks"), "gradients of each sample"),
    Tool("opacus, ew", "opacus", opacus_gradients("ew"), "gradients of each sample"),
    Tool("opacus, functorch", "opacus", opacus_gradients("functorch"), "gradients of each sample"),
    Tool("peft LoRA", "peft", lora, "output, gradients of the adapters, the merged output"),
    Tool(
        "ptflops",
        "ptflops",
        ptflops_count,
        "multiply-adds and parameters",
        _BY_TYPE.format("Linear", "counts 0 for ours"),
    ),
    Tool("skorch fit and predict", "skorch", fitted_by_skorch, "parameters, predictions"),
    Tool(
        "thop profile",
        "thop",
        thop_count,
        "multiply-adds and parameters",
        _BY_TYPE.format("Linear", "counts 0 for ours"),
    ),
    Tool("torchinfo summary", "torchinfo", torchinfo_count, "parameters and multiply-adds"),
)
