"""Text to tokens and back: tokenizer, incremental detokenizer, stop strings, chat templates.

Knows tokenizers and templates; knows no model, no request and no scheduler. Importing it is light:
transformers is loaded with the first tokenizer.
"""

from quire.text.chat import encode_chat, render_chat
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatch, StopMatcher
from quire.text.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "IncrementalDetokenizer",
    "StopMatch",
    "StopMatcher",
    "Tokenizer",
    "encode_chat",
    "load_tokenizer",
    "render_chat",
]
