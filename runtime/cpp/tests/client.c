/* A program in C99 that opens a bundle and answers a clip, a stream of its frames, and a black picture where the bundle
 * has a landmarker: client BUNDLE CLIP.f32 [ONNXRUNTIME] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "spoter/spoter.h"

static int failed(spoter_status status) {
  fprintf(stderr, "error %d: %s. Fix: %s\n", (int)status, spoter_error_message(), spoter_error_fix());
  return 1;
}

static void look(const char *bundle, const spoter_options *options) {
  static const uint8_t rgb[48 * 64 * 3];
  float landmarks[SPOTER_FEATURES];
  spoter_landmarker *landmarker = NULL;
  spoter_status status = spoter_landmarker_create(bundle, options, &landmarker);
  if (status == SPOTER_OK) status = spoter_landmarker_accept(landmarker, rgb, 48, 64, 0, NAN, landmarks);
  if (status == SPOTER_OK) printf("%d persons, %d\n", spoter_landmarker_persons(landmarker), isnan(landmarks[0]) != 0);
  else printf("%s\n", spoter_error_message());
  spoter_landmarker_destroy(landmarker);
}

int main(int argc, char **argv) {
  spoter_options options = SPOTER_OPTIONS_INIT;
  spoter_recognizer *recognizer = NULL;
  spoter_prediction prediction;
  spoter_clip clip = {NULL, 0, "the clip"};
  spoter_stream *stream = NULL;
  spoter_event event = {0};
  size_t frame;
  spoter_replay replay;
  spoter_status status;
  float *landmarks;
  size_t count;
  FILE *file;

  if (argc < 3) return 2;
  if (argc > 3) options.onnxruntime = argv[3];
  options.threads = 1;
  status = spoter_verify(argv[1], &options, &replay);
  if (status != SPOTER_OK) return failed(status);
  printf("%s: %lu of %lu goldens agree\n", replay.passed ? "verified" : "NOT VERIFIED",
         (unsigned long)replay.labels_agree, (unsigned long)replay.clips);

  status = spoter_recognizer_create(argv[1], &options, &recognizer);
  if (status != SPOTER_OK) return failed(status);
  landmarks = malloc(sizeof(float) * SPOTER_FEATURES * spoter_recognizer_max_frames(recognizer));
  file = fopen(argv[2], "rb");
  if (!landmarks || !file) return 2;
  count = fread(landmarks, sizeof(float), SPOTER_FEATURES * spoter_recognizer_max_frames(recognizer), file);
  fclose(file);
  clip.landmarks = landmarks;
  clip.frames = count / SPOTER_FEATURES;
  status = spoter_predict(recognizer, &clip, &prediction, NULL);
  if (status != SPOTER_OK) {
    spoter_recognizer_destroy(recognizer);
    free(landmarks);
    return failed(status);
  }
  printf("%s %.6f %s\n", prediction.name, prediction.score, isnan(prediction.probability) ? "-" : "calibrated");

  status = spoter_stream_create(recognizer, "push", "{\"tracking_ms\": 0, \"partial_ms\": 0}", &stream);
  if (status == SPOTER_OK) status = spoter_stream_push(stream, 1);
  for (frame = 0; status == SPOTER_OK && frame < clip.frames; ++frame)
    status = spoter_stream_accept_landmarks(stream, landmarks + frame * SPOTER_FEATURES, frame * 1000.0 / 30, 0, -1);
  if (status == SPOTER_OK) status = spoter_stream_flush(stream);
  while (status == SPOTER_OK && (status = spoter_stream_next_event(stream, &event)) == SPOTER_OK && event.type)
    printf("%s %s\n", event.type, event.label ? event.label : "-");
  if (status != SPOTER_OK) failed(status);
  look(argv[1], &options);
  spoter_stream_destroy(stream);
  spoter_recognizer_destroy(recognizer);
  free(landmarks);
  return replay.passed ? 0 : 3;
}
