#include "scratch.h"

#include <pthread.h>
#include <stdlib.h>

#define PAGE 4096

typedef struct {
    void *memory;
    size_t size;
} Kept;

static pthread_key_t key;
static int has_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *all) {
    Kept *kept = all;
    for (int i = 0; i < N_SCRATCH; i++) free(kept[i].memory);
    free(kept);
}

static void make_key(void) {
    has_key = pthread_key_create(&key, release) == 0;
}

void *murmur_scratch(int which, size_t size) {
    pthread_once(&once, make_key);
    if (!has_key) return NULL;
    Kept *all = pthread_getspecific(key);
    if (all == NULL) {
        all = calloc(N_SCRATCH, sizeof(Kept));
        if (all == NULL) return NULL;
        if (pthread_setspecific(key, all) != 0) {
            free(all);
            return NULL;
        }
    }
    Kept *kept = &all[which];
    if (kept->size < size) {
        free(kept->memory);
        kept->size = (size + PAGE - 1) / PAGE * PAGE;
        kept->memory = aligned_alloc(PAGE, kept->size);
        if (kept->memory == NULL) kept->size = 0;
    }
    return kept->memory;
}
