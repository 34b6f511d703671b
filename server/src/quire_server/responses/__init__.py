"""OpenAI's Responses API: `/v1/responses`. A front end of its own; imports no other."""
