"""Live speech: a session that gets audio piece by piece and gives text while somebody speaks.

`LiveSession` is a state machine without input or output: audio and results of passes go in, passes
and events come out. `deployments.entrance.live` drives it over replicas, `LocalLive` over one
engine in this process.
"""
