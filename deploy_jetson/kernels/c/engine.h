/* What the generated files and engine.c share: vectors, step records, layer records.
 * Weights and activations are `real`: float, or _Float16 on a target with half-precision arithmetic.
 * Offsets into the arena count reals; offsets into the weights count bytes. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "pneumonia_model.h"
#include "target.h" /* generated: real, whole (an integer as wide), LANES, TARGET_NAME */

typedef real vreal __attribute__((vector_size(sizeof(real) * LANES)));
typedef whole vwhole __attribute__((vector_size(sizeof(real) * LANES)));
typedef real vreal_u __attribute__((vector_size(sizeof(real) * LANES), aligned(sizeof(real))));

#define INLINE static inline __attribute__((always_inline))

INLINE vreal load(const real *p) { return *(const vreal *)p; }
INLINE vreal load_unaligned(const real *p) { return *(const vreal_u *)p; }
INLINE void store(real *p, vreal v) { *(vreal *)p = v; }

/* Before a hot loop: two turns at once, so that the counting takes fewer of the slots a core issues per cycle. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll_count(2)")
#else
#define UNROLLED _Pragma("GCC unroll 2")
#endif

/* A loaded vector that several multiply-adds share. Without this the compiler loads it again for each of them,
 * as a memory operand, and the load ports become the limit. */
#if defined(__aarch64__)
#define IN_REGISTER(v) __asm__("" : "+w"(v))
#else
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#endif

/* The arithmetics of the column kernel, by suffix. word: an input; sum: a vector of sums; TERMS: values per filter.
 * real begins with the bias. i8x2 and i8x4 sum 2 or 4 products of whole numbers per word exactly, in 32 bits: they
 * begin with a whole number per filter and end with the filter's scale and bias. */
typedef real word_real;
typedef vreal sum_real;
#define TERMS_real 1
INLINE vreal load_real(const real *p) { return load(p); }
INLINE vreal add_product_real(vreal sum, vreal w, real s) { return sum + w * s; }
INLINE vreal value_real(vreal sum, const real *terms, int32_t stride) {
  (void)terms, (void)stride; /* the sum began with the bias */
  return sum;
}

#define WHOLE_ARITHMETIC(name, dot)                                                                     \
  typedef int32_t word_##name __attribute__((may_alias));                                               \
  typedef int32_t sum_##name __attribute__((vector_size(4 * LANES), may_alias));                        \
  enum { TERMS_##name = 3 };                                                                            \
  INLINE sum_##name load_##name(const real *p) { return *(const sum_##name *)p; }                       \
  INLINE sum_##name add_product_##name(sum_##name sum, sum_##name w, int32_t s) {                       \
    return (sum_##name)dot(sum, w, s);                                                                  \
  }                                                                                                     \
  INLINE vreal value_##name(sum_##name sum, const real *terms, int32_t stride) {                        \
    return __builtin_convertvector(sum, vreal) * load(terms + stride) + load(terms + 2 * stride);       \
  }
#ifdef DOT_2
WHOLE_ARITHMETIC(i8x2, DOT_2)
/* The whole numbers of a vector of words, which the Winograd kernel transforms before it multiplies them. */
typedef int16_t vpairs __attribute__((vector_size(4 * LANES), may_alias));
#endif
#ifdef DOT_4
WHOLE_ARITHMETIC(i8x4, DOT_4)
#endif
#ifdef DOTS_4 /* two words at once */
WHOLE_ARITHMETIC(i8x4by2, DOT_4)
INLINE sum_i8x4by2 add_products_i8x4by2(sum_i8x4by2 sum, sum_i8x4by2 w, int32_t s, sum_i8x4by2 w1, int32_t s1) {
  return (sum_i8x4by2)DOTS_4(sum, w, s, w1, s1);
}
#endif

/* LARGER and SMALLER: the target's instructions, which compilers do not find in a comparison of vectors. If a is
 * NaN the result is b. */
#ifndef LARGER
INLINE vreal chosen(vwhole first, vreal a, vreal b) { return (vreal)(((vwhole)a & first) | ((vwhole)b & ~first)); }
#define LARGER(a, b) chosen((a) > (b), a, b)
#endif

/* The larger of x and slope * x is every activation we have: linear (1), ReLU (0), leaky ReLU. */
typedef struct {
  real slope;
} activation;
INLINE vreal activate(vreal v, activation a) { return LARGER(v * a.slope, v); }

typedef struct {
  real *arena;
  real *scratch; /* of this thread */
  int32_t *held; /* of this thread: first tile of the inputs a step left in its scratch; -1 before each step */
  const unsigned char *weights;
  const float *input;
  float *const *outputs;
} engine;

typedef struct {
  void (*run)(const engine *e, const void *layer, int32_t unit);
  const void *layer;
  int32_t units;
  int32_t barrier; /* wait for all threads after this step */
  const char *name;
} step;

/* A blocked tensor: `blocks` planes of (height + 2 halo) x (width + 2 halo) pixels of LANES channels.
 * `base` is pixel (0, 0) of the first plane. */
