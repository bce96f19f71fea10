/* Grey pixels in, boxes out: letterbox, network, decoding of the heads, thresholds, suppression.
 *
 * Does what pneumonia/runtime does in Python: image/preprocess.py (whose resampling is Pillow's, in the same fixed
 * point, so the network sees the same bytes), model/heads.py and model/boxes.py. Needs no libm. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define EXPORT __attribute__((visibility("default")))
#define FRACTION_BITS 22  /* of a resampling weight */
#define MAX_LOG_SIZE 20.0 /* e^20 anchors is larger than any image */
#define N_INPUTS 256      /* grey values */
#define TAP_GROUP 8       /* inputs that are weighted side by side */
typedef int32_t tap_group __attribute__((vector_size(4 * TAP_GROUP)));
typedef int32_t half_group __attribute__((vector_size(2 * TAP_GROUP)));

typedef struct {
  float box[4]; /* x1, y1, x2, y2 in pixels of the image */
  float score;
  int32_t class_index;
  int32_t rank; /* place in the order of heads, anchors, rows, columns, classes: decides between equal scores */
} candidate;

struct detector {
  int threads;
  float threshold;
  float *input, **outputs;
  size_t *sizes;
  unsigned char *canvas;
  float table[N_INPUTS]; /* grey value -> network value */
  candidate *found;
  int32_t room; /* of `found` */
};

/* Where the image lies on the canvas. */
typedef struct {
  int32_t left, top, width, height;
} placement;

/* --- letterbox ------------------------------------------------------------------------------- */

static int32_t scaled_side(int32_t side, double scale) {
  volatile double product = (double)side * scale; /* rounded by itself: a fused sum could differ by one pixel */
  const int32_t pixels = (int32_t)(product + 0.5);
  return pixels < 1 ? 1 : pixels;
}

static placement place_image(int32_t width, int32_t height) {
  const int32_t canvas_width = pn_input_tensor.width, canvas_height = pn_input_tensor.height;
  const double down = (double)canvas_height / height, across = (double)canvas_width / width;
  const double scale = down < across ? down : across;
  placement p = {0, 0, scaled_side(width, scale), scaled_side(height, scale)};
  p.left = (canvas_width - p.width) / 2;
  p.top = (canvas_height - p.height) / 2;
  return p;
}

/* A triangle filter whose support grows with the reduction: for every output the first input, the number of inputs,
 * and their weights, followed by zeros up to `taps`, a multiple of TAP_GROUP. */
typedef struct {
  int32_t taps;
  int32_t *first, *count, *weights;
} filter;

static void free_filter(filter *f) {
  free(f->first);
  free(f->count);
  free(f->weights);
}

static int make_filter(filter *f, int32_t in, int32_t out) {
  const double scale = (double)in / out, stretch = scale < 1.0 ? 1.0 : scale, per_tap = 1.0 / stretch;
  const int32_t reach = (int32_t)stretch + (stretch > (int32_t)stretch), room = 2 * reach + 1;
  f->first = malloc((size_t)out * sizeof *f->first);
  f->count = malloc((size_t)out * sizeof *f->count);
  f->taps = 0;
  int bad = !f->first || !f->count;
  for (int32_t i = 0; i < out && !bad; i++) {
    volatile double centre = (i + 0.5) * scale;
    int32_t first = (int32_t)(centre - stretch + 0.5), end = (int32_t)(centre + stretch + 0.5);
    if (first < 0) first = 0;
    if (end > in) end = in;
    f->first[i] = first;
    f->count[i] = end - first;
    if (f->taps < end - first) f->taps = end - first;
  }
  f->taps = (f->taps + TAP_GROUP - 1) / TAP_GROUP * TAP_GROUP;
  f->weights = bad ? NULL : calloc((size_t)out * (size_t)f->taps, sizeof *f->weights);
  double *shares = malloc((size_t)room * sizeof *shares);
  bad = bad || !f->weights || !shares;
  for (int32_t i = 0; i < out && !bad; i++) {
    volatile double centre = (i + 0.5) * scale;
    double sum = 0.0;
    for (int32_t k = 0; k < f->count[i]; k++) {
      volatile double distance = (k + f->first[i] - centre + 0.5) * per_tap;
      const double size = distance < 0 ? -distance : distance;
      shares[k] = size < 1.0 ? 1.0 - size : 0.0;
      sum += shares[k];
    }
    for (int32_t k = 0; k < f->count[i]; k++) {
      volatile double share = sum != 0.0 ? shares[k] / sum : 0.0;
      f->weights[(ptrdiff_t)i * f->taps + k] = (int32_t)(0.5 + share * (1 << FRACTION_BITS));
    }
  }
  free(shares);
  return !bad;
}

