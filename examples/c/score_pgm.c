/* Finds lung opacity in a grey image with a generated network, from C alone.
 *
 *   pneumonia kernels BUNDLE --target native
 *   gcc score_pgm.c -o score_pgm $(PKG_CONFIG_PATH=BUNDLE/kernels-native pkg-config --cflags --libs pneumonia_model)
 *   ./score_pgm image.pgm            (8-bit binary PGM, dense tissue bright; 2 threads: ./score_pgm image.pgm 2)
 *
 * One line per box: x1 y1 x2 y2 score class, in pixels of the image. No line: nothing at or above the threshold.
 * Exit codes: 0 done, 2 usage or not a PGM, 10 the library failed. Research use only. Not a medical device.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "pneumonia_model.h"

#define CAPACITY 100

/* A number of the header; comments run from # to the end of the line. Negative when there is none. */
static int header_number(FILE *file) {
  int c = fgetc(file), value = 0, digits = 0;
  while (c == '#' || isspace(c)) {
    while (c == '#' && (c = fgetc(file)) != '\n' && c != EOF) c = '#';
    c = fgetc(file);
  }
  for (; isdigit(c); c = fgetc(file), digits++) {
    if (value > PN_MAX_SIDE) return -1;
    value = 10 * value + (c - '0');
  }
  return digits && isspace(c) ? value : -1; /* one blank follows each number */
}

static unsigned char *read_pgm(const char *path, int *width, int *height) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  unsigned char *pixels = NULL;
  if (fgetc(file) == 'P' && fgetc(file) == '5') {
    *width = header_number(file);
    *height = header_number(file);
    const int white = header_number(file);
    if (*width > 0 && *height > 0 && white == 255) {
      const size_t bytes = (size_t)*width * (size_t)*height;
      pixels = malloc(bytes);
      if (pixels && fread(pixels, 1, bytes, file) != bytes) {
        free(pixels);
        pixels = NULL;
      }
    }
  }
  fclose(file);
  return pixels;
}

int main(int argc, char **argv) {
  int width = 0, height = 0;
  unsigned char *pixels = argc > 1 ? read_pgm(argv[1], &width, &height) : NULL;
  if (!pixels) {
    fprintf(stderr, "error: %s: expected an 8-bit binary PGM (P5, largest value 255, whole)\n",
            argc > 1 ? argv[1] : "no IMAGE.pgm");
    return 2;
  }
  pn_model *model = pn_create();
  int found = model ? -pn_set_threads(model, argc > 2 ? atoi(argv[2]) : 1) : -PN_NO_MEMORY;
  pn_box boxes[CAPACITY];
  if (!found) found = pneumonia_detect(model, pixels, width, height, width, boxes, CAPACITY);
  if (found < 0) fprintf(stderr, "error: %s\n", pn_error_text(found));
  for (int i = 0; i < found && i < CAPACITY; i++) {
    const pn_box *b = &boxes[i];
    const char *name = pn_class_name(b->class_index);
    printf("%.3f %.3f %.3f %.3f %.6f %s\n", (double)b->x1, (double)b->y1, (double)b->x2, (double)b->y2,
           (double)b->score, name ? name : "-");
  }
  pn_destroy(model);
  free(pixels);
  return found < 0 ? 10 : 0;
}
