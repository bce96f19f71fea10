/* Instances, the thread pool, and the steps that are not convolutions. */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#if defined(__aarch64__) && defined(__GLIBC__) && defined(__PIC__) && !defined(__PIE__)
/* JetPack 4 has glibc 2.27; linked with a newer one the library would ask the board for these of 2.34.
 * (Versions belong to shared libraries: not for a program that is linked statically.) */
__asm__(".symver pthread_create,pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join,pthread_join@GLIBC_2.17");
__asm__(".symver pthread_setaffinity_np,pthread_setaffinity_np@GLIBC_2.17");
#endif

#define EXPORT __attribute__((visibility("default")))
#define SPINS 4000 /* some tens of microseconds: then a waiting thread sleeps */
#define HUGE_PAGE ((size_t)2 << 20)
#define GUARD 64   /* values before and behind the arena */

struct pn_model {
  engine shared;
  real *memory;
  real *scratch[PN_MAX_THREADS];
  atomic_int *next; /* per step: the next unit to take */
  int n_threads;    /* of the current run */
  atomic_int arrived, phase;
  atomic_int sleepers; /* threads that sleep until `phase` or `busy` changes */
  /* helpers sleep here between runs */
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  pthread_t helpers[PN_MAX_THREADS];
  int n_helpers;
  int ticket; /* number of the current run */
  int quit;
  atomic_int busy;
  int cpus[PN_MAX_THREADS], claims[PN_MAX_THREADS];
  int n_cores; /* threads that have a CPU of their own choosing */
  int n_allowed;
  detector *detector;
};

typedef struct {
  pn_model *model;
  int index, ticket;
} helper;

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Returns once *value is no longer `old`. A thread that waits for one whose core another process has taken sleeps:
 * it then runs as soon as it is woken. With sched_yield it would run after everybody else, at every barrier. */
