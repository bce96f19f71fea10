/* A generated network as a C library: no dependency but libc and pthread.
 *
 * pneumonia_detect() takes grey pixels and gives boxes; it is all that most programs need. pn_run() is the bare network.
 * examples/c/score_pgm.c of the project uses the first, examples/c/score_tensor.c the second.
 *
 *   Threads    Each instance (pn_create) belongs to one caller at a time; different instances may run at once, in any
 *              threads, and share the weights. No function may be called on an instance while another runs on it.
 *              A run on n threads makes n - 1 helpers once, which sleep between runs; with n > 1 the caller and the
 *              helpers are pinned to different cores for the time of the call: the fastest of one kind that
 *              the caller may use and no other instance, of any process, has taken (pn_cpus). No signal handlers, no global state.
 *   Lifetime   What pn_create gives lives until pn_destroy, which frees its memory and ends its helpers. Every pointer
 *              to a text or a descriptor lives as long as the library. Nothing of the caller's is kept after a call.
 *   Errors     Functions never print, exit or raise. pn_error_text gives the text of a status, positive or negative.
 *   Determinism  The same library and pixels give the same boxes, bit for bit, on any number of threads.
 *
 * Research use only. Not a medical device.
 */
#ifndef PNEUMONIA_MODEL_H
#define PNEUMONIA_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PN_ABI 1

typedef struct pn_model pn_model;

enum {
  PN_OK = 0,
  PN_WRONG_SIZE = 1,    /* a buffer has another number of values, or width, height, stride or capacity do not fit */
  PN_WRONG_THREADS = 2, /* threads outside 1..PN_MAX_THREADS */
  PN_NO_MEMORY = 3,
  PN_NO_THREAD = 4,     /* the system refused a thread */
  PN_NULL = 5,          /* a pointer is missing */
  PN_NOT_FINITE = 6,    /* the input of pn_run holds NaN or infinity */
  PN_OUTPUT_NOT_FINITE = 7, /* the network's output does: the weights do not suit the image; no result */
  PN_NO_HEADS = 8,      /* the network is not a detector: use pn_run */
  PN_WRONG_THRESHOLD = 9 /* threshold outside 0..1 */
};
#define PN_MAX_THREADS 64
#define PN_MAX_SIDE 65535 /* of an image, in pixels */

int pn_abi(void);                  /* PN_ABI of the header the library was made with */
const char *pn_target(void);       /* target the library was generated for */
const char *pn_cpu_features(void); /* flags /proc/cpuinfo must show, separated by spaces; without them it would crash */
const char *pn_model_hash(void);   /* hash of the bundle it was generated from */
const char *pn_error_text(int status);

/* An instance; NULL when memory is short. pn_destroy(NULL) does nothing. */
pn_model *pn_create(void);
void pn_destroy(pn_model *model);

/* --- detection ------------------------------------------------------------------------------- */

/* A box: left, top, right, bottom edge in pixels of the image as given, 0, 0 being the outer corner of its first pixel;
 * 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height. `score` is the model's, 0..1, not a calibrated probability. */
typedef struct {
  float x1, y1, x2, y2, score;
  int32_t class_index; /* see pn_class_name */
} pn_box;

/* Find boxes in one grey image.
 *
 *   pixels    height rows of width bytes, 0..255, dense tissue bright (invert MONOCHROME1 and apply the window before).
 *             Row y begins at pixels + y * stride; the bytes from width to stride are not read.
 *   width, height   1..PN_MAX_SIDE; any aspect: the image is scaled to fit the network's input and centred on it.
 *   stride    bytes from one row to the next, at least width.
 *   boxes     receives the boxes at or above the threshold, by descending score.
 *   capacity  room in boxes; 0 with boxes == NULL only counts.
 *
 * Returns the number of boxes found, 0 for none. It may exceed capacity: then the `capacity` best were written. At most
 * 100 are found. Returns a negative status (-PN_NO_MEMORY ...) on an error; boxes are not touched then.
 * The first call allocates; an image of another size needs height times the scaled width bytes for the call. */
int pneumonia_detect(pn_model *model, const unsigned char *pixels, int32_t width, int32_t height, ptrdiff_t stride,
                     pn_box *boxes, int32_t capacity);

/* The network's canvas of an image, before its grey values become those of pn_run: height x width bytes of pn_input(),
 * the image scaled and centred as pneumonia_detect does it. Returns a status. */
int pn_letterbox(const unsigned char *pixels, int32_t width, int32_t height, ptrdiff_t stride, unsigned char *canvas);

/* For pneumonia_detect. Threads of one run, 1 by default. Threshold, by default that of operating point 0;
 * 0 shows everything from the score 0.01 on. Both return a status. */
int pn_set_threads(pn_model *model, int threads);
int pn_set_threshold(pn_model *model, float threshold);

/* The bundle's operating points when the library was generated; the default is number 0. Outside 0..count-1: NULL, -1. */
int pn_operating_point_count(void);
const char *pn_operating_point_name(int index);
float pn_operating_point_threshold(int index);

int pn_class_count(void);
const char *pn_class_name(int index); /* UTF-8; NULL outside 0..count-1 */

/* --- the bare network ------------------------------------------------------------------------ */

/* A float32 tensor (channels, height, width), row-major. */
typedef struct {
  const char *name;
  int32_t channels, height, width;
} pn_tensor;

const pn_tensor *pn_input(void);
int pn_output_count(void);
const pn_tensor *pn_output(int index); /* NULL outside 0..count-1 */

/* Run one image of finite values. `outputs[i]` receives `output_values[i]` floats; both arrays have pn_output_count()
 * entries. Returns a status. */
int pn_run(pn_model *model, const float *input, size_t input_values, float *const *outputs,
           const size_t *output_values, int threads);

/* Memory of one instance in bytes, without the weights and without what pneumonia_detect needs besides. */
size_t pn_working_bytes(void);

/* The CPUs of a run on so many threads, chosen once: cpus[0] is the caller's, for the time of the call. Returns how
 * many were written, 0 where nothing is pinned (one thread, or one CPU), or a negative status. */
int pn_cpus(pn_model *model, int threads, int *cpus);

/* The plan's steps, for reports: run once on one thread, CPU seconds of every step. */
int pn_step_count(void);
const char *pn_step_name(int index);
int pn_profile(pn_model *model, const float *input, size_t input_values, double *seconds);

#ifdef __cplusplus
}
#endif
#endif
