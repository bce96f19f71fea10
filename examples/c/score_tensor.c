/* Runs a generated network from C: one float32 image in, every output's largest value out.
 *
 *   pneumonia kernels BUNDLE --target native
 *   gcc -IBUNDLE/kernels-native score_tensor.c -o score_tensor BUNDLE/libmodel-native.so -Wl,-rpath,BUNDLE
 *   ./score_tensor image.f32 2        (channels x height x width float32 values, 2 threads)
 *
 * Research use only. Not a medical device.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pneumonia_model.h"

static size_t values(const pn_tensor *t) {
  return (size_t)t->channels * (size_t)t->height * (size_t)t->width;
}

int main(int argc, char **argv) {
  const int threads = argc > 2 ? atoi(argv[2]) : 1, n_outputs = pn_output_count();
  const size_t n = values(pn_input());
  float *image = malloc(n * sizeof *image);
  float **outputs = calloc((size_t)n_outputs, sizeof *outputs);
  size_t *sizes = calloc((size_t)n_outputs, sizeof *sizes);
  FILE *file = argc > 1 ? fopen(argv[1], "rb") : NULL;
  if (pn_abi() != PN_ABI || !image || !outputs || !sizes) return 2;
  if (!file || fread(image, sizeof *image, n, file) != n) {
    fprintf(stderr, "error: expected a file of %zu float32 values\n", n);
    return 2;
  }
  fclose(file);
  for (int i = 0; i < n_outputs; i++) {
    sizes[i] = values(pn_output(i));
    if (!(outputs[i] = malloc(sizes[i] * sizeof **outputs))) return 2;
  }
  pn_model *model = pn_create();
  if (!model) return 2;
  const int status = pn_run(model, image, n, outputs, sizes, threads);
  if (status) fprintf(stderr, "error: %s\n", pn_error_text(status));
  for (int i = 0; i < n_outputs && !status; i++) {
    const pn_tensor *t = pn_output(i);
    float largest = outputs[i][0];
    for (size_t k = 1; k < sizes[i]; k++) largest = outputs[i][k] > largest ? outputs[i][k] : largest;
    printf("%s (%d, %d, %d) largest %.6g\n", t->name, t->channels, t->height, t->width, (double)largest);
  }
  pn_destroy(model);
  for (int i = 0; i < n_outputs; i++) free(outputs[i]);
  free(outputs);
  free(sizes);
  free(image);
  return status ? 10 : 0;
}
