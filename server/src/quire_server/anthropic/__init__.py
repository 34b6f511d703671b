"""Anthropic's Messages API: `/v1/messages`. A front end of its own; imports no other."""
