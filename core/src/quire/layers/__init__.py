"""The vocabulary of model plugins: layers that know their quantization, kernels and parallel group.

A model asks a `Build` for them and stays free of all three.
"""

from quire.layers.attention import Attention
from quire.layers.build import AttentionFactory, Build, RegisteredAttention
from quire.layers.decoder import DecoderLayer
from quire.layers.describe import AttentionFacts, AttentionGroups, ModelFacts, describe
from quire.layers.embedding import Embedding, LMHead
from quire.layers.layer import Fusible, Layer, finish, weight_bytes, weights_of
from quire.layers.linear import Linear
from quire.layers.mlp import GatedMLP
from quire.layers.norm import RMSNorm
from quire.layers.parallel import ParallelGroup
from quire.layers.quantized import QuantizedLinear, StoredModule, StoredTensor, quantized_linears
from quire.layers.rotary import RopeParameters, RotaryEmbedding
from quire.layers.rounded_head import HeadOptions, RoundedHead
from quire.layers.rounding import quantize_rows
from quire.layers.self_attention import SelfAttention
from quire.layers.stack import DecoderStack
from quire.layers.step import Step, Tap
from quire.layers.stored_format import StoredFormat
from quire.layers.unquantized import Unquantized

__all__ = [
    "Attention",
    "AttentionFactory",
    "AttentionFacts",
    "AttentionGroups",
    "Build",
    "DecoderLayer",
    "DecoderStack",
    "Embedding",
    "Fusible",
    "GatedMLP",
    "HeadOptions",
    "LMHead",
    "Layer",
    "Linear",
    "ModelFacts",
    "ParallelGroup",
    "QuantizedLinear",
    "RMSNorm",
    "RegisteredAttention",
    "RopeParameters",
    "RotaryEmbedding",
    "RoundedHead",
    "SelfAttention",
    "Step",
    "StoredFormat",
    "StoredModule",
    "StoredTensor",
    "Tap",
    "Unquantized",
    "describe",
    "finish",
    "quantize_rows",
    "quantized_linears",
    "weight_bytes",
    "weights_of",
]
