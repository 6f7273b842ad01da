#pragma once

#include <stddef.h>

#define N_SCRATCH 4

/* This thread's scratch buffer number `which`, of at least `size` bytes. It is kept for the thread's
 * next call, because fresh pages cost more than the computation in them. NULL if out of memory. */
void *murmur_scratch(int which, size_t size);
