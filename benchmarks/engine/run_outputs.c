/* Runs a generated network: float32 image file in, all outputs one after another out. */
#include <stdio.h>
#include <stdlib.h>

#include "pneumonia_model.h"

static size_t values(const pn_tensor *t) {
  return (size_t)t->channels * (size_t)t->height * (size_t)t->width;
}

int main(int argc, char **argv) {
  const size_t n = values(pn_input());
  const int n_outputs = pn_output_count();
  float *image = malloc(n * sizeof *image);
  float **outputs = calloc((size_t)n_outputs, sizeof *outputs);
  size_t *sizes = calloc((size_t)n_outputs, sizeof *sizes);
  FILE *in = argc > 2 ? fopen(argv[1], "rb") : NULL, *out = in ? fopen(argv[2], "wb") : NULL;
  pn_model *model = pn_create();
  if (!image || !outputs || !sizes || !in || !out || !model || fread(image, sizeof *image, n, in) != n) return 2;
  for (int i = 0; i < n_outputs; i++) {
    sizes[i] = values(pn_output(i));
    if (!(outputs[i] = malloc(sizes[i] * sizeof **outputs))) return 2;
  }
  const int status = pn_run(model, image, n, outputs, sizes, 1);
  for (int i = 0; i < n_outputs && !status; i++) {
    if (fwrite(outputs[i], sizeof **outputs, sizes[i], out) != sizes[i]) return 2;
  }
  return fclose(out) || status ? 1 : 0;
}
