/* Weights that are stored in fewer bits than `real`: expanded once, when the first instance is created. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *image; /* shared by all instances */
static int users;

/* Half to float32 by bits: the exponents differ by 112, which a multiplication mends for normal and
 * subnormal numbers alike. Infinity and NaN do not occur. */
static void expand_halves(float *restrict out, const uint16_t *restrict in, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const uint32_t bits = (uint32_t)(in[i] & 0x7fff) << 13;
    float size;
    memcpy(&size, &bits, sizeof size);
    size *= 0x1p112f;
    uint32_t value;
    memcpy(&value, &size, sizeof value);
    value |= (uint32_t)(in[i] & 0x8000) << 16;
    memcpy(&out[i], &value, sizeof value);
  }
}

/* Groups of BYTE_GROUP integers, each behind its float32 scale. */
static void expand_bytes(real *restrict out, const unsigned char *restrict in, int64_t n) {
  for (int64_t i = 0; i < n; i += BYTE_GROUP, in += sizeof(float) + BYTE_GROUP) {
    const signed char *values = (const signed char *)(in + sizeof(float));
    const int64_t count = n - i < BYTE_GROUP ? n - i : BYTE_GROUP;
    float scale;
    memcpy(&scale, in, sizeof scale);
    for (int64_t k = 0; k < count; k++) out[i + k] = (real)(scale * (float)values[k]);
  }
}

static void expand(unsigned char *to) {
  for (int i = 0; i < pn_n_segments; i++) {
    const segment *s = &pn_segments[i];
    const unsigned char *from = pn_weights + s->from;
    if (s->storage == STORED_HALVES) expand_halves((float *)(to + s->to), (const uint16_t *)from, s->count);
    else if (s->storage == STORED_BYTES) expand_bytes((real *)(to + s->to), from, s->count);
    else memcpy(to + s->to, from, (size_t)s->count);
  }
}

const unsigned char *hold_weights(void) {
  if (!pn_n_segments) return pn_weights;
  pthread_mutex_lock(&mutex);
  if (!image && (image = aligned_memory(pn_image_bytes))) expand(image);
  if (image) users++;
  const unsigned char *held = image;
  pthread_mutex_unlock(&mutex);
  return held;
}

void release_weights(void) {
  if (!pn_n_segments) return;
  pthread_mutex_lock(&mutex);
  if (--users == 0) {
    free(image);
    image = NULL;
  }
  pthread_mutex_unlock(&mutex);
}
