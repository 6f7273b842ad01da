"""Number formats and ways of keeping in which a chunk's result must not depend on its company."""

from engine import CrossAttentionMode, EngineConfig, Precision

SLOTS = 7
FORMATS = {
    "float32": EngineConfig(max_slots=SLOTS),
    "bfloat16": EngineConfig(precision=Precision.BFLOAT16, max_slots=SLOTS),
    "int8": EngineConfig(precision=Precision.INT8, max_slots=SLOTS),
    "absorbed": EngineConfig(max_slots=SLOTS, cross_attention=CrossAttentionMode.ABSORBED),
    "8-bit cross and tokens": EngineConfig(
        max_slots=SLOTS, cross_attention=CrossAttentionMode.CACHED_8BIT, int8_self_attention=True
    ),
}
