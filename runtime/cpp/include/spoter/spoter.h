/*
 * spoter.h: recognise signs in clips of landmarks, from C99 or C++.
 *
 * Every function that can fail returns a status. After a failure spoter_error_message() says what is wrong and where,
 * and spoter_error_fix() what to do; both are of the calling thread and stay valid until its next call.
 * A recogniser may be used by several threads at once. A process that forks creates its own after the fork.
 */
#ifndef SPOTER_SPOTER_H
#define SPOTER_SPOTER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SPOTER_API __attribute__((visibility("default")))
#else
#define SPOTER_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define SPOTER_LANDMARKS 54 /* of a frame: 12 of the body, 21 of the left hand, 21 of the right hand */
#define SPOTER_FEATURES 108 /* x0 y0 x1 y1 ... */

/* The names of Python's errors: InputError, BundleError, ... */
typedef enum spoter_status {
  SPOTER_OK = 0,
  SPOTER_INPUT_ERROR = 1,          /* a clip or an argument that the model does not take */
  SPOTER_BUNDLE_ERROR = 2,         /* a bundle that is missing, damaged, foreign or too new */
  SPOTER_BACKEND_ERROR = 3,        /* ONNX Runtime cannot load or run the file */
  SPOTER_NOT_FINITE_ERROR = 4,     /* it ran, and its logits are no numbers */
  SPOTER_MISSING_ENGINE_ERROR = 5, /* ONNX Runtime is not there */
  SPOTER_MEMORY_ERROR = 6,
  SPOTER_INTERNAL_ERROR = 7, /* a defect of this library */
  SPOTER_CONFIG_ERROR = 8    /* a setting that does not exist or is out of range */
} spoter_status;

/* How to open a bundle. Begin with SPOTER_OPTIONS_INIT; a pointer that is NULL means the default. */
typedef struct spoter_options {
  size_t size;             /* sizeof(spoter_options): newer libraries may know more fields */
  const char *onnxruntime; /* ONNX Runtime's library; default: $SPOTER_ONNXRUNTIME, or libonnxruntime.so.1 */
  const char *backend;     /* "ort-cpu-fused" or "ort-cpu"; default: the first of them that works here */
  const char *precision;   /* default: "fp32" */
  int threads;             /* inside one operator; 0: one per core */
  int resample;            /* not 0: shorten a clip that is longer than the model takes, instead of refusing it */
} spoter_options;
#define SPOTER_OPTIONS_INIT {sizeof(spoter_options), NULL, NULL, NULL, 0, 0}

/* One label; all texts are UTF-8, and belong to the recogniser. */
typedef struct spoter_label {
  const char *name;
  const char *gloss;
  const char *bengali;
  const char *romanised;
} spoter_label;

/* frames x 54 x 2 floats: x and y in image coordinates, NaN or (0, 0) where a landmark was not detected. */
typedef struct spoter_clip {
  const float *landmarks;
  size_t frames;
  const char *name; /* how an error names it; NULL: "clip", or "clip 3" of several */
} spoter_clip;

typedef struct spoter_prediction {
  size_t label;       /* index of the best label, for spoter_recognizer_label */
  const char *name;   /* its name; belongs to the recogniser */
  double score;       /* its softmax value, 0..1; not calibrated: use it to rank */
  double probability; /* calibrated; NaN where the bundle holds no calibration */
  int is_sign;        /* 1: a sign that the model knows; 0: none; -1: the bundle holds no calibration */
  double latency_ms;  /* of this clip's inference, or of its whole batch */
  char reason[256];   /* why it is no sign, or why nothing is known of that; empty for a sign */
} spoter_prediction;

/* The result of the golden test: stored inputs with PyTorch's answers, run here. */
typedef struct spoter_replay {
  int passed;
  size_t files; /* whose hash was checked */
  size_t clips;
  size_t labels_agree;
  double max_logit_diff; /* over the finite answers; NaN where there is none */
  double tolerance;      /* the largest difference that the bundle allows */
} spoter_replay;

typedef struct spoter_recognizer spoter_recognizer;

SPOTER_API const char *spoter_version(void);
SPOTER_API const char *spoter_error_message(void);
SPOTER_API const char *spoter_error_fix(void);

/* Open a bundle folder, or a lone .onnx file of one; options may be NULL. Free it with spoter_recognizer_destroy. */
SPOTER_API spoter_status spoter_recognizer_create(const char *path, const spoter_options *options,
                                                  spoter_recognizer **recognizer);
SPOTER_API void spoter_recognizer_destroy(spoter_recognizer *recognizer);

SPOTER_API const char *spoter_recognizer_backend(const spoter_recognizer *recognizer);
SPOTER_API const char *spoter_recognizer_file(const spoter_recognizer *recognizer);        /* in the bundle */
SPOTER_API const char *spoter_recognizer_onnxruntime(const spoter_recognizer *recognizer); /* its version */
SPOTER_API size_t spoter_recognizer_max_frames(const spoter_recognizer *recognizer);
SPOTER_API size_t spoter_recognizer_max_batch(const spoter_recognizer *recognizer);
SPOTER_API size_t spoter_recognizer_label_count(const spoter_recognizer *recognizer);
/* All texts of a label are empty where there is no label of that index. */
SPOTER_API spoter_label spoter_recognizer_label(const spoter_recognizer *recognizer, size_t index);

/* Recognise one clip. logits may be NULL, or has room for one float a label. */
SPOTER_API spoter_status spoter_predict(const spoter_recognizer *recognizer, const spoter_clip *clip,
                                        spoter_prediction *prediction, float *logits);
