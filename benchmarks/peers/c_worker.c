/* Opens a bundle, answers a clip, and says how long that took; then answers it as often as each line of stdin says.
 * c_worker BUNDLE CLIP.f32 ONNXRUNTIME */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "spoter/spoter.h"

static double now_ms(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* Not ru_maxrss: it begins with the memory of the process that started this one. */
static double peak_mb(void) {
  char line[256];
  long kilobytes = 0;
  FILE *status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &kilobytes);
  if (status) fclose(status);
  return (double)kilobytes * 1024 / 1e6;
}

int main(int argc, char **argv) {
  static float landmarks[299 * SPOTER_FEATURES];
  spoter_options options = SPOTER_OPTIONS_INIT;
  spoter_recognizer *recognizer = NULL;
  spoter_prediction prediction;
  spoter_clip clip = {landmarks, 0, NULL};
  double begin = now_ms(CLOCK_MONOTONIC);
  int count;
  FILE *file;

  if (argc < 4) return 2;
  options.onnxruntime = argv[3];
  options.threads = 1;
  file = fopen(argv[2], "rb");
  if (!file) return 2;
  clip.frames = fread(landmarks, sizeof(float), 299 * SPOTER_FEATURES, file) / SPOTER_FEATURES;
  fclose(file);
  if (spoter_recognizer_create(argv[1], &options, &recognizer) != SPOTER_OK ||
      spoter_predict(recognizer, &clip, &prediction, NULL) != SPOTER_OK) {
    fprintf(stderr, "%s\n", spoter_error_message());
    return 1;
  }
  begin = now_ms(CLOCK_MONOTONIC) - begin;
  printf("{\"wall_ms\": %.3f, \"cpu_ms\": %.3f, \"peak_mb\": %.2f, \"label\": \"%s\"}\n", begin,
         now_ms(CLOCK_PROCESS_CPUTIME_ID), peak_mb(), prediction.name);
  fflush(stdout);
  while (scanf("%d", &count) == 1) {
    double cpu = now_ms(CLOCK_PROCESS_CPUTIME_ID);
    int i;
    for (i = 0; i < count; ++i)
      if (spoter_predict(recognizer, &clip, &prediction, NULL) != SPOTER_OK) return 1;
    printf("%.6f\n", (now_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu) / count);
    fflush(stdout);
  }
  spoter_recognizer_destroy(recognizer);
  return 0;
}
