"""OpenAI's Realtime API for transcription, as a WebSocket: `GET /v1/realtime?intent=transcription`.

`config` says what a client's session object means, `rendering` how events of a session are written,
and `socket` carries them.
"""