static void wait_for_change(pn_model *m, atomic_int *value, int old) {
  for (int round = 0; round < SPINS; round++) {
    if (atomic_load_explicit(value, memory_order_acquire) != old) return;
    relax();
  }
  atomic_fetch_add(&m->sleepers, 1);
  while (atomic_load(value) == old) syscall(SYS_futex, value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
  atomic_fetch_sub(&m->sleepers, 1);
}

/* After *value has changed. */
static void wake_sleepers(pn_model *m, atomic_int *value) {
  if (atomic_load(&m->sleepers)) syscall(SYS_futex, value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void wait_for_all(pn_model *m) {
  const int phase = atomic_load_explicit(&m->phase, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&m->arrived, 1, memory_order_acq_rel) == m->n_threads - 1) {
    atomic_store_explicit(&m->arrived, 0, memory_order_relaxed);
    atomic_store(&m->phase, phase + 1);
    wake_sleepers(m, &m->phase);
    return;
  }
  wait_for_change(m, &m->phase, phase);
}

static void work(pn_model *m, int index) {
  engine e = m->shared;
  int32_t held;
  e.scratch = m->scratch[index];
  e.held = &held;
  for (int s = 0; s < pn_n_steps; s++) {
    const step *current = &pn_steps[s];
    held = -1;
    if (m->n_threads == 1) {
      for (int32_t unit = 0; unit < current->units; unit++) current->run(&e, current->layer, unit);
      continue;
    }
    for (;;) {
      const int32_t unit = atomic_fetch_add_explicit(&m->next[s], 1, memory_order_relaxed);
      if (unit >= current->units) break;
      current->run(&e, current->layer, unit);
    }
    if (current->barrier) wait_for_all(m);
  }
}

static void pin(const pn_model *m, pthread_t thread, int index) {
  if (m->n_allowed < 2) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(m->cpus[index], &one);
  pthread_setaffinity_np(thread, sizeof one, &one); /* refused in some containers: then unpinned */
}

/* Choose CPUs for so many threads, and move the helpers there. */
static void settle(pn_model *m, int threads) {
  if (threads < 2 || threads <= m->n_cores) return;
  release_cores(m->claims, m->n_cores);
  m->n_allowed = choose_cores(threads, m->cpus, m->claims);
  m->n_cores = threads;
  for (int i = 0; i < m->n_helpers; i++) pin(m, m->helpers[i], i + 1);
}

static void *help(void *argument) {
  helper h = *(helper *)argument;
  free(argument);
  for (;;) {
    pthread_mutex_lock(&h.model->mutex);
    while (!h.model->quit && h.model->ticket == h.ticket) pthread_cond_wait(&h.model->wake, &h.model->mutex);
    h.ticket = h.model->ticket;
    const int quit = h.model->quit, needed = h.index < h.model->n_threads;
    pthread_mutex_unlock(&h.model->mutex);
    if (quit) return NULL;
    if (needed) {
      work(h.model, h.index);
      atomic_fetch_sub(&h.model->busy, 1);
      wake_sleepers(h.model, &h.model->busy);
    }
  }
}

/* Large memory in huge pages where the system grants them: a sparse layer touches a page or more per
 * channel, far more than the first-level TLB holds. */
void *aligned_memory(size_t bytes) {
  void *memory = NULL;
  if (!bytes) bytes = 64;
  if (posix_memalign(&memory, bytes < HUGE_PAGE ? 64 : HUGE_PAGE, bytes)) return NULL;
  if (bytes >= HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

static int prepare(pn_model *m, int threads) {
  for (int i = 0; i < threads; i++) {
    if (!m->scratch[i] && !(m->scratch[i] = aligned_memory(pn_scratch_floats * sizeof(real)))) return PN_NO_MEMORY;
  }
  settle(m, threads);
  while (m->n_helpers < threads - 1) {
    helper *h = malloc(sizeof *h);
    if (!h) return PN_NO_MEMORY;
    const int index = m->n_helpers + 1; /* the helper frees h as soon as it runs */
    *h = (helper){m, index, m->ticket};
    if (pthread_create(&m->helpers[m->n_helpers], NULL, help, h)) {
      free(h);
      return PN_NO_THREAD;
    }
    pin(m, m->helpers[m->n_helpers], index);
    m->n_helpers++;
  }
  return PN_OK;
}

EXPORT pn_model *pn_create(void) {
  pn_model *m = calloc(1, sizeof *m);
  if (!m) return NULL;
  m->memory = aligned_memory((pn_arena_floats + 2 * GUARD) * sizeof(real));
  m->next = calloc((size_t)pn_n_steps + 1, sizeof *m->next);
  const int bad = !m->memory || !m->next;
  if (bad || !(m->shared.weights = hold_weights())) {
    free(m->memory);
    free(m->next);
    free(m);
    return NULL;
  }
  memset(m->memory, 0, (pn_arena_floats + 2 * GUARD) * sizeof(real));
  m->shared.arena = m->memory + GUARD;
  pthread_mutex_init(&m->mutex, NULL);
  pthread_cond_init(&m->wake, NULL);
  return m;
}

EXPORT void pn_destroy(pn_model *m) {
  if (!m) return;
  pthread_mutex_lock(&m->mutex);
  m->quit = 1;
  pthread_cond_broadcast(&m->wake);
  pthread_mutex_unlock(&m->mutex);
  for (int i = 0; i < m->n_helpers; i++) pthread_join(m->helpers[i], NULL);
  pthread_mutex_destroy(&m->mutex);
  pthread_cond_destroy(&m->wake);
  for (int i = 0; i < PN_MAX_THREADS; i++) free(m->scratch[i]);
  release_cores(m->claims, m->n_cores);
  free_detector(m->detector);
  free(m->memory);
  free(m->next);
  free(m);
  release_weights();
}

static size_t values(const pn_tensor *t) {
  return (size_t)t->channels * (size_t)t->height * (size_t)t->width;
}

/* A NaN need not reach the outputs: max pooling and the heads' thresholds can drop it. */
static int all_finite(const float *x, size_t n) {
  uint32_t found = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    found |= (bits & 0x7f800000) == 0x7f800000; /* the exponent of NaN and infinity */
  }
  return !found;
}

static int check(const pn_model *m, const float *input, size_t n, float *const *outputs, const size_t *sizes) {
  if (!m || !input || !outputs || !sizes) return PN_NULL;
  if (n != values(&pn_input_tensor)) return PN_WRONG_SIZE;
  for (int i = 0; i < pn_n_outputs; i++) {
    if (!outputs[i]) return PN_NULL;
    if (sizes[i] != values(&pn_output_tensors[i])) return PN_WRONG_SIZE;
  }
  return all_finite(input, n) ? PN_OK : PN_NOT_FINITE;
}

EXPORT int pn_run(pn_model *m, const float *input, size_t input_values, float *const *outputs,
                  const size_t *output_values, int threads) {
  int status = check(m, input, input_values, outputs, output_values);
  if (status) return status;
  if (threads < 1 || threads > PN_MAX_THREADS) return PN_WRONG_THREADS;
  if ((status = prepare(m, threads))) return status;
  m->shared.input = input;
  m->shared.outputs = outputs;
  m->n_threads = threads;
  if (threads == 1) {
    work(m, 0);
    return PN_OK;
  }
  cpu_set_t before;
  const int restore = !sched_getaffinity(0, sizeof before, &before);
  pin(m, pthread_self(), 0);
  for (int s = 0; s < pn_n_steps; s++) atomic_store_explicit(&m->next[s], 0, memory_order_relaxed);
  atomic_store(&m->arrived, 0);
  atomic_store(&m->busy, threads - 1);
  pthread_mutex_lock(&m->mutex);
  m->ticket++;
  pthread_cond_broadcast(&m->wake);
  pthread_mutex_unlock(&m->mutex);
  work(m, 0);
  for (int busy; (busy = atomic_load_explicit(&m->busy, memory_order_acquire));) wait_for_change(m, &m->busy, busy);
  if (restore) sched_setaffinity(0, sizeof before, &before);
  return PN_OK;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* what other processes take does not count */
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

EXPORT int pn_profile(pn_model *m, const float *input, size_t input_values, double *seconds) {
  if (!m || !input || !seconds) return PN_NULL;
  if (input_values != values(&pn_input_tensor)) return PN_WRONG_SIZE;
  const int status = prepare(m, 1);
  if (status) return status;
  engine e = m->shared;
  e.input = input;
  e.outputs = NULL;
  int32_t held;
  e.scratch = m->scratch[0];
  e.held = &held;
  for (int s = 0; s < pn_n_steps; s++) {
    const double start = now();
    held = -1;
    for (int32_t unit = 0; unit < pn_steps[s].units; unit++) pn_steps[s].run(&e, pn_steps[s].layer, unit);
    seconds[s] = now() - start;
  }
  return PN_OK;
}

EXPORT int pn_cpus(pn_model *m, int threads, int *cpus) {
  if (!m || !cpus) return -PN_NULL;
  if (threads < 1 || threads > PN_MAX_THREADS) return -PN_WRONG_THREADS;
  settle(m, threads);
  const int n = threads > 1 && m->n_allowed > 1 ? threads : 0;
  for (int i = 0; i < n; i++) cpus[i] = m->cpus[i];
  return n;
}

detector **detector_of(pn_model *m) { return &m->detector; }

EXPORT int pn_abi(void) { return PN_ABI; }
EXPORT const char *pn_target(void) { return TARGET_NAME; }
EXPORT const char *pn_cpu_features(void) { return TARGET_FEATURES; }
EXPORT const char *pn_model_hash(void) { return pn_hash; }
EXPORT const pn_tensor *pn_input(void) { return &pn_input_tensor; }
EXPORT int pn_output_count(void) { return pn_n_outputs; }
EXPORT const pn_tensor *pn_output(int i) { return i < 0 || i >= pn_n_outputs ? NULL : &pn_output_tensors[i]; }
EXPORT size_t pn_working_bytes(void) {
  return (pn_arena_floats + 2 * GUARD + pn_scratch_floats) * sizeof(real) + sizeof(pn_model);
}
EXPORT int pn_step_count(void) { return pn_n_steps; }
EXPORT const char *pn_step_name(int i) { return i < 0 || i >= pn_n_steps ? NULL : pn_steps[i].name; }
EXPORT const char *pn_error_text(int status) {
  static const char *const texts[] = {"done", "a buffer, an image or its stride has the wrong size",
                                      "the number of threads is outside 1..64", "memory is short",
                                      "the system refused a thread", "a pointer is missing",
                                      "the input holds NaN or infinity",
                                      "the network's output holds NaN or infinity",
                                      "the network has no detection head",
                                      "the threshold is outside 0..1"};
  const int code = status < 0 ? -status : status;
  return code > PN_WRONG_THRESHOLD ? "unknown status" : texts[code];
}

/* --- steps that are not convolutions --------------------------------------------------------- */

static const int32_t *list(const engine *e, int64_t offset) { return (const int32_t *)(e->weights + offset); }

void zero_values(real *p, int64_t n) { memset(p, 0, (size_t)n * sizeof(real)); }

void clear_halo(real *origin, const blocked *t, int32_t first_block, int32_t n_blocks, int32_t y0, int32_t y1) {
  const int64_t side = (int64_t)t->halo * LANES, width = (int64_t)t->width * LANES;
  if (!side) return;
  for (int32_t b = first_block; b < first_block + n_blocks; b++) {
    real *plane = origin + b * t->block;
    for (int32_t y = y0; y < y1; y++) {
      zero_values(plane + y * t->row - side, side);
      zero_values(plane + y * t->row + width, side);
    }
    if (y0 == 0) zero_values(plane - t->halo * t->row - side, t->halo * t->row);
    if (y1 == t->height) zero_values(plane + t->height * t->row - side, t->halo * t->row);
  }
}

/* unit = (channel, band of padded rows); the input stays planar because a grey image would fill one lane of LANES */
void run_input(const engine *e, const void *layer, int32_t unit) {
  const input_layer *l = layer;
  const int32_t channel = unit / l->bands, band = unit % l->bands, rows = l->height + 2 * l->halo;
  const int64_t row = l->width + 2 * l->halo;
  for (int32_t y = band * rows / l->bands; y < (band + 1) * rows / l->bands; y++) {
    const int32_t source = y - l->halo;
    real *out = e->arena + l->x + ((int64_t)channel * rows + y) * row;
    if (source < 0 || source >= l->height) {
      zero_values(out, row);
      continue;
    }
    const float *x = e->input + ((int64_t)channel * l->height + source) * l->width;
    zero_values(out, l->halo);
    for (int32_t i = 0; i < l->width; i++) out[l->halo + i] = (real)x[i];
    zero_values(out + l->halo + l->width, l->halo);
  }
}

/* unit = channel */
void run_output(const engine *e, const void *layer, int32_t unit) {
  const output_layer *l = layer;
  if (!e->outputs) return; /* a profile */
  const real *x = e->arena + list(e, l->locations)[unit];
  float *out = e->outputs[l->output] + (int64_t)unit * l->height * l->width;
  for (int32_t y = 0; y < l->height; y++) {
    for (int32_t i = 0; i < l->width; i++) *out++ = (float)x[(int64_t)y * l->row + (int64_t)i * l->pixel];
  }
}

/* unit = block */
void run_gather(const engine *e, const void *layer, int32_t unit) {
  const gather_layer *l = layer;
  clear_halo(e->arena + l->out.base, &l->out, unit, 1, 0, l->out.height);
  real *plane = e->arena + l->out.base + unit * l->out.block;
  for (int32_t lane = 0; lane < LANES; lane++) {
    const int32_t channel = unit * LANES + lane;
    const real *x = channel < l->channels ? e->arena + list(e, l->locations)[channel] : NULL;
    for (int32_t y = 0; y < l->out.height; y++) {
      for (int32_t i = 0; i < l->out.width; i++) {
        plane[y * l->out.row + (int64_t)i * LANES + lane] =
            x ? x[(int64_t)y * l->row + (int64_t)i * l->pixel] : (real)0;
      }
    }
  }
}

/* unit = block */
void run_sum(const engine *e, const void *layer, int32_t unit) {
  const block_layer *l = layer;
  const int32_t *sources = list(e, l->sources);
  clear_halo(e->arena + l->out.base, &l->out, unit, 1, 0, l->out.height);
  for (int32_t y = 0; y < l->out.height; y++) {
    const int64_t row = y * l->out.row;
    real *out = e->arena + l->out.base + unit * l->out.block + row;
    for (int32_t i = 0; i < l->out.width * LANES; i += LANES) {
      vreal total = load(e->arena + sources[unit] + row + i);
      for (int32_t n = 1; n < l->n_inputs; n++) total += load(e->arena + sources[n * l->out.blocks + unit] + row + i);
      store(out + i, activate(total, l->act));
    }
  }
}

/* unit = block */
void run_upsample(const engine *e, const void *layer, int32_t unit) {
  const block_layer *l = layer;
  const real *x = e->arena + list(e, l->sources)[unit];
  clear_halo(e->arena + l->out.base, &l->out, unit, 1, 0, l->out.height);
  real *out = e->arena + l->out.base + unit * l->out.block;
  for (int32_t y = 0; y < l->in_height; y++) {
    real *first = out + (int64_t)y * l->stride * l->out.row;
    for (int32_t i = 0; i < l->in_width; i++) {
      const vreal v = load(x + (int64_t)y * l->in_row + (int64_t)i * LANES);
      for (int32_t n = 0; n < l->stride; n++) store(first + ((int64_t)i * l->stride + n) * LANES, v);
    }
    for (int32_t n = 1; n < l->stride; n++) {
      memcpy(first + n * l->out.row, first, (size_t)l->out.width * LANES * sizeof(real));
    }
  }
}

/* unit = block; pixels outside the image do not take part */
void run_max_pool(const engine *e, const void *layer, int32_t unit) {
  const block_layer *l = layer;
  const real *x = e->arena + list(e, l->sources)[unit];
  clear_halo(e->arena + l->out.base, &l->out, unit, 1, 0, l->out.height);
  for (int32_t y = 0; y < l->out.height; y++) {
    real *out = e->arena + l->out.base + unit * l->out.block + y * l->out.row;
    const int32_t top = y * l->stride - l->pad;
    for (int32_t i = 0; i < l->out.width; i++) {
      const int32_t left = i * l->stride - l->pad;
      vreal best = (vreal){0} - (real)__builtin_inff();
      for (int32_t v = top < 0 ? 0 : top; v < top + l->kernel && v < l->in_height; v++) {
        for (int32_t u = left < 0 ? 0 : left; u < left + l->kernel && u < l->in_width; u++) {
          best = LARGER(load(x + (int64_t)v * l->in_row + (int64_t)u * LANES), best);
        }
      }
      store(out + (int64_t)i * LANES, best);
    }
  }
}

/* unit = block */
void run_average(const engine *e, const void *layer, int32_t unit) {
  const block_layer *l = layer;
  const real *x = e->arena + list(e, l->sources)[unit];
  vreal total = {0};
  for (int32_t y = 0; y < l->in_height; y++) {
    vreal row = {0}; /* one partial sum per row keeps the rounding error small */
    for (int32_t i = 0; i < l->in_width; i++) row += load(x + (int64_t)y * l->in_row + (int64_t)i * LANES);
    total += row;
  }
  clear_halo(e->arena + l->out.base, &l->out, unit, 1, 0, 1);
  store(e->arena + l->out.base + unit * l->out.block, total / (real)(l->in_height * l->in_width));
}