/* Recognise many clips, in batches of similar lengths; nothing is recognised where one of them is refused. */
SPOTER_API spoter_status spoter_predict_many(const spoter_recognizer *recognizer, const spoter_clip *clips,
                                             size_t count, spoter_prediction *predictions, float *logits);
/* Run a padded batch: poses are batch x frames x 108, lengths the real frames of each clip, or NULL for all. */
SPOTER_API spoter_status spoter_infer(const spoter_recognizer *recognizer, const float *poses, const int32_t *lengths,
                                      size_t batch, size_t frames, float *logits);

/* Check the hash of every file of a bundle and replay its goldens here. OK also where they differ: see passed. */
SPOTER_API spoter_status spoter_verify(const char *path, const spoter_options *options, spoter_replay *replay);

/*
 * A landmarker: the frames of a video, one after the other, to the 54 landmarks of a person. For one video and one
 * thread at a time.
 */
typedef struct spoter_landmarker spoter_landmarker;

/* The largest differences from the stored answers of each graph, relative to values above 1. */
typedef struct spoter_landmarker_replay {
  int passed;
  double pose_detection, pose, recrop, hand;
  double tolerance;
} spoter_landmarker_replay;

/*
 * Open the landmarker in a bundle (spoter-kit export --camera), or in a folder of its own (spoter-kit landmarker
 * fetch). Of the options onnxruntime and threads are used; here 0 threads mean one. options may be NULL. Free it with
 * spoter_landmarker_destroy.
 */
SPOTER_API spoter_status spoter_landmarker_create(const char *path, const spoter_options *options,
                                                  spoter_landmarker **landmarker);
SPOTER_API void spoter_landmarker_destroy(spoter_landmarker *landmarker);
/* Forget the frames before: the next one belongs to another video. */
SPOTER_API spoter_status spoter_landmarker_reset(spoter_landmarker *landmarker);
/*
 * Find the landmarks in the next frame. rgb: height rows of width x 3 bytes, `stride` bytes from row to row; 0: without
 * gaps. t_ms: when it was taken, a microsecond or more after the one before; NaN: 1/30 s after it, as models are
 * trained. landmarks: has room for 54 x 2 floats, which become 0..1 of the frame, and NaN where a landmark was not
 * detected.
 */
SPOTER_API spoter_status spoter_landmarker_accept(spoter_landmarker *landmarker, const uint8_t *rgb, size_t height,
                                                  size_t width, size_t stride, double t_ms, float *landmarks);
/* How many were seen when the body was last looked for: 0, 1, or 2 for more than one. The largest is followed. */
SPOTER_API int spoter_landmarker_persons(const spoter_landmarker *landmarker);
SPOTER_API const char *spoter_landmarker_sha256(const spoter_landmarker *landmarker); /* names it */
/* Check the hashes of a landmarker's files and replay its goldens here. OK also where they differ: see passed. */
SPOTER_API spoter_status spoter_landmarker_verify(const char *path, const spoter_options *options,
                                                  spoter_landmarker_replay *replay);

/*
 * A stream: frames of landmarks with their times go in, events come out. It has no clock and starts no thread: the same
 * frames with the same times give the same events. One thread at a time: a call from another one is refused until
 * spoter_stream_reset. Memory is bounded by the longest sign.
 */
typedef struct spoter_stream spoter_stream;

/* An event, as docs/reference/events.md describes it. NaN or NULL: this type of event has no such field. */
typedef struct spoter_event {
  const char *type; /* "ready", "tracking", "sign_start", "partial", "sign", "abstain", "dropped" or "fault" */
  double t_ms;      /* time of the frame with which the stream knew it */
  double start_ms;  /* of the segment */
  double end_ms;
  double score;       /* softmax value of the best label; not calibrated */
  double probability; /* calibrated */
  const char *label;  /* name of the best label */
  const char *code;   /* why there is no answer, or what is wrong; for programs */
  const char *reason; /* the same for people */
  const char *json;   /* all of it: the same JSON object as in Python, in one line */
} spoter_event;

/*
 * gate: "rest" finds signs between rests, "window" without rests, "push" where spoter_stream_push says; NULL: "rest".
 * settings: a JSON object with names as in Python's StreamSettings, {"rest_ms": 120}; NULL: the defaults.
 * The recogniser must outlive the stream. Free it with spoter_stream_destroy.
 */
SPOTER_API spoter_status spoter_stream_create(const spoter_recognizer *recognizer, const char *gate,
                                              const char *settings, spoter_stream **stream);
SPOTER_API void spoter_stream_destroy(spoter_stream *stream);
/* Forget everything: another video begins, or another thread takes over. */
SPOTER_API spoter_status spoter_stream_reset(spoter_stream *stream);
/* Say that a sign begins (1) or ends (0) with the next frame; for the gate "push". */
SPOTER_API spoter_status spoter_stream_push(spoter_stream *stream, int signing);
/*
 * Take the next frame: 54 x 2 floats, NaN or (0, 0) where a landmark was not detected. t_ms: when it was taken, later
 * than the one before. dropped: frames that the source dropped before it. persons: in it, or -1 where that is not
 * known. What is wrong with a frame or its time becomes an event.
 */
SPOTER_API spoter_status spoter_stream_accept_landmarks(spoter_stream *stream, const float *landmarks, double t_ms,
                                                        size_t dropped, int persons);
/* End what goes on: no frame will come any more. */
SPOTER_API spoter_status spoter_stream_flush(spoter_stream *stream);
/* Take the next event; its type is NULL where none waits. Its texts are valid until the next call of this function. Of
 * more than 4096 events that wait the older ones are lost, but not "ready". */
SPOTER_API spoter_status spoter_stream_next_event(spoter_stream *stream, spoter_event *event);

#ifdef __cplusplus
}
#endif
#endif