static unsigned char rounded_byte(int32_t sum) {
  const int32_t value = sum >> FRACTION_BITS;
  return (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One row from `in`, which is readable for `taps` values from the first input of each output on, to n values; `quarters`
 * has room for 4 n. The quarters of all sums are added afterwards, several at once. */
static void resample_row(const int32_t *in, unsigned char *out, const filter *f, int32_t n, int32_t *restrict quarters) {
  for (int32_t i = 0; i < n; i++) {
    const int32_t *weights = f->weights + (ptrdiff_t)i * f->taps, *x = in + f->first[i];
    tap_group sums = {1 << (FRACTION_BITS - 1)}, values, factors;
    for (int32_t k = 0; k < f->taps; k += TAP_GROUP) {
      memcpy(&values, x + k, sizeof values);
      memcpy(&factors, weights + k, sizeof factors);
      sums += values * factors;
    }
    half_group low, high;
    memcpy(&low, &sums, sizeof low);
    memcpy(&high, (const char *)&sums + sizeof low, sizeof high);
    low += high;
    memcpy(quarters + 4 * i, &low, sizeof low);
  }
  for (int32_t i = 0; i < n; i++) {
    const int32_t *q = quarters + 4 * i;
    out[i] = rounded_byte(q[0] + q[1] + q[2] + q[3]);
  }
}

/* Output row i from rows of n values that are `stride` apart; `sums` has room for n. */
static void resample_down(const unsigned char *in, ptrdiff_t stride, unsigned char *out, const filter *f, int32_t i,
                          int32_t n, int32_t *restrict sums) {
  const int32_t *weights = f->weights + (ptrdiff_t)i * f->taps;
  for (int32_t x = 0; x < n; x++) sums[x] = 1 << (FRACTION_BITS - 1);
  for (int32_t k = 0; k < f->count[i]; k++) {
    const unsigned char *row = in + (f->first[i] + k) * stride;
    for (int32_t x = 0; x < n; x++) sums[x] += row[x] * weights[k];
  }
  for (int32_t x = 0; x < n; x++) out[x] = rounded_byte(sums[x]);
}

/* An image of `height` rows, each resampled to `n` values; NULL without memory. */
static unsigned char *resample_across(const unsigned char *pixels, int32_t width, int32_t height, ptrdiff_t stride,
                                      int32_t n) {
  filter f = {0};
  int good = make_filter(&f, width, n);
  unsigned char *narrow = malloc((size_t)height * (size_t)n);
  int32_t *padded = calloc((size_t)width + (size_t)f.taps, sizeof *padded); /* a row, readable beyond its end */
  int32_t *quarters = malloc(4 * (size_t)n * sizeof *quarters);
  good = good && narrow && padded && quarters;
  for (int32_t y = 0; y < height && good; y++) {
    const unsigned char *row = pixels + y * stride;
    for (int32_t x = 0; x < width; x++) padded[x] = row[x];
    resample_row(padded, narrow + (ptrdiff_t)y * n, &f, n, quarters);
  }
  free_filter(&f);
  free(padded);
  free(quarters);
  if (!good) {
    free(narrow);
    return NULL;
  }
  return narrow;
}

/* The image on the canvas, resampled across and then down, each rounded to bytes; 0 without memory. */
static int letterbox(unsigned char *canvas, const unsigned char *pixels, int32_t width, int32_t height,
                     ptrdiff_t stride, placement p) {
  const ptrdiff_t row = pn_input_tensor.width;
  unsigned char *content = canvas + p.top * row + p.left;
  unsigned char *narrow = NULL; /* height x p.width */
  memset(canvas, pn_decoding.pad_value, (size_t)(pn_input_tensor.height * row));
  if (p.width != width) {
    narrow = resample_across(pixels, width, height, stride, p.width);
    if (!narrow) return 0;
    pixels = narrow;
    stride = p.width;
  }
  int good = 1;
  if (p.height != height) {
    filter down = {0};
    int32_t *sums = malloc((size_t)p.width * sizeof *sums);
    good = make_filter(&down, height, p.height) && sums;
    for (int32_t y = 0; y < p.height && good; y++) {
      resample_down(pixels, stride, content + y * row, &down, y, p.width, sums);
    }
    free_filter(&down);
    free(sums);
  } else {
    for (int32_t y = 0; y < p.height; y++) memcpy(content + y * row, pixels + y * stride, (size_t)p.width);
  }
  free(narrow);
  return good;
}

static void fill_input(detector *d) {
  const size_t plane = (size_t)pn_input_tensor.height * (size_t)pn_input_tensor.width;
  for (size_t i = 0; i < plane; i++) d->input[i] = d->table[d->canvas[i]];
  for (int32_t c = 1; c < pn_input_tensor.channels; c++) memcpy(d->input + c * plane, d->input, plane * sizeof(float));
}

/* --- decoding -------------------------------------------------------------------------------- */

/* e^x to about 1e-14: a power of two times a polynomial. */
static double exponential(double x) {
  if (x < -700.0) return 0.0;
  const double turns = x * 1.4426950408889634;
  const int64_t power = (int64_t)(turns < 0 ? turns - 0.5 : turns + 0.5);
  const double rest = x - (double)power * 0.6931471805599453;
  double sum = 1.0;
  for (int n = 13; n > 0; n--) sum = 1.0 + sum * rest / n;
  const uint64_t bits = (uint64_t)(power + 1023) << 52;
  double scale;
  memcpy(&scale, &bits, sizeof scale);
  return sum * scale;
}

static float sigmoid(float x) {
  const double small = exponential(x < 0 ? x : -x);
  return (float)((x >= 0 ? 1.0 : small) / (1.0 + small));
}

static float clipped(double value, float limit) {
  const float edge = (float)value;
  return edge < 0 ? 0 : edge > limit ? limit : edge;
}

/* Box of one cell and anchor in pixels of the image. t: x, y, w, h of the head map, `plane` floats apart. */
static void decode_box(const head *h, int anchor, int32_t row, int32_t column, const float *t, size_t plane,
                       placement p, int32_t width, int32_t height, float box[4]) {
  const float *sides = pn_anchors + 2 * (h->first_anchor + anchor);
  float centre[2], size[2];
  for (int axis = 0; axis < 2; axis++) {
    const float place = sigmoid(t[axis * plane]), t_size = t[(2 + axis) * plane];
    const float cell = (float)(axis ? row : column);
    if (h->exponential) {
      centre[axis] = place + cell;
      size[axis] = (float)(sides[axis] * exponential(t_size < MAX_LOG_SIZE ? t_size : MAX_LOG_SIZE));
    } else {
      const float twice = 2 * sigmoid(t_size);
      centre[axis] = 2 * place - 0.5f + cell;
      size[axis] = sides[axis] * (twice * twice);
    }
    centre[axis] *= (float)h->stride;
  }
  const double across = (double)p.width / width, down = (double)p.height / height;
  box[0] = clipped((centre[0] - size[0] * 0.5f - p.left) / across, (float)width);
  box[1] = clipped((centre[1] - size[1] * 0.5f - p.top) / down, (float)height);
  box[2] = clipped((centre[0] + size[0] * 0.5f - p.left) / across, (float)width);
  box[3] = clipped((centre[1] + size[1] * 0.5f - p.top) / down, (float)height);
}

static double area(const float box[4]) {
  const double width = (double)box[2] - box[0], height = (double)box[3] - box[1];
  return width > 0 && height > 0 ? width * height : 0.0;
}

/* Candidates of one head from `n` on; returns their new number. */
static int32_t decode_head(detector *d, const head *h, float gate, placement p, int32_t width, int32_t height,
                           int32_t n) {
  const pn_tensor *map = &pn_output_tensors[h->output];
  const size_t plane = (size_t)map->height * (size_t)map->width;
  const float *values = d->outputs[h->output];
  for (int anchor = 0; anchor < h->n_anchors; anchor++) {
    for (size_t cell = 0; cell < plane; cell++) {
      const float *t = values + (size_t)anchor * (size_t)(5 + h->n_classes) * plane + cell;
      const float objectness = sigmoid(t[4 * plane]);
      if (objectness < pn_decoding.score_floor) continue;
      candidate c = {.class_index = -1};
      decode_box(h, anchor, (int32_t)(cell / (size_t)map->width), (int32_t)(cell % (size_t)map->width), t, plane, p,
                 width, height, c.box);
      if (area(c.box) <= 0) continue;
      for (int32_t i = 0; i < h->n_classes; i++) {
        c.score = gate * (objectness * sigmoid(t[(size_t)(5 + i) * plane]));
        c.class_index = i;
        c.rank = n;
        if (c.score >= pn_decoding.score_floor) d->found[n++] = c;
      }
    }
  }
  return n;
}

/* --- selection ------------------------------------------------------------------------------- */

static int by_score(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->score != y->score) return x->score < y->score ? 1 : -1;
  return (x->rank > y->rank) - (x->rank < y->rank);
}

static int by_class(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return x->class_index != y->class_index ? x->class_index - y->class_index : by_score(a, b);
}

static float overlap(const float a[4], const float b[4]) {
  float shared[4];
  for (int axis = 0; axis < 2; axis++) {
    shared[axis] = a[axis] > b[axis] ? a[axis] : b[axis];
    shared[2 + axis] = a[2 + axis] < b[2 + axis] ? a[2 + axis] : b[2 + axis];
  }
  const double inside = area(shared), all = area(a) + area(b) - inside;
  return all > 0 ? (float)(inside / all) : 0.0f;
}

/* Greedy suppression within each class; the kept ones move to the front, at most max_boxes of a class. */
static int32_t suppress(candidate *found, int32_t n) {
  qsort(found, (size_t)n, sizeof *found, by_class);
  int32_t kept = 0, first = 0; /* first: of the current class among the kept */
  for (int32_t i = 0; i < n; i++) {
    if (kept > first && found[i].class_index != found[first].class_index) first = kept;
    int good = kept - first < pn_decoding.max_boxes;
    for (int32_t k = first; k < kept && good; k++) {
      good = overlap(found[k].box, found[i].box) <= pn_decoding.nms_overlap;
    }
    if (good) {
      found[kept] = found[i];
      found[kept].rank = kept;
      kept++;
    }
  }
  qsort(found, (size_t)kept, sizeof *found, by_score);
  return kept < pn_decoding.max_boxes ? kept : pn_decoding.max_boxes;
}

/* --- the interface --------------------------------------------------------------------------- */

static size_t values_of(const pn_tensor *t) {
  return (size_t)t->channels * (size_t)t->height * (size_t)t->width;
}

void free_detector(detector *d) {
  if (!d) return;
  for (int i = 0; d->outputs && i < pn_n_outputs; i++) free(d->outputs[i]);
  free(d->outputs);
  free(d->sizes);
  free(d->input);
  free(d->canvas);
  free(d->found);
  free(d);
}

static detector *make_detector(void) {
  detector *d = calloc(1, sizeof *d);
  if (!d) return NULL;
  d->threads = 1;
  d->threshold = pn_n_points ? pn_points[0].threshold : pn_decoding.score_floor;
  d->input = malloc(values_of(&pn_input_tensor) * sizeof *d->input);
  d->canvas = malloc((size_t)pn_input_tensor.height * (size_t)pn_input_tensor.width);
  d->outputs = calloc((size_t)pn_n_outputs, sizeof *d->outputs);
  d->sizes = calloc((size_t)pn_n_outputs, sizeof *d->sizes);
  int bad = !d->input || !d->canvas || !d->outputs || !d->sizes;
  for (int i = 0; i < pn_n_outputs && !bad; i++) {
    d->sizes[i] = values_of(&pn_output_tensors[i]);
    bad = !(d->outputs[i] = malloc(d->sizes[i] * sizeof **d->outputs));
  }
  for (int i = 0; i < pn_n_heads; i++) {
    const pn_tensor *map = &pn_output_tensors[pn_heads[i].output];
    d->room += pn_heads[i].n_anchors * pn_heads[i].n_classes * map->height * map->width;
  }
  bad = bad || !(d->found = malloc(((size_t)d->room + 1) * sizeof *d->found));
  if (bad) {
    free_detector(d);
    return NULL;
  }
  for (int i = 0; i < N_INPUTS; i++) d->table[i] = (float)((i / 255.0 - pn_decoding.mean) / pn_decoding.std);
  return d;
}

static detector *detector_with_memory(pn_model *m) {
  detector **d = detector_of(m);
  if (!*d) *d = make_detector();
  return *d;
}

/* Probability of any finding, from the image-level outputs; 1 without one. Negative where a value is not finite. */
static float gate_of(const detector *d) {
  float gate = 1.0f;
  for (int i = 0; i < pn_n_outputs; i++) {
    int is_head = 0;
    for (int h = 0; h < pn_n_heads; h++) is_head |= pn_heads[h].output == i;
    for (size_t k = 0; k < d->sizes[i]; k++) {
      uint32_t bits;
      memcpy(&bits, &d->outputs[i][k], sizeof bits);
      if ((bits & 0x7f800000) == 0x7f800000) return -1.0f;
    }
    if (!is_head) gate *= sigmoid(d->outputs[i][0]);
  }
  return gate;
}

static int is_image(int32_t width, int32_t height, ptrdiff_t stride) {
  return width >= 1 && height >= 1 && width <= PN_MAX_SIDE && height <= PN_MAX_SIDE && stride >= width;
}

EXPORT int pneumonia_detect(pn_model *m, const unsigned char *pixels, int32_t width, int32_t height, ptrdiff_t stride,
                            pn_box *boxes, int32_t capacity) {
  if (!m || !pixels || (!boxes && capacity)) return -PN_NULL;
  if (!is_image(width, height, stride) || capacity < 0) return -PN_WRONG_SIZE;
  if (!pn_n_heads) return -PN_NO_HEADS;
  detector *d = detector_with_memory(m);
  if (!d) return -PN_NO_MEMORY;
  const placement p = place_image(width, height);
  if (!letterbox(d->canvas, pixels, width, height, stride, p)) return -PN_NO_MEMORY;
  fill_input(d);
  const int status = pn_run(m, d->input, values_of(&pn_input_tensor), d->outputs, d->sizes, d->threads);
  if (status) return -status;
  const float gate = gate_of(d);
  if (gate < 0) return -PN_OUTPUT_NOT_FINITE;
  int32_t n = 0;
  for (int i = 0; i < pn_n_heads; i++) n = decode_head(d, &pn_heads[i], gate, p, width, height, n);
  n = suppress(d->found, n);
  int32_t shown = 0;
  while (shown < n && d->found[shown].score >= d->threshold) shown++;
  for (int32_t i = 0; i < shown && i < capacity; i++) {
    const candidate *c = &d->found[i];
    boxes[i] = (pn_box){c->box[0], c->box[1], c->box[2], c->box[3], c->score, c->class_index};
  }
  return shown;
}

EXPORT int pn_letterbox(const unsigned char *pixels, int32_t width, int32_t height, ptrdiff_t stride,
                        unsigned char *canvas) {
  if (!pixels || !canvas) return PN_NULL;
  if (!is_image(width, height, stride)) return PN_WRONG_SIZE;
  return letterbox(canvas, pixels, width, height, stride, place_image(width, height)) ? PN_OK : PN_NO_MEMORY;
}

EXPORT int pn_set_threads(pn_model *m, int threads) {
  if (!m) return PN_NULL;
  if (threads < 1 || threads > PN_MAX_THREADS) return PN_WRONG_THREADS;
  detector *d = detector_with_memory(m);
  if (!d) return PN_NO_MEMORY;
  d->threads = threads;
  return PN_OK;
}

EXPORT int pn_set_threshold(pn_model *m, float threshold) {
  if (!m) return PN_NULL;
  if (!(threshold >= 0.0f && threshold <= 1.0f)) return PN_WRONG_THRESHOLD;
  detector *d = detector_with_memory(m);
  if (!d) return PN_NO_MEMORY;
  d->threshold = threshold;
  return PN_OK;
}

EXPORT int pn_operating_point_count(void) { return pn_n_points; }
EXPORT const char *pn_operating_point_name(int i) { return i < 0 || i >= pn_n_points ? NULL : pn_points[i].name; }
EXPORT float pn_operating_point_threshold(int i) { return i < 0 || i >= pn_n_points ? -1.0f : pn_points[i].threshold; }
EXPORT int pn_class_count(void) { return pn_n_classes; }
EXPORT const char *pn_class_name(int i) { return i < 0 || i >= pn_n_classes ? NULL : pn_classes[i]; }
