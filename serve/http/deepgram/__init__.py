"""Deepgram's protocol over the same sessions and files: `/v1/listen`, as a WebSocket and as a POST.

`query` says what the address asks for, `rendering` how a session's events are written, `socket`
carries them, and `recorded` writes the answer for a file.
"""