typedef struct {
  int64_t base, block, row;
  int32_t blocks, height, width, halo;
} blocked;

/* Write the zero border of rows y0..y1-1, and above the first and below the last row of the image.
 * `origin` is where pixel (0, 0) of the first plane is, or would be. */
void clear_halo(real *origin, const blocked *t, int32_t first_block, int32_t n_blocks, int32_t y0, int32_t y1);

void zero_values(real *p, int64_t n);

typedef struct {
  int64_t x;
  int32_t height, width, halo;
  int32_t bands;             /* units of a channel: rows */
} input_layer;

typedef struct {
  int64_t locations;         /* weights offset: int32 arena offset of pixel (0, 0) of every channel */
  int32_t channels, height, width, row, pixel, output;
} output_layer;

/* Copies scattered channels into a blocked tensor. */
typedef struct {
  blocked out;
  int64_t locations;
  int32_t channels, row, pixel;
} gather_layer;

/* Per block operations: `sources` lists the arena offset of pixel (0, 0) of every input block. */
typedef struct {
  blocked out;
  int64_t sources;
  int32_t n_inputs;          /* sum: inputs, each with out.blocks sources */
  int32_t in_row, in_height, in_width;
  int32_t kernel, stride, pad; /* max pool; stride is the scale of an upsampling */
  activation act;
} block_layer;

void run_input(const engine *e, const void *layer, int32_t unit);
void run_output(const engine *e, const void *layer, int32_t unit);
void run_gather(const engine *e, const void *layer, int32_t unit);
void run_sum(const engine *e, const void *layer, int32_t unit);
void run_upsample(const engine *e, const void *layer, int32_t unit);
void run_max_pool(const engine *e, const void *layer, int32_t unit);
void run_average(const engine *e, const void *layer, int32_t unit);

/* Activations as whole numbers, in words of 2 or 4 (i8x2, i8x4) neighbouring channels of a vector: what an int8
 * convolution reads. `words.row` and `words.block` count words. */
typedef struct {
  blocked words;
  int64_t pixel;             /* words from a pixel to the next */
  int32_t together;          /* vectors of channels whose words share a block, one after another at every pixel */
  float inverse;             /* of the activations' scale */
  float highest;             /* a value over its scale is cut to lowest..highest */
  int16_t lowest, zero;      /* zero: the whole number stored for 0 */
} rounding;

/* Rounds what no convolution wrote as whole numbers. */
typedef struct {
  const rounding *rounding;
  int64_t sources;           /* weights offset: arena offset of pixel (0, 0) of every input vector */
  int32_t in_row;
} quantize_layer;
void run_quantize_i8x2(const engine *e, const void *layer, int32_t unit);
void run_quantize_i8x4(const engine *e, const void *layer, int32_t unit);

/* Generated in network.c. */
extern const step pn_steps[];
extern const int pn_n_steps;
extern const pn_tensor pn_input_tensor;
extern const pn_tensor pn_output_tensors[];
extern const int pn_n_outputs;
extern const size_t pn_arena_floats, pn_scratch_floats;
extern const char pn_hash[];
/* weights.S */
extern const unsigned char pn_weights[];

/* How weights are stored; see expand.c. Without segments they are read where they lie. */
enum { STORED_AS_THEY_ARE, STORED_HALVES, STORED_BYTES };
#define BYTE_GROUP 64
typedef struct {
  int32_t storage;
  int64_t from, to, count; /* byte offsets in the file and in memory; bytes, or weights */
} segment;
extern const segment pn_segments[];
extern const int pn_n_segments;
extern const size_t pn_image_bytes;
const unsigned char *hold_weights(void); /* NULL when memory is short */
void release_weights(void);
void *aligned_memory(size_t bytes);

/* cores.c: the CPUs for so many threads and claims on them; returns how many CPUs the caller may use. */
int choose_cores(int wanted, int *cpus, int *claims);
void release_cores(int *claims, int n);

/* detect.c: what an instance needs to make boxes, made when first asked for. */
typedef struct detector detector;
detector **detector_of(pn_model *model);
void free_detector(detector *d);

/* Generated in network.c: how outputs become boxes. */
typedef struct {
  int32_t output;                  /* its number among the outputs */
  int32_t first_anchor, n_anchors; /* in pn_anchors */
  int32_t n_classes, stride;
  int32_t exponential;             /* Darknet's coding: size = anchor * e^t; else anchor * (2 sigmoid(t))^2 */
} head;
typedef struct {
  double mean, std;                /* network value = (grey / 255 - mean) / std */
  int32_t pad_value;               /* grey value around the image */
  float score_floor, nms_overlap;
  int32_t max_boxes;
} decoding;
typedef struct {
  const char *name;
  float threshold;
} operating_point;
extern const head pn_heads[];
extern const int pn_n_heads;
extern const float pn_anchors[]; /* width, height in pixels of the network's input */
extern const decoding pn_decoding;
extern const operating_point pn_points[];
extern const int pn_n_points;
extern const char *const pn_classes[];
extern const int pn_n_classes;

#endif
