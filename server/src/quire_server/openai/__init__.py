"""OpenAI's dialect: models, completions, chats, tokens. Knows no other dialect and nothing of the engine."""
