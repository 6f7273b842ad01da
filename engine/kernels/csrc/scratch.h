#pragma once

#include <stddef.h>

#define N_SCRATCH 4

/* This thread's scratch memory number `which`, of at least `size` bytes, kept for its next call:
 * fresh pages cost more than what is computed in them. NULL where memory is out. */
void *murmur_scratch(int which, size_t size);
