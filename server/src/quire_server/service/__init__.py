"""The service behind every front end: one engine client, with the server's limits and books around it."""

from quire_server.service.answer import Answered, AnswerParser, ToolCall
from quire_server.service.chat import Chat, OpenedChat
from quire_server.service.engine import Engine, Health
from quire_server.service.generation import Generation, Usage
from quire_server.service.sampling import sampling_params
from quire_server.service.service import Service, Work

__all__ = [
    "AnswerParser",
    "Answered",
    "Chat",
    "Engine",
    "Generation",
    "Health",
    "OpenedChat",
    "Service",
    "ToolCall",
    "Usage",
    "Work",
    "sampling_params",
]
