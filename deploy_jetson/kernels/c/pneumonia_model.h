/* The generated network as a C library: no dependency but libc and pthread.
 *
 * A model instance belongs to one caller at a time; different instances may run at once.
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

/* A float32 tensor (channels, height, width), row-major. */
typedef struct {
  const char *name;
  int32_t channels, height, width;
} pn_tensor;

enum {
  PN_OK = 0,
  PN_WRONG_SIZE = 1,   /* an input or output buffer has another number of values */
  PN_WRONG_THREADS = 2, /* threads outside 1..PN_MAX_THREADS */
  PN_NO_MEMORY = 3,
  PN_NO_THREAD = 4,    /* the system refused a thread */
  PN_NULL = 5,         /* a pointer is missing */
  PN_NOT_FINITE = 6    /* the input holds NaN or infinity */
};
#define PN_MAX_THREADS 64

int pn_abi(void);
const char *pn_target(void);     /* target the library was generated for */
const char *pn_cpu_features(void); /* flags /proc/cpuinfo must show, separated by spaces */
const char *pn_model_hash(void); /* hash of the bundle it was generated from */
const char *pn_error_text(int status);

/* Descriptors; they live as long as the library. */
const pn_tensor *pn_input(void);
int pn_output_count(void);
const pn_tensor *pn_output(int index); /* NULL outside 0..count-1 */

/* NULL when memory is short. */
pn_model *pn_create(void);

/* Run one image of finite values. `outputs[i]` receives `output_values[i]` floats; both arrays have pn_output_count() entries.
 * With more than one thread, the caller's thread and its helpers are pinned to different cores for the call. */
int pn_run(pn_model *model, const float *input, size_t input_values, float *const *outputs,
           const size_t *output_values, int threads);
void pn_destroy(pn_model *model);

/* Memory of one instance in bytes, without the weights. */
size_t pn_working_bytes(void);

/* The plan's steps, for reports: run once on one thread, CPU seconds of every step. */
int pn_step_count(void);
const char *pn_step_name(int index);
int pn_profile(pn_model *model, const float *input, size_t input_values, double *seconds);

#ifdef __cplusplus
}
#endif
#endif
