"""What a plugin implements: one file per kind. Importing it never imports torch."""

from quire.contracts.attention import (
    AttentionBackend,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    AttentionSpec,
    CacheKind,
    CacheSpec,
    GraphSupport,
    KVLayout,
    KVTensor,
    Rope,
)
from quire.contracts.base import Choice, DeviceSpec, Kind, Need, PluginSpec
from quire.contracts.batch import AttentionBatch, Batch
from quire.contracts.command import CommandSpec
from quire.contracts.fusion import (
    AttentionParts,
    DecoderLayerParts,
    FusedLayer,
    GatedMLPParts,
    NormParts,
    ProjectionParts,
)
from quire.contracts.kernels import KernelsInit, KernelsNeed, KernelsSpec
from quire.contracts.kinds import KINDS
from quire.contracts.model import Model, ModelNeed, ModelSpec, WeightMapping
from quire.contracts.quantization import (
    LinearMethod,
    LinearPart,
    LinearSpec,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
    QuantizationSpec,
    QuantizedWeight,
    Span,
    TensorHeader,
    Weight,
)
from quire.contracts.route import RouteSpec
from quire.contracts.sampler import (
    Distribution,
    Sampler,
    SamplerInit,
    SamplerNeed,
    SampleRows,
    SamplerSpec,
)
from quire.contracts.source import HeaderSource, ModelFiles, ModelRequest, ModelSource, ModelSourceSpec
from quire.hookspecs import hookimpl

__all__ = [
    "KINDS",
    "AttentionBackend",
    "AttentionBatch",
    "AttentionInit",
    "AttentionLayer",
    "AttentionNeed",
    "AttentionParts",
    "AttentionSpec",
    "Batch",
    "CacheKind",
    "CacheSpec",
    "Choice",
    "CommandSpec",
    "DecoderLayerParts",
    "DeviceSpec",
    "Distribution",
    "FusedLayer",
    "GatedMLPParts",
    "GraphSupport",
    "HeaderSource",
    "KVLayout",
    "KVTensor",
    "KernelsInit",
    "KernelsNeed",
    "KernelsSpec",
    "Kind",
    "LinearMethod",
    "LinearPart",
    "LinearSpec",
    "Model",
    "ModelFiles",
    "ModelNeed",
    "ModelRequest",
    "ModelSource",
    "ModelSourceSpec",
    "ModelSpec",
    "Need",
    "NormParts",
    "PluginSpec",
    "ProjectionParts",
    "Quantization",
    "QuantizationInit",
    "QuantizationNeed",
    "QuantizationSpec",
    "QuantizedWeight",
    "Rope",
    "RouteSpec",
    "SampleRows",
    "Sampler",
    "SamplerInit",
    "SamplerNeed",
    "SamplerSpec",
    "Span",
    "TensorHeader",
    "Weight",
    "WeightMapping",
    "hookimpl",
]
