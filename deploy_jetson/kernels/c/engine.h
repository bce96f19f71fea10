/* What the generated files and engine.c share: vectors, step records, layer records.
 * Offsets into the arena count floats; offsets into the weights count bytes. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "pneumonia_model.h"
#include "target.h" /* generated: LANES, TARGET_NAME */

typedef float vfloat __attribute__((vector_size(4 * LANES)));
typedef int32_t vint __attribute__((vector_size(4 * LANES)));
typedef float vfloat_u __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vfloat load(const float *p) { return *(const vfloat *)p; }
INLINE vfloat load_unaligned(const float *p) { return *(const vfloat_u *)p; }
INLINE void store(float *p, vfloat v) { *(vfloat *)p = v; }

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

/* x * rise + |x| * fold is every activation we have, without a branch:
 * linear (1, 0), ReLU (0.5, 0.5), leaky ReLU of slope s ((1 + s) / 2, (1 - s) / 2). */
typedef struct {
  float rise, fold;
} activation;

INLINE vfloat vabs(vfloat v) { return (vfloat)((vint)v & 0x7fffffff); }
INLINE vfloat activate(vfloat v, activation a) { return v * a.rise + vabs(v) * a.fold; }

typedef struct {
  float *arena;
  float *scratch; /* of this thread */
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
void clear_halo(float *origin, const blocked *t, int32_t first_block, int32_t n_blocks, int32_t y0, int32_t y1);

/* Convolution by kept columns: panel p of NV * LANES filters sums weights[k] * x[columns[k]].
 * pieces[p]: first piece of panel p; starts[i]: first column of piece i. */
typedef struct {
  blocked out;
  int64_t x_row;             /* floats of the input per output row; columns hold arena offsets */
  int64_t skip, skip_block, skip_row; /* tensor added after the activation: its base, or -1 */
  int64_t weights, columns, pieces, starts, bias;
  activation act, act_after; /* before and after adding the skip */
  int32_t first_block, panels, rows_per_unit;
  int32_t wide, narrow;      /* tiles per row of the kernel's width, and of one pixel less */
  int32_t strip;             /* tiles of a row that are done for all rows before the next ones */
} columns_layer;

/* Rows y0..y1-1 of one panel; `x` and `out` are the origins of input and output. */
typedef void (*columns_rows)(const engine *e, const columns_layer *l, const float *x, float *out, int32_t panel,
                             int32_t y0, int32_t y1);
void run_columns(const engine *e, const columns_layer *l, columns_rows rows, int32_t unit);

/* Convolutions that hand bands of rows to each other through the thread's scratch memory, which stays
 * in its cache; only the last one writes to the arena. */
typedef struct {
  const columns_layer *layer;
  columns_rows rows;
} chain_part;
typedef struct {
  const chain_part *parts;   /* full panels, and the vectors of filters left over */
  int32_t n_parts, kernel, stride, padding;
  int64_t scratch;           /* floats into the scratch memory; not used by the last level */
} chain_level;
typedef struct {
  const chain_level *levels;
  int32_t n_levels, band, stripe; /* rows of the last level: at once, and of one unit */
} chain_layer;
void run_chain(const engine *e, const void *layer, int32_t unit);
#define MAX_CHAIN 4

/* Winograd: tiles of `out_tile` output pixels, `block_tiles` tiles at once. */
typedef struct {
  blocked out;
  int64_t skip;
  int64_t inputs;            /* weights offset: int32 arena offset of pixel (0, 0) of every input block */
  int64_t weights, columns, bias;
  activation act, act_after;
  int32_t in_blocks, in_height, in_width, in_row, padding;
  int32_t piece;             /* channels whose weights of one position and panel are multiplied at once */
  int32_t n_columns, tiles_y, tiles_x, block_tiles, n_tile_blocks, panels, panels_per_unit;
  int32_t wide, narrow;      /* as above, over the tiles of a block */
} winograd_layer;

/* Free patterns and taps: `tall` bands of the kernel's rows, then `low` of one row less. */
typedef struct {
  blocked out;
  int64_t skip;
  int64_t x;                 /* planar input: first row that output row 0 reads; channels hold offsets from it */
  int64_t counts, channels, weights, starts, bias;
  activation act, act_after;
  int32_t tall, low, tiles_x, block_filters, channel_blocks;
} pattern_layer;

/* Turns blocked channels into planes whose rows are `pitch` floats: what free patterns read. */
typedef struct {
  int64_t sources;           /* weights offset: int32 arena offset of pixel (0, 0) of every input block */
  int64_t x, plane;
  int32_t blocks, height, width, row, pitch, pad; /* pad: rows of zeros above and below */
} planes_layer;
void run_planes(const engine *e, const void *layer, int32_t unit);
void pattern_store(const engine *e, const pattern_layer *l, const float *sums, int64_t filter, int64_t frame,
                   int64_t span, int32_t group, int32_t n, int32_t y0, int32_t rows);
void zero_floats(float *p, int64_t floats);

/* Fully connected rows with lists of their own: a unit is `vectors` vectors of filters. */
typedef struct {
  blocked out;
  int64_t skip;
  int64_t weights, inputs, starts, bias; /* inputs: int32 arena offsets, one per weight */
  activation act, act_after;
  int32_t vectors;
} rows_layer;
void run_rows(const engine *e, const void *layer, int32_t unit);

typedef struct {
  int64_t x;
  int32_t channels, height, width, halo;
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
float *aligned_floats(size_t n);

#endif
